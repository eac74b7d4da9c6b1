"""Which setups there are: the grammar, with the rules that exist and with what a model has."""

import difflib
import re

from headimpact.errors import InputError
from headimpact.selection.grammar import ORIGINAL, Setup, is_softened, read_setup, trained
from headimpact.selection.rules import RULES

_NUMBER = "[0-9]{1,6}"
_NAMED = ("layers:", "heads:")


def check_setup(text: str) -> Setup:
    """Read a setup without knowing the model: a wrong text fails here, before anything is loaded.

    Raises:
        InputError: no such setup (the message names the nearest one), or as for :func:`grammar.read_setup`.
    """
    if is_softened(text):
        if trained(text) != ORIGINAL and not is_softened(trained(text)):
            check_setup(trained(text))
        return read_setup(text)
    patterns = [form.replace("K", _NUMBER).replace("S", _NUMBER) for form in (ORIGINAL, *_rule_forms())]
    if text.startswith(_NAMED) or any(re.fullmatch(pattern, text) for pattern in patterns):
        return read_setup(text)
    setups = ", ".join((ORIGINAL, *_rule_forms(), "layers:6,8,9,11", "heads:top-32", "heads:8.3,8.5"))
    raise InputError(
        f"Unknown setup {text!r}.{_hint(text)} The setups are: {setups} (K is a whole number from 1, S one from 0), "
        "and each that is trained, softened, as in soft-top-4."
    )


def needs_measures(text: str) -> bool:
    """Whether the setup goes by something that the HI table does not hold, so that the step measure has to run.

    Raises:
        InputError: as for :func:`check_setup`.
    """
    rule = RULES.get(check_setup(text).kind)
    return rule is not None and rule.needs_measures


def parse_setup(text: str, layers: int, heads: int | None = None) -> Setup:
    """Read a setup for a model with ``layers`` layers of ``heads`` heads each (None where that is not known).

    Raises:
        InputError: as for :func:`check_setup`, or the model has not the layers or heads that the setup asks for.
    """
    setup = check_setup(text)
    if setup.kind == "heads":
        _check_heads(setup, layers, heads)
        return setup
    if setup.count > layers:
        raise InputError(f"Setup {text!r} asks for {setup.count} layers, but the model has {layers}.")
    rule = RULES.get(setup.kind)
    if rule is not None and rule.lacks is not None and (lack := rule.lacks(setup.count, layers)):
        raise InputError(f"Setup {text!r} {lack}")
    if beyond := [layer for layer in setup.layers if layer >= layers]:
        raise InputError(
            f"Setup {text!r} names layer {beyond[0]}, but the model has {layers} layers, 0 to {layers - 1}."
        )
    return setup


def _rule_forms() -> list[str]:
    return [form for rule in RULES.values() for form in rule.forms]


def _check_heads(setup: Setup, layers: int, heads: int | None) -> None:
    if heads is None:
        raise InputError(f"Setup {setup.text!r} needs the Head Impact of every head, not of layers alone.")
    if setup.count > layers * heads:
        raise InputError(f"Setup {setup.text!r} asks for {setup.count} heads, but the model has {layers * heads}.")
    if beyond := [head for head in setup.heads if head[0] >= layers or head[1] >= heads]:
        raise InputError(
            f"Setup {setup.text!r} names head {beyond[0][0]}.{beyond[0][1]}, but the model has {layers} layers of "
            f"{heads} heads, both counted from 0."
        )


def _hint(text: str) -> str:
    """The nearest setup that exists, as an advice; empty where none is near."""
    name = re.split("[-:]", text, maxsplit=1)[0]
    number = text[len(name) + 1 :]
    examples = {ORIGINAL: ORIGINAL, "layers": "layers:6,8", "heads": "heads:top-32"}
    examples |= {rule.name: rule.forms[0].replace("K", "4").replace("S", "0") for rule in RULES.values()}
    near = difflib.get_close_matches(name.lower(), examples, n=1)
    if not near:
        return ""
    rule = RULES.get(near[0])
    takes_number = rule is not None and not rule.draws and re.fullmatch(r"[1-9][0-9]{0,5}", number, re.ASCII)
    return f" Did you mean {f'{near[0]}-{number}' if takes_number else examples[near[0]]}?"
