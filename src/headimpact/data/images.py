"""Opening images, everywhere alike: the formats, sizes and depths that are taken, and nothing that a header claims
believed.

One rule for EXIF: an image is read upright, as its EXIF orientation says and as browsers and annotation tools show it.
"""

import hashlib
import struct
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from headimpact.data.problems import DataError, Problem
from headimpact.errors import InputError

FORMATS = ("PNG", "JPEG")
DEEP = ("I", "F")
"""Pillow's modes of more than 8 bits a channel: as RGB they would be white."""
MAX_PIXELS = 50_000_000

_RESTORE = "Put the whole file back, or leave the image out."
_SMALLER = "Make it smaller, with its masks, or leave it out."
_ORIENTATION = 0x0112  # EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THE_SIDE = 5  # from here on, width and height change places
# What Pillow raises, beside its own errors, on damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)
# And where the EXIF of a sound image is not what it should be.
_ODD = (*_DAMAGED, TypeError, KeyError, IndexError, ArithmeticError)


class UnreadableError(InputError):
    """An image that is not taken.

    Attributes:
        what: is wrong with it, as in "the file is ...".
        advice: what to do about it.
        detail: what Pillow says, as in " (...)".
    """

    def __init__(self, what: str, advice: str, detail: str = "") -> None:
        super().__init__(f"The image {what}{detail}. {advice}")
        self.what = what
        self.advice = advice
        self.detail = detail


def read_image(
    source: Path | BytesIO, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, tuple[int, int]]:
    """An image in RGB, fully decoded and upright; and its width and height as it is stored.

    Args:
        source: a file or its bytes.
        formats: Pillow's names of the formats that are taken.
        max_pixels: of a larger one nothing is decoded.

    Raises:
        UnreadableError: it is of another format, damaged or truncated, of more pixels, or of more than 8 bits a
            channel.
    """
    try:
        with warnings.catch_warnings():
            # Of an image that is somewhat too large Pillow only warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(source, formats=formats)
        with image:
            if image.width * image.height > max_pixels:
                raise _too_large(max_pixels)
            if image.mode.startswith(DEEP):
                raise UnreadableError("has more than 8 bits a channel", "Save it with 8 bits.")
            turn = _UPRIGHT.get(orientation(image))
            upright = image.convert("RGB")
            return upright if turn is None else upright.transpose(turn), image.size
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        names = ", ".join(formats[:-1])
        raise UnreadableError(f"is not a {names} or {formats[-1]} image", "Convert it.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(max_pixels) from None
    except _DAMAGED as error:
        raise UnreadableError("is damaged or truncated", _RESTORE, f" ({error})") from None


def orientation(image: Image.Image) -> int:
    """How EXIF says that an image is stored, from 1 (upright) to 8; 1 where EXIF says nothing or cannot be read."""
    try:
        value = int(image.getexif().get(_ORIENTATION, 1))
    except _ODD:
        return 1
    return value if value in _UPRIGHT else 1


def open_image(path: Path, size: tuple[int, int]) -> Image.Image:
    """The image in RGB, fully decoded and upright.

    Args:
        path: a PNG or JPEG file.
        size: width and height that its annotations say.

    Raises:
        DataError: it is missing, or not taken by :func:`read_image`, or of another size.
    """
    # Opening what is no plain file (a pipe) could wait forever.
    if not path.is_file():
        raise DataError(Problem(path, "", "does not exist", "Add the image, or remove its record."))
    try:
        image, stored = read_image(path)
    except UnreadableError as error:
        raise DataError(Problem(path, "", error.what + error.detail, error.advice)) from None
    if image.size != size:
        what = f"is {image.width}x{image.height} pixels, its annotations are for {size[0]}x{size[1]}"
        advice = "Correct width and height, or the image."
        if stored == size:
            what += " (its EXIF turns it)"
            advice = "Annotate it upright, as it is read, or save it without EXIF."
        raise DataError(Problem(path, "", what, advice))
    return image


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height as a sound image is read."""
    with Image.open(path, formats=FORMATS) as image:
        return image.size[::-1] if orientation(image) >= _ON_THE_SIDE else image.size


def is_turned(path: Path) -> bool:
    """Whether EXIF says that an image is stored otherwise than upright; not of what is no image."""
    if not path.is_file():
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                return orientation(image) > 1
    except (*_DAMAGED, Image.DecompressionBombError):
        return False


def _too_large(pixels: int) -> UnreadableError:
    return UnreadableError(f"has more than {pixels / 1e6:g} megapixels", _SMALLER)


def too_large(path: Path, record: str = "") -> DataError:
    """The error for an image of more than ``MAX_PIXELS``: an image file, or a record of an annotation file."""
    return DataError(Problem(path, record, _too_large(MAX_PIXELS).what, _SMALLER))


def digest_pixels(image: Image.Image) -> str:
    """SHA-256 of the size and the pixels: the same for the same picture, whatever its file."""
    header = f"{image.mode} {image.width}x{image.height} "
    return hashlib.sha256(header.encode() + image.tobytes()).hexdigest()
