"""Opening images: the formats, sizes and depths that are taken, and nothing that a header claims believed."""

import hashlib
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from headimpact.data.problems import DataError, Problem

FORMATS = ("PNG", "JPEG")
DEEP = ("I", "F")
"""Pillow's modes of more than 8 bits a channel: as RGB they would be white."""
MAX_PIXELS = 50_000_000

_ORIENTATION = 0x0112  # EXIF
_RESTORE = "Put the whole file back, or leave the image out."


def open_image(path: Path, size: tuple[int, int]) -> Image.Image:
    """The image in RGB, fully decoded.

    Args:
        path: a PNG or JPEG file.
        size: width and height that its annotations say.

    Raises:
        DataError: it is missing, neither PNG nor JPEG, damaged or truncated, of more than ``MAX_PIXELS``, of more than
            8 bits a channel, or of another size.
    """
    with _open_header(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise too_large(path)
        if image.size != size:
            what = f"is {image.width}x{image.height} pixels, its annotations are for {size[0]}x{size[1]}"
            if image.getexif().get(_ORIENTATION, 1) > 1:
                what += " (its EXIF turns it, which is not applied)"
            raise DataError(Problem(path, "", what, "Correct width and height, or the image."))
        if image.mode.startswith(DEEP):
            raise DataError(Problem(path, "", "has more than 8 bits a channel", "Save it with 8 bits."))
        try:
            return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(path, error) from None


def _open_header(path: Path) -> Image.Image:
    # Opening what is no plain file (a pipe) could wait forever.
    if not path.is_file():
        raise DataError(Problem(path, "", "does not exist", "Add the image, or remove its record."))
    try:
        with warnings.catch_warnings():
            # Of an image that is somewhat too large Pillow only warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise DataError(Problem(path, "", f"is not a {' or '.join(FORMATS)} image", "Convert it.")) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(path) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(Problem(path, "", f"is damaged or truncated ({error})", _RESTORE))


def too_large(path: Path, record: str = "") -> DataError:
    """The error for an image of more than ``MAX_PIXELS``: an image file, or a record of an annotation file."""
    what = f"has more than {MAX_PIXELS // 10**6} megapixels"
    return DataError(Problem(path, record, what, "Make it smaller, with its masks, or leave it out."))


def digest_pixels(image: Image.Image) -> str:
    """SHA-256 of the size and the pixels: the same for the same picture, whatever its file."""
    header = f"{image.mode} {image.width}x{image.height} "
    return hashlib.sha256(header.encode() + image.tobytes()).hexdigest()
