"""A picture that somebody points at: of no dataset, so that nothing says what size it has to be."""

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from headimpact.data.images import MAX_PIXELS
from headimpact.data.memory import rgb
from headimpact.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP")


def open_picture(path: Path) -> Image.Image:
    """A picture in RGB, upright: turned as its EXIF says, as a served model does.

    Raises:
        InputError: it is missing, of another format, damaged or truncated, of more than ``MAX_PIXELS``, or of more than
            8 bits a channel.
    """
    if not path.is_file():  # opening what is no plain file (a pipe) could wait forever
        raise InputError(f"There is no image {path}.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(path)
            return rgb(ImageOps.exif_transpose(image), str(path))
    except UnidentifiedImageError:
        raise InputError(f"{path} is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image: convert it.") from None
    except Image.DecompressionBombError:  # Pillow's own limit, before ours
        raise _too_large(path) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is damaged or truncated ({error}).") from None


def _too_large(path: Path) -> InputError:
    return InputError(f"{path} has more than {MAX_PIXELS // 10**6} megapixels: make it smaller.")
