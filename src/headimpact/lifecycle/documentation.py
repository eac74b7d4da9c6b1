"""Every value of ``params.yaml`` in words, from the models of ``config``."""

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from headimpact.lifecycle.config import Config


@dataclass(frozen=True)
class Parameter:
    """One value of ``params.yaml`` in words."""

    key: str
    type: str
    allowed: str
    meaning: str


def documentation() -> list[Parameter]:
    """Every value of ``params.yaml``."""
    return list(_parameters(Config, ""))


def describe(key: str) -> Parameter | None:
    """The value of a dotted key in words; None where there is none."""
    parts = key.split(".")
    if parts[0] == "models" and len(parts) == 3:
        parts[1] = "<name>"
    if parts[:2] == ["tournament", "differences"] and len(parts) == 3:
        parts[2] = "<metric>"
    return next((parameter for parameter in documentation() if parameter.key == ".".join(parts)), None)


def _parameters(section: type[BaseModel], prefix: str) -> Iterator[Parameter]:
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if get_origin(annotation) is dict and get_origin(value := get_args(annotation)[1]) is Annotated:
            kind, *limits = get_args(value)
            key = f"{prefix}{name}.<metric>"
            yield Parameter(key, _type(kind), _limits(limits), field.description or "")
        elif get_origin(annotation) is dict:
            yield from _parameters(get_args(annotation)[1], f"{prefix}{name}.<name>.")
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _parameters(annotation, f"{prefix}{name}.")
        else:
            yield Parameter(f"{prefix}{name}", _type(annotation), _limits(field.metadata), field.description or "")


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(get_args(annotation))
    if get_origin(annotation) is Annotated:
        inner, *limits = get_args(annotation)
        return f"{_type(inner)}{_limits(limits)}"
    if get_origin(annotation) is tuple:
        return f"list of {_type(get_args(annotation)[0])}"
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type(option) for option in get_args(annotation))
    return {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null"}[annotation]


def _limits(metadata: Sequence[Any]) -> str:
    metadata = [limit for item in metadata for limit in getattr(item, "metadata", [item])]  # a Field holds several
    words = {Gt: " above {.gt}", Ge: " from {.ge}", Lt: " below {.lt}", Le: " up to {.le}"}
    return ",".join(words[type(limit)].format(limit) for limit in metadata if type(limit) in words)
