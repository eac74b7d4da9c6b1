"""Reading ``params.yaml``: values of the command line put in, every mistake told with its key and what is allowed."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from headimpact.errors import InputError
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config, Tournament
from headimpact.lifecycle.documentation import describe, documentation
from headimpact.selection.grammar import is_softened, trained
from headimpact.selection.rules import CHAMPION
from headimpact.selection.setups import check_setup, needs_measures
from headimpact.tournament.names import all_names


def check_model(config: Config, model: str, where: str = "--model") -> None:
    """Refuse an unknown model.

    Raises:
        InputError: names the nearest and all known models.
    """
    if model not in config.models:
        known = ", ".join(config.models)
        raise InputError(f"{where}: unknown model {model!r}.{_did_you_mean(model, config.models)} Known: {known}.")


def load(path: Path, overrides: Mapping[str, str] | None = None) -> Config:
    """Read ``params.yaml``, replace the values named in ``overrides`` (dotted name to YAML text), check all.

    Raises:
        InputError: names each wrong key, its value, and what is allowed.
    """
    overrides = overrides or {}
    values = _read(path)
    for key, text in overrides.items():
        _replace(values, key, text)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        details = _most_precise(error.errors(include_url=False))
        raise InputError("\n".join(_explain(detail, path, overrides) for detail in details)) from None
    _check_names(config, path)
    return config


def _check_split(sizes: Mapping[str, int | float], path: Path) -> None:
    values = sizes.values()
    are_shares = all(value < 1 for value in values)
    if are_shares and sum(values) <= 1 + 1e-9:
        return
    if are_shares:
        raise InputError(f"{path}: the shares of split add up to {sum(values):g}, and to 1 at most they must.")
    if any(isinstance(value, float) or value < 2 for value in values):
        told = ", ".join(f"{part} {value}" for part, value in sizes.items())
        raise InputError(
            f"{path}: split is {told}. Give four whole numbers of images, each from 2, or four shares, each below 1."
        )


def _check_names(config: Config, path: Path) -> None:
    """Models and setups that are named elsewhere exist; the grid's are those that the DVC graph can hold."""
    check_model(config, config.model, f"{path}: model")
    _check_dataset(config.dataset, path)
    _check_split(config.split.model_dump(), path)
    for setup in (config.setup, *config.grid.setups):
        _check_setup(setup, path)
    _check_tournament(config.tournament, path)
    for model in config.tournament.models:
        check_model(config, model, f"{path}: tournament.models")
    for model in config.grid.models:
        check_model(config, model, f"{path}: grid.models")
    for model in config.pretrain.models:
        check_model(config, model, f"{path}: pretrain.models")
        if config.models[model].source != layout.base(model).as_posix():
            raise InputError(
                f"{path}: pretrain.models names {model}, whose source is not the folder {layout.base(model)}: only "
                "embedded bases are pretrained here."
            )
    if "original" not in config.grid.setups:
        raise InputError(f"{path}: grid.setups lacks original, which all others are compared with.")
    for setup in config.grid.setups:
        if is_softened(setup):
            raise InputError(
                f"{path}: grid.setups cannot hold {setup}. Run it directly: headimpact soften --setup {trained(setup)}"
            )
        if setup.startswith(("layers:", "heads:")) or needs_measures(setup):
            raise InputError(
                f"{path}: grid.setups cannot hold {setup}. Run it directly: headimpact finetune --setup {setup}"
            )
    contests = config.tournament
    lists: dict[str, Sequence[object]] = {"grid.models": config.grid.models, "grid.setups": config.grid.setups}
    lists |= {f"tournament.{name}": getattr(contests, name) for name in ("models", "rules", "ks", "seeds")}
    for name, values in lists.items():
        if len(set(values)) < len(values):
            raise InputError(f"{path}: {name} names one of them twice: {', '.join(map(str, values))}.")


def _check_tournament(tournament: Tournament, path: Path) -> None:
    """Its rules exist, and the one that all others are compared with is among them."""
    known = all_names()
    for rule in tournament.rules:
        if rule not in known:
            near = _did_you_mean(rule, known)
            raise InputError(f"{path}: tournament.rules: unknown rule {rule!r}.{near}")
    if CHAMPION not in tournament.rules:
        raise InputError(f"{path}: tournament.rules lacks {CHAMPION}, which all others are compared with.")


def _check_dataset(dataset: str, path: Path) -> None:
    """Data of one's own lie where neither a step nor DVC, which clears a stage's outputs first, removes them."""
    if not is_own(dataset):
        return
    for made in (layout.DATASET, *layout.WRITTEN):
        if Path(dataset).resolve().is_relative_to(made.resolve()):
            raise InputError(
                f"{path}: dataset is {dataset}, but what lies in {made} is replaced by the steps. Move your data "
                "elsewhere, such as to data/mine, and name that folder."
            )


def is_own(dataset: str) -> bool:
    """Whether a dataset is named by the path of a folder."""
    return "/" in dataset or dataset == "."


def _check_setup(setup: str, path: Path) -> None:
    try:
        check_setup(setup)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, as DVC does and as ``dvc exp run -S`` writes it (plain PyYAML reads text), and refuses a
    key that comes twice (plain PyYAML takes the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(
                problem=f"the key {twice} comes twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run in the project root.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold keys and values, but holds {_say(values)}.")
    return values


def _replace(values: dict[str, Any], key: str, text: str) -> None:
    known = _leaves(values)
    if key not in known:
        inside = [name for name in known if name.startswith(f"{key}.")]
        hint = f" It is a section: name one value, as in {inside[0]}." if inside else _did_you_mean(key, known)
        raise InputError(f"--{key}: there is no value of this name in {layout.PARAMS}.{hint}")
    *sections, last = key.split(".")
    for section in sections:
        values = values[section]
    try:
        values[last] = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise InputError(f"--{key}: {text!r} is not a valid YAML value.") from None


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves


def _most_precise(details: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without the errors of a list that only follow from an error of one of its items."""
    places = [detail["loc"] for detail in details]
    return [d for d in details if not any(p != d["loc"] and p[: len(d["loc"])] == d["loc"] for p in places)]


def _explain(detail: Mapping[str, Any], path: Path, overrides: Mapping[str, str]) -> str:
    location = [str(part) for part in detail["loc"] if part != "[key]"]
    key = ".".join(location)
    where = "command line" if {key, ".".join(location[:-1])} & set(overrides) else path
    return f"{where}: {_complaint(detail, key, location)}"


def _complaint(detail: Mapping[str, Any], key: str, location: list[str]) -> str:
    if detail["type"] == "extra_forbidden":
        known = [parameter.key for parameter in documentation()]
        sections = {key.rpartition(".")[0] for key in known} - {""}
        return f"unknown key {key}.{_did_you_mean(key, [*known, *sections])} Correct it or remove it."
    if detail["type"] == "string_pattern_mismatch" and "[key]" in detail["loc"]:
        return f"{key} is not a name for a model: use lower-case letters, digits and single hyphens."
    described = describe(key) or describe(".".join(location[:-1]))  # an item of a list is described by the list
    needed = (
        f"{described.type}{described.allowed} ({described.meaning})" if described else "a section of keys and values"
    )
    if detail["type"] == "missing":
        return f"{key} is missing. Needed: {needed}."
    hint = _number_hint(detail["input"]) if described and "number" in described.type else ""
    return f"{key} is {_say(detail['input'])}. Needed: {needed}.{hint}"


def _say(value: object) -> str:
    if value is None or isinstance(value, dict):
        return "empty" if value is None else "a section of keys and values"
    kinds = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}
    return f"{value!r} ({kinds.get(type(value), type(value).__name__)})"


def _number_hint(value: object) -> str:
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return ""
    return "" if number is None else f" Quotes make it text: write {value} without them."


def _did_you_mean(name: str, known: Mapping[str, Any] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""
