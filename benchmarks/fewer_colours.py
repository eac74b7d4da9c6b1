"""Makes screenshots for the docs smaller, with a palette of 256 colours; takes the names of PNG files."""

import sys

from PIL import Image

if __name__ == "__main__":
    for name in sys.argv[1:]:
        with Image.open(name) as image:
            picture = image.convert("RGB")
        palette = picture.quantize(256, Image.Quantize.MAXCOVERAGE)
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(name, optimize=True)
