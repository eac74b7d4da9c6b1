"""fingerprints.json: what the code of every step and of every model's family does, which the stages of DVC depend on.

It is brought up to date by every command that runs a step, and by ``headimpact write`` after an edit of the code and
before ``dvc status`` or ``dvc repro``; the hook of pre-commit does that, too.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headimpact
from headimpact.errors import InputError
from headimpact.files import as_json, digest_file, read_json, read_json_object, write_json, write_text
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.fingerprint import DIGITS, as_it_is, closure, family_modules, fingerprint
from headimpact.lifecycle.registry import STEPS, Step
from headimpact.vlm.families import find

SOURCE = Path(headimpact.__file__).parents[1]
_FAMILIES = "headimpact.vlm.families"
_CONFIG = "config.json"


def step_fingerprint(step: Step) -> str:
    """What the code of a step does: its file and all that it imports, but for the families.

    How a step is run and tracked is no part of it (the other files of ``lifecycle``), nor how results are drawn, unless
    figures are what it writes.
    """
    if step.code is not None:
        own = tuple(f"headimpact.{name}" for name in step.code)
        return fingerprint(_modules(own), lambda module: module not in _modules(own), SOURCE)

    def stopped(module: str) -> bool:
        plumbing = _within(module, "headimpact.lifecycle") and not _within(module, "headimpact.lifecycle.steps")
        drawing = _within(module, "headimpact.report") and not step.draws
        return plumbing or drawing or _within(module, _FAMILIES)

    digest = fingerprint([step.module], stopped, SOURCE)
    files = _data_files(closure([step.module], stopped, SOURCE))
    return (
        hashlib.sha256("".join([digest, *map(digest_file, files)]).encode()).hexdigest()[:DIGITS] if files else digest
    )


def run_fingerprint(roots: tuple[str, ...]) -> str:
    """What some modules and all that they import do, but for the families and ``lifecycle``."""
    return fingerprint(
        [f"headimpact.{name}" for name in roots],
        lambda module: _within(module, "headimpact.lifecycle") or _within(module, _FAMILIES),
        SOURCE,
    )


def family_fingerprint(source: str, identity: Path) -> str:
    """What the code of a base's family does, with all that it imports; of all families where it is not known yet.

    Args:
        source: folder or hub name.
        identity: what the step identify wrote, if it ran.
    """
    kind = _family(source, identity)
    try:
        roots = _modules((_FAMILIES,)) if kind is None else family_modules(kind, SOURCE)
    except KeyError:
        roots = _modules((_FAMILIES,))
    return fingerprint(roots, lambda module: module == _FAMILIES, SOURCE)


def _family(source: str, identity: Path) -> str | None:
    if (Path(source) / _CONFIG).is_file():
        return find(read_json(Path(source) / _CONFIG))
    facts = read_json_object(identity) if identity.is_file() else {}
    return facts.get("family") if facts.get("source") == source else None


def refresh(config: Config) -> bool:
    """Write fingerprints.json if it is not as the code is; True if it was not."""
    code = _code_digest(config)
    # Reading all code as Python takes half a second, in every command and in every stage: not if nothing has changed.
    if layout.CODE_NOTE.is_file() and layout.CODE_NOTE.read_text(encoding="utf-8") == _note(code):
        return False
    was_other = _refresh(config)
    write_text(layout.CODE_NOTE, _note(code))
    return was_other


def _note(code: str) -> str:
    """For which code fingerprints.json was found to be right, and what is in it."""
    return f"{code} {digest_file(layout.FINGERPRINTS) if layout.FINGERPRINTS.is_file() else None}\n"


def _code_digest(config: Config) -> str:
    """Digest of all that fingerprints.json follows from, byte by byte."""
    facts = {
        "files": _files_digest(),
        "families": {name: _family(base.source, layout.identity(name)) for name, base in config.models.items()},
        "tournament": config.tournament.models,
    }
    return hashlib.sha256(as_json(facts).encode()).hexdigest()


def _files_digest() -> str:
    package = SOURCE / "headimpact"
    files = sorted(path for path in package.rglob("*") if path.suffix != ".pyc" and path.is_file())
    facts = [(path.relative_to(package).as_posix(), digest_file(path)) for path in files]
    return hashlib.sha256(as_json(facts).encode()).hexdigest()


def _refresh(config: Config) -> bool:
    with as_it_is():
        families = {
            name: family_fingerprint(base.source, layout.identity(name)) for name, base in config.models.items()
        }
        steps = {name: step_fingerprint(step) for name, step in STEPS.items()}
    for name in steps:
        if STEPS[name].runs_base and STEPS[name].per == "project":
            steps[name] = _with_families(steps[name], [families[model] for model in config.tournament.models])
    content = {"steps": steps, "families": families}
    if layout.FINGERPRINTS.is_file() and read_json(layout.FINGERPRINTS) == content:
        return False
    write_json(layout.FINGERPRINTS, content)
    return True


def _with_families(step: str, families: Sequence[str]) -> str:
    """The fingerprint of a step that runs several bases: a stage names one key, whichever these are."""
    return hashlib.sha256("".join([step, *sorted(set(families))]).encode()).hexdigest()[:DIGITS]


@dataclass(frozen=True)
class Code:
    """The code at one moment.

    Attributes:
        files: digest of its files, byte by byte.
        fingerprints: what fingerprints.json has, by ``steps`` and ``families``.
    """

    files: str
    fingerprints: Mapping[str, Mapping[str, str]]


def current() -> Code:
    """The code as it is now."""
    return Code(_files_digest(), _fingerprints())


def _fingerprints() -> dict[str, dict[str, str]]:
    content = read_json_object(layout.FINGERPRINTS) if layout.FINGERPRINTS.is_file() else {}
    return {"steps": {}, "families": {}} | content


def check_current(step: Step, config: Config, model: str, imported: Code | None = None) -> None:
    """Bring fingerprints.json up to date, and refuse to go on in a stage that would be recorded with other code than
    it runs.

    Args:
        step: the stage's.
        config: the values.
        model: the stage's.
        imported: the code that this process began with, where it runs one stage after the other; None: it began with
            this stage.

    Raises:
        InputError: the code of the step, or of the model's family, was edited after DVC began the stage, or after this
            process began.
    """
    before = _fingerprints()
    earlier: list[Mapping[str, Mapping[str, str]]] = [before] if refresh(config) else []
    if imported and imported.files != _files_digest():
        earlier.append(imported.fingerprints)
    after = _fingerprints()
    if any(_edited(step, model, known, after) for known in earlier):
        raise InputError(
            f"The code of {step.name} was edited after {layout.FINGERPRINTS} was written, by which DVC knows it. "
            "The file is up to date now: run the command again."
        )


def _edited(step: Step, model: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    edited = before["steps"].get(step.name) != after["steps"][step.name]
    if step.runs_base and step.per != "project":
        edited |= before["families"].get(model) != after["families"][model]
    return edited


def _data_files(modules: Sequence[str]) -> list[Path]:
    """What lies beside the code of packages and is read by it: style sheets, templates, tables."""
    packages = [SOURCE.joinpath(*module.split(".")) for module in modules]
    return sorted(
        path
        for package in packages
        for path in package.glob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    )


def _within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def _modules(names: tuple[str, ...]) -> list[str]:
    """The modules that names of modules and packages stand for."""
    found = []
    for name in names:
        path = SOURCE.joinpath(*name.split("."))
        inside = sorted(path.glob("*.py")) if path.is_dir() else []
        found += [f"{name}.{file.stem}" for file in inside if file.stem != "__init__"] or [name]
    return found
