"""A checkpoint that is named where a model is asked for: its entry in params.yaml."""

import re
from pathlib import Path

import yaml

from headimpact import hub
from headimpact.errors import InputError
from headimpact.files import read_json, write_text
from headimpact.lifecycle import layout, params
from headimpact.lifecycle.config import Base, Config
from headimpact.vlm.families import family_name

_MODELS = re.compile(r"^models:[ \t]*(#.*)?\n(?P<next>(?:[ \t]*(?:#.*)?\n)*(?P<indent> +))", re.MULTILINE)


def model_of(config: Config, model: str) -> str:
    """The name of a model of params.yaml; it is given by that name, or by its checkpoint: a folder or a hub name. A
    checkpoint that no model has is entered first.

    Raises:
        InputError: there is no such model or checkpoint, or it is of no family that is supported.
    """
    if model in config.models or not ("/" in model or Path(model).is_dir()):
        params.check_model(config, model)
        return model
    for name, base in config.models.items():
        if base.source == model:
            return name
    return _enter(config, model)


def _enter(config: Config, source: str) -> str:
    base = Base(source=source, revision=None if Path(source).is_dir() else "main")
    folder, _ = hub.fetch_settings(base.source, base.revision)
    family_name(base.source, read_json(folder / hub.CONFIG))
    name = _name(config, source)
    entry = yaml.safe_dump({name: base.model_dump()}, sort_keys=False, width=1000, allow_unicode=True)
    text = layout.PARAMS.read_text(encoding="utf-8")
    place = _MODELS.search(text)
    if place is None:
        raise InputError(
            f"{source} is in no entry of models in {layout.PARAMS}. Put it there:\n\n{_indented(entry, 2)}"
        )
    start = place.start("next")
    write_text(layout.PARAMS, text[:start] + _indented(entry, len(place["indent"])) + text[start:])
    print(f"New in {layout.PARAMS}, under models:\n{_indented(entry, 2)}", end="", flush=True)
    return name


def _name(config: Config, source: str) -> str:
    """The last part of the source, or all of it where another model is called so."""
    for text in (Path(source).name, source):
        name = "-".join(re.findall("[a-z0-9]+", text.lower()))
        if name and name not in config.models:
            return name
    raise InputError(f"{source}: no name is left for it. Give it an entry of its own under models in {layout.PARAMS}.")


def _indented(entry: str, spaces: int) -> str:
    return "".join(f"{' ' * spaces}{line}\n" for line in entry.splitlines())
