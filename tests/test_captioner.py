"""The served model, asked directly: what it takes, what it refuses, and in which words."""

import base64
import json
import struct
import zlib
from typing import Any

import pandas as pd
import pytest
from encoded import LIMITS, RED, encode, noise
from mlflow.pyfunc.model import PythonModelContext
from PIL import Image

from headimpact.errors import InputError
from headimpact.lifecycle import serving

CONTEXT = PythonModelContext({}, {})


class Chat:
    """A character is a token."""

    count_tokens = staticmethod(len)


class Echo:
    """Answers with what it was asked."""

    chat = Chat()

    def generate(self, image: Image.Image, prompt: str, **generation: Any) -> str:
        return f"{image.mode} {image.size} {prompt} {generation}"


class Raises:
    chat = Chat()

    def __init__(self, error: Exception) -> None:
        self.error = error

    def generate(self, image: Image.Image, prompt: str, **generation: Any) -> str:
        raise self.error


def served(model: Any, limits: serving.Limits = LIMITS) -> serving.Captioner:
    captioner = serving.Captioner()
    captioner.start(model, limits)
    return captioner


def ask(captioner: serving.Captioner, *rows: dict[str, Any], **params: Any) -> list[str]:
    return captioner.predict(CONTEXT, pd.DataFrame(list(rows)), params)["text"].tolist()


def refused(captioner: serving.Captioner, *rows: dict[str, Any], **params: Any) -> serving.Refusal:
    with pytest.raises(serving.Refusal) as caught:
        ask(captioner, *rows, **params)
    return caught.value


def test_rows_are_answered_in_order_with_greedy_decoding_by_default() -> None:
    rows = [{"image": RED, "prompt": "one"}, {"image": encode(noise()), "prompt": "two"}]
    settings = "{'max_new_tokens': 64, 'do_sample': False}"
    assert ask(served(Echo()), *rows) == [
        f"RGB (30, 20) one {settings}",
        f"RGB (60, 40) two {settings}",
    ]


def test_parameters_reach_generate() -> None:
    (text,) = ask(served(Echo()), {"image": RED, "prompt": "a"}, max_new_tokens=3, temperature=1)
    assert text.endswith("{'max_new_tokens': 3, 'do_sample': True, 'temperature': 1.0}")


@pytest.mark.parametrize(
    "text",
    [
        "data:image/png;base64," + RED,
        "data:image/jpeg;charset=x;base64," + encode(noise(30, 20), "JPEG"),
        encode(noise(30, 20), "WEBP"),
        "\n".join(RED[start : start + 76] for start in range(0, len(RED), 76)) + "\n",
        encode(Image.new("LA", (30, 20))),
        encode(Image.new("P", (30, 20)), "PNG"),
    ],
    ids=["data-uri", "jpeg-uri", "webp", "wrapped-lines", "grey-alpha", "palette"],
)
def test_what_is_an_image(text: str) -> None:
    image = serving.read_image(text, LIMITS)
    assert (image.mode, image.size) == ("RGB", (30, 20))


def test_a_photo_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # taken with the camera on its side
    assert serving.read_image(encode(noise(60, 40), "JPEG", exif=exif), LIMITS).size == (40, 60)


def png_header(width: int, height: int) -> str:
    """A PNG that says how large it is, and holds no pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"")).decode()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def cut(text: str, share: float) -> str:
    data = base64.b64decode(text)
    return base64.b64encode(data[: int(len(data) * share)]).decode()


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (None, "`image` is missing: every row needs the columns image and prompt."),
        (float("nan"), "`image` is missing: every row needs the columns image and prompt."),
        (5, "`image` must be text, not int."),
        (["a"], "`image` must be text, not list."),
        ("  ", "`image` is empty."),
        ("%%%", "`image` is not base64."),
        ("é", "`image` is not base64."),
        ("data:image/png,abc", "`image` is a data URI without base64: write data:image/png;base64,..."),
        (base64.b64encode(b"hello").decode(), "`image` is not a PNG, JPEG or WEBP image."),
        (encode(noise(), "GIF"), "`image` is not a PNG, JPEG or WEBP image."),
        (cut(encode(noise(), "JPEG"), 0.8), "`image` is damaged or truncated."),
        (cut(encode(noise(), "PNG"), 0.8), "`image` is damaged or truncated."),
        (cut(encode(noise(), "WEBP"), 0.8), "`image` is damaged or truncated."),
        (png_header(100, 100), "`image` is damaged or truncated."),  # large enough, but nothing in it
        (png_header(101, 100), "`image` has more than 0.01 megapixels."),
        (png_header(60000, 60000), "`image` has more than 0.01 megapixels."),
        ("A" * 100_004, "The encoded images are larger than 0.1 MB."),
    ],
)
def test_bad_images(image: object, sentence: str) -> None:
    refusal = refused(served(Echo()), {"image": image, "prompt": "a"})
    assert (str(refusal), refusal.get_http_status_code()) == (sentence, 400)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (None, "`prompt` is missing: every row needs the columns image and prompt."),
        (5, "`prompt` must be text, not int."),
        ({"a": 1}, "`prompt` must be text, not dict."),
        (" \n", "`prompt` is empty."),
        ("a" * 21, "`prompt` has more than 20 tokens."),
        ("a" * 10**7, "`prompt` has more than 20 tokens."),
    ],
)
def test_bad_prompts(prompt: object, sentence: str) -> None:
    refusal = refused(served(Echo()), {"image": RED, "prompt": prompt})
    assert (str(refusal), refusal.get_http_status_code()) == (sentence, 400)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("top_k", 3, "Unknown parameter: there are max_new_tokens and temperature."),
        ("max_new_tokens", 0, "`max_new_tokens` must be from 1 to 64."),
        ("max_new_tokens", 65, "`max_new_tokens` must be from 1 to 64."),
        ("max_new_tokens", 3.0, "`max_new_tokens` must be a whole number, not float."),
        ("max_new_tokens", "3", "`max_new_tokens` must be a whole number, not str."),
        ("max_new_tokens", None, "`max_new_tokens` must be a whole number, not NoneType."),
        ("max_new_tokens", True, "`max_new_tokens` must be a whole number, not bool."),
        ("temperature", -0.1, "`temperature` must be 0, or from 0.01 to 2."),
        ("temperature", 2.5, "`temperature` must be 0, or from 0.01 to 2."),
        ("temperature", 1e-40, "`temperature` must be 0, or from 0.01 to 2."),
        ("temperature", float("nan"), "`temperature` must be 0, or from 0.01 to 2."),
        ("temperature", "hot", "`temperature` must be a number, not str."),
    ],
)
def test_bad_parameters(name: str, value: object, sentence: str) -> None:
    refusal = refused(served(Echo()), {"image": RED, "prompt": "a"}, **{name: value})
    assert (str(refusal), refusal.get_http_status_code()) == (sentence, 400)


@pytest.mark.parametrize("count", [0, 9])
def test_a_request_has_a_bounded_number_of_rows(count: int) -> None:
    refusal = refused(served(Echo()), *[{"image": RED, "prompt": "a"}] * count)
    assert str(refusal) == f"A request has 1 to 8 rows, not {count}."


def test_a_missing_column_is_a_missing_field() -> None:
    assert str(refused(served(Echo()), {"prompt": "a"})).startswith("`image` is missing")
    assert str(refused(served(Echo()), {"image": RED})).startswith("`prompt` is missing")


def test_nothing_is_generated_when_one_row_is_bad() -> None:
    captioner = served(Raises(AssertionError("it was asked")))
    refusal = refused(captioner, {"image": RED, "prompt": "a"}, {"image": "%", "prompt": "a"})
    assert str(refusal) == "`image` is not base64."


def test_the_model_may_refuse_an_input() -> None:
    refusal = refused(served(Raises(InputError("The prompt does not fit."))), {"image": RED, "prompt": "a"})
    assert (str(refusal), refusal.get_http_status_code()) == ("The prompt does not fit.", 400)


def test_a_failing_model_is_a_500_whose_trace_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    captioner = served(Raises(RuntimeError("out of memory")))
    refusal = refused(captioner, {"image": RED, "prompt": "a"})
    assert refusal.get_http_status_code() == 500
    assert str(refusal) == "The model failed on this input; the server's log says why."
    assert "out of memory" in caplog.text
    assert refused(captioner, {"image": RED, "prompt": "a"}).get_http_status_code() == 500  # not locked


def test_a_refusal_is_sent_without_what_mlflow_puts_before_it() -> None:
    refusal = serving.Refusal("One sentence.")
    refusal.message = "Failed to predict data '...'. \nError: One sentence."
    assert json.loads(refusal.serialize_as_json()) == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": "One sentence.",
    }
