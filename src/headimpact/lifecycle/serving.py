"""The served model: an image and a prompt in, the answer's text out.

MLflow keeps this file beside the adapter and executes it when a model is loaded ("models from code", no
pickle). Its server turns an ordinary exception into an answer with the stack trace, and puts the input before
the message of an ``MlflowException``; so everything a caller may be told is a :class:`Refusal`.
"""

import base64
import binascii
import io
import json
import logging
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn

import fastapi
import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import scoring_server
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType
from PIL import Image

from headimpact.data import images
from headimpact.errors import InputError
from headimpact.files import read_json
from headimpact.lifecycle.gateway import MAX_ROWS, Gateway

COLUMNS = ("image", "prompt")
PARAMETERS = {"max_new_tokens": (Integral, "whole number"), "temperature": (Real, "number")}
FORMATS = ("PNG", "JPEG", "WEBP")
# A longer text has more tokens, whatever the tokenizer: it need not be tokenised to be refused (characters).
LONGEST_TOKEN = 64
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2.0

_log = logging.getLogger("headimpact.lifecycle.serving")


class Refusal(MlflowException):
    """An answer of one sentence and a status, with neither the input nor a stack trace."""

    def __init__(self, sentence: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        """Refuse with HTTP 400, or with the status that MLflow gives to ``error_code``."""
        super().__init__(sentence, error_code=error_code)

    def serialize_as_json(self) -> str:
        """What the server sends: the sentence alone, whatever was put into ``message`` on the way."""
        return json.dumps({"error_code": self.error_code, "message": str(self)})


@dataclass(frozen=True)
class Limits:
    """The section ``serve`` of params.yaml, as it was when the model was registered."""

    max_image_megapixels: float
    max_body_megabytes: float
    max_prompt_tokens: int
    max_new_tokens: int
    max_wait_seconds: float


def signature(limits: Limits) -> ModelSignature:
    """Columns ``image`` and ``prompt``, the generation parameters, and the column ``text``.

    The columns are optional and of any type for MLflow: it would turn numbers and nulls into text, and answer
    a missing column with the whole input. This file checks them instead.
    """
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), name, required=False) for name in COLUMNS]),
        outputs=Schema([ColSpec("string", "text")]),
        params=ParamSchema(
            [
                ParamSpec("max_new_tokens", "long", limits.max_new_tokens),
                ParamSpec("temperature", "double", 0.0),
            ]
        ),
    )


def read_rows(frame: pd.DataFrame, limits: Limits) -> list[tuple[str, str]]:
    """The encoded image and the prompt of every row.

    Raises:
        Refusal: no row or too many; a field is missing, not text, empty or too long.
    """
    if not 1 <= len(frame) <= MAX_ROWS:
        raise Refusal(f"A request has 1 to {MAX_ROWS} rows, not {len(frame)}.")
    rows = [{name: read_text(name, row.get(name)) for name in COLUMNS} for row in frame.to_dict("records")]
    if sum(len(row["image"]) for row in rows) > limits.max_body_megabytes * 1e6:
        raise Refusal(f"The encoded images are larger than {limits.max_body_megabytes:g} MB.")
    return [(row["image"], row["prompt"]) for row in rows]


def read_text(name: str, value: object) -> str:
    """The text of one field.

    Raises:
        Refusal: it is missing (null), of another type, or blank.
    """
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        raise Refusal(f"`{name}` is missing: every row needs the columns {' and '.join(COLUMNS)}.")
    if not isinstance(value, str):
        raise Refusal(f"`{name}` must be text, not {type(value).__name__}.")
    if not value.strip():
        raise Refusal(f"`{name}` is empty.")
    return str(value)


def read_image(text: str, limits: Limits) -> Image.Image:
    """Decode a base64 or data-URI image to RGB, upright.

    Raises:
        Refusal: not base64, or not taken by :func:`headimpact.data.images.read_image`.
    """
    if text.startswith("data:"):
        header, _, text = text.partition(",")
        if not header.endswith(";base64"):
            raise Refusal("`image` is a data URI without base64: write data:image/png;base64,...")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("`image` is not base64.") from None
    try:
        return images.read_image(io.BytesIO(data), FORMATS, int(limits.max_image_megapixels * 1e6))[0]
    except images.UnreadableError as error:
        raise Refusal(f"`image` {error.what}.") from None


def check_parameters(params: object) -> None:
    """Check the names and types of generation parameters.

    Raises:
        Refusal: not an object, an unknown name, or a value of another type.
    """
    if not isinstance(params, Mapping):
        raise Refusal(f"`params` must be an object, not {type(params).__name__}.")
    for name, value in params.items():
        if name not in PARAMETERS:
            raise Refusal(f"Unknown parameter: there are {' and '.join(PARAMETERS)}.")
        kind, told = PARAMETERS[name]
        if isinstance(value, bool) or not isinstance(value, kind):
            raise Refusal(f"`{name}` must be a {told}, not {type(value).__name__}.")


def generation(params: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The arguments of transformers' ``generate``; temperature 0 takes the most probable token.

    Raises:
        Refusal: a parameter is unknown, of another type, or out of its range.
    """
    check_parameters(params)
    new_tokens = int(params.get("max_new_tokens", limits.max_new_tokens))
    temperature = float(params.get("temperature", 0.0))
    if not 1 <= new_tokens <= limits.max_new_tokens:
        raise Refusal(f"`max_new_tokens` must be from 1 to {limits.max_new_tokens}.")
    if temperature != 0 and not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:  # also refuses NaN
        raise Refusal(f"`temperature` must be 0, or from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}.")
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    return {"max_new_tokens": new_tokens, **sampling}


class Captioner(PythonModel):
    """A base with a LoRA adapter, answering one request at a time."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the base (the model's own copy, or by the header's name and revision) and its adapter.

        Raises:
            InputError: the adapter was trained on another base.
        """
        from headimpact.adapters import lora
        from headimpact.vlm import loading

        adapter = Path(context.artifacts["adapter"])
        header = read_json(adapter / "header.json")
        base = loading.load(context.artifacts.get("base", header["source"]), header["revision"])
        lora.load(base, adapter)
        limits = Limits(**dict[str, Any](context.model_config))
        self.start(base, limits)
        _check_names_first()
        _stand_before_server(limits)

    def start(self, model: Any, limits: Limits) -> None:
        """Serve ``model``: ``chat.count_tokens(text) -> int``, ``generate(image, prompt, **generation) -> str``."""
        self._model = model
        self._limits = limits
        self._turn = threading.Lock()

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer every row: columns ``image``, ``prompt`` in, column ``text`` out.

        Raises:
            Refusal: bad input (400), the model is busy for too long (503), or it failed (500).
        """
        settings = generation(params or {}, self._limits)
        rows = read_rows(model_input, self._limits)
        # The server calls from several threads: generation is not safe there, and decoded images are large.
        if not self._turn.acquire(timeout=self._limits.max_wait_seconds):
            raise Refusal("The model is busy with other requests: try again later.", TEMPORARILY_UNAVAILABLE)
        try:
            images = [read_image(text, self._limits) for text, _ in rows]
            prompts = [self._checked(prompt) for _, prompt in rows]
            texts = [self._answer(*asked, settings) for asked in zip(images, prompts, strict=True)]
            return pd.DataFrame({"text": texts})
        finally:
            self._turn.release()

    def _checked(self, prompt: str) -> str:
        """The prompt, if it is not too long: what a model spends on it grows with its tokens, not its characters."""
        most = self._limits.max_prompt_tokens
        if len(prompt) > most * LONGEST_TOKEN or self._model.chat.count_tokens(prompt) > most:
            raise Refusal(f"`prompt` has more than {most} tokens.")
        return prompt

    def _answer(self, image: Image.Image, prompt: str, settings: Mapping[str, Any]) -> str:
        try:
            return self._model.generate(image, prompt, **settings)
        except InputError as error:
            raise Refusal(str(error)) from None
        except Exception:
            _fail()


def _fail() -> NoReturn:
    _log.exception("The model failed.")
    raise Refusal("The model failed on this input; the server's log says why.", INTERNAL_ERROR) from None


def _check_names_first() -> None:
    """Refuse unknown columns and parameters, which MLflow drops before it calls ``predict``.

    It only writes a line into its log, and has no hook for it: wrap the function that drops them.
    """
    validate = mlflow.pyfunc._validate_prediction_input
    if hasattr(validate, "checks_names_first"):
        return

    @wraps(validate)
    def strict(data: Any, params: Any, input_schema: Any, params_schema: Any, *rest: Any) -> Any:
        if params_schema is not None and {spec.name for spec in params_schema} == PARAMETERS.keys():
            check_parameters({} if params is None else params)
            _check_columns(data)
        return validate(data, params, input_schema, params_schema, *rest)

    strict.checks_names_first = True  # type: ignore[attr-defined]
    mlflow.pyfunc._validate_prediction_input = strict


def _stand_before_server(limits: Limits) -> None:
    """Where MLflow's server is what loads the model, put :class:`Gateway` around the application it makes next.

    There is no hook for it, and the model is loaded between the look-up of the function that makes the application and
    its call: what it makes the application from is replaced.
    """
    if scoring_server._SERVER_MODEL_PATH not in os.environ:
        return

    class Guarded(fastapi.FastAPI):
        def build_middleware_stack(self) -> Any:
            return Gateway(super().build_middleware_stack(), limits.max_body_megabytes * 1e6, limits.max_wait_seconds)

    fastapi.FastAPI = Guarded


def _check_columns(data: Any) -> None:
    names = data.columns if isinstance(data, pd.DataFrame) else data if isinstance(data, dict) else ()
    for name in names:
        if name not in COLUMNS:
            raise Refusal(f"Unknown column: there are {' and '.join(COLUMNS)}.")


set_model(Captioner())
