"""Opening images: formats, sizes, depths, and files that are not what they say."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from small_datasets import HEIGHT, WIDTH, save_image

from headimpact.data.images import digest_pixels, is_turned, open_image, upright_size
from headimpact.errors import InputError


def refused(path: Path, message: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_image(path, size)
    assert str(path) in str(caught.value)


def test_images_are_rgb_whatever_is_in_the_file(tmp_path):
    for name, mode in (("grey.png", "L"), ("palette.png", "P"), ("clear.png", "RGBA"), ("photo.jpg", "L")):
        path = tmp_path / name
        Image.new(mode, (WIDTH, HEIGHT)).save(path)
        image = open_image(path, (WIDTH, HEIGHT))
        assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))


def test_missing_image(tmp_path):
    refused(tmp_path / "none.png", "does not exist. Add the image")


def test_what_is_no_plain_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "does not exist")
    refused(tmp_path, "does not exist")


def test_the_digest_of_a_picture_is_of_its_pixels(tmp_path):
    image = Image.open(save_image(tmp_path / "image.png")).convert("RGB")
    image.save(tmp_path / "packed.png", optimize=True)
    same = Image.open(tmp_path / "packed.png").convert("RGB")
    assert digest_pixels(same) == digest_pixels(image)
    assert digest_pixels(image.transpose(Image.Transpose.ROTATE_90)) != digest_pixels(image)
    assert digest_pixels(Image.new("RGB", (4, 2))) != digest_pixels(Image.new("RGB", (2, 4)))


def test_other_formats(tmp_path):
    save_image(tmp_path / "image.gif").rename(tmp_path / "image.png")
    refused(tmp_path / "image.png", "not a PNG or JPEG image. Convert it")
    (tmp_path / "text.png").write_text("not at all an image")
    refused(tmp_path / "text.png", "not a PNG or JPEG image")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_truncated_anywhere(tmp_path, suffix):
    content = save_image(tmp_path / f"whole.{suffix}", (90, 70)).read_bytes()
    path = tmp_path / f"part.{suffix}"
    for length in range(20, len(content) * 9 // 10, 41):
        path.write_bytes(content[:length])
        refused(path, "damaged or truncated|not a PNG or JPEG image", (90, 70))
    path.write_bytes(content[: len(content) * 9 // 10])
    refused(path, r"damaged or truncated \(.+\). Put the whole file back", (90, 70))


def test_image_of_another_size(tmp_path):
    path = save_image(tmp_path / "image.png", (9, 8))
    refused(path, "is 9x8 pixels, its annotations are for 20x12. Correct width and height")


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_001), (10_000, 10_000), (60_000, 60_000)])
def test_too_many_pixels_are_refused_from_the_header(tmp_path, width, height):
    path = save_image(tmp_path / "image.png")
    content = bytearray(path.read_bytes())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    refused(path, "more than 50 megapixels. Make it smaller", (width, height))


def test_images_of_more_than_eight_bits_a_channel_are_refused(tmp_path):
    """As RGB they would be white."""
    pixels = np.linspace(0, 60000, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png has more than 8 bits a channel. Save it with 8 bits"):
        open_image(tmp_path / "deep.png", (WIDTH, HEIGHT))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_read_upright_whatever_its_exif_says(tmp_path, orientation):
    """A red corner lies where a browser shows it; of a square image, too, whose size gives nothing away."""
    for name, size in (("wide", (24, 16)), ("square", (16, 16))):
        picture = Image.new("RGB", size)
        picture.paste((255, 0, 0), (0, 0, 8, 8))
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(tmp_path / f"{name}.png", exif=exif)
        upright = ImageOps.exif_transpose(Image.open(tmp_path / f"{name}.png"))
        assert digest_pixels(open_image(tmp_path / f"{name}.png", upright.size)) == digest_pixels(upright)
        assert upright_size(tmp_path / f"{name}.png") == upright.size
        assert is_turned(tmp_path / f"{name}.png") == (orientation > 1)
    if orientation > 4:
        message = r"is 16x24 pixels, its annotations are for 24x16 \(its EXIF turns it\). Annotate it upright"
        refused(tmp_path / "wide.png", message, (24, 16))


def test_odd_exif_is_no_damage(tmp_path):
    """A resolution written as text; an orientation that there is not."""
    sideways = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    entries = {
        "resolution": b"\x00\x02" + sideways + b"\x01\x1a\x00\x02\x00\x00\x00\x04abc\x00",
        "orientation": b"\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x63\x00\x00",
        "text": b"\x00\x01\x01\x12\x00\x02\x00\x00\x00\x04up!\x00",
    }
    for name, content in entries.items():
        exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08" + content + bytes(4)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "odd.jpg", exif=exif)
        size = (HEIGHT, WIDTH) if name == "resolution" else (WIDTH, HEIGHT)
        assert open_image(tmp_path / "odd.jpg", size).size == size
