"""Which step uses which value of ``params.yaml``, from the entries of the registry."""

from headimpact.errors import InputError
from headimpact.lifecycle import layout
from headimpact.lifecycle.documentation import Parameter, documentation
from headimpact.lifecycle.registry import COMMANDS, STEPS, Step


def uses(step: Step, key: str) -> bool:
    """Whether a step uses the value ``key`` (dotted)."""
    return _within(key, (*step.values, *step.untracked)) and not _within(key, step.unused)


def tracks(step: Step, key: str) -> bool:
    """Whether a change of the value ``key`` makes what the step wrote stale."""
    return uses(step, key) and not _within(key, step.untracked)


def tracked_keys(step: Step) -> list[str]:
    """What a stage of DVC lists: the step's values and sections; a section of which not all is tracked, value by value.

    Keys of ``models`` are those of all models: the caller picks the model.
    """
    keys = [parameter.key for parameter in documentation()]
    listed = []
    for name in step.values:
        inside = [key for key in keys if _within(key, (name,))]
        listed += [name] if all(tracks(step, key) for key in inside) else [key for key in inside if tracks(step, key)]
    return sorted(key.partition(".<")[0] for key in listed)


def check_override(key: str, command: str, text: str = "<value>") -> None:
    """Refuse to override, for one run of a command, a value that is not its own, nor its following step's.

    Raises:
        InputError: an earlier step uses the value (its files would not agree with it), or this one does not.
    """
    users = [step for step in STEPS.values() if uses(step, key)]
    if any(step in users and _may_override(step, key, users[0]) for step in _run_by(command)):
        return
    if command in COMMANDS and _within(key, COMMANDS[command].values):
        return
    if key in ("model", "setup"):
        models = f", name models as in --tournament.models '[{text}]'" if command == "tournament" else ""
        raise InputError(f"{command} works on no single {key}: leave --{key} out{models if key == 'model' else ''}.")
    owner = f"the step {users[0].name}" if users and users[0].overridable else "the whole grid"
    raise InputError(
        f"--{key}: this value belongs to {owner} and cannot be changed for one run of {command}: the files made "
        f"before would not agree with it. Change it in {layout.PARAMS}, or try it as an experiment:\n"
        f"    dvc exp run -S '{key}={text}'"
    )


def _run_by(command: str) -> list[Step]:
    """The steps that a command runs."""
    names = [command, STEPS[command].then] if command in STEPS else []
    return [STEPS[name] for name in names if name]


def _may_override(step: Step, key: str, first: Step) -> bool:
    return not tracks(step, key) or (first is step and step.overridable)


def overridable(command: str) -> list[Parameter]:
    """The values that a run of a command can override."""
    return [parameter for parameter in documentation() if _accepts(command, parameter.key)]


def _accepts(command: str, key: str) -> bool:
    try:
        check_override(key, command)
    except InputError:
        return False
    return True


def _within(key: str, names: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in names)
