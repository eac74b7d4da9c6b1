"""What rules are called in a tournament, where one may take part twice: on the targets of the settings, and on all
projections of the same layers.

Every command checks such names when it starts: nothing large is imported here.
"""

from headimpact.selection.rules import RULES

_WHOLE = "whole-"
"""Before the name of a rule: its layers with all projections adapted, at as many trainable parameters."""


def is_whole(rule: str) -> bool:
    """Whether all projections of the rule's layers are adapted."""
    return rule.startswith(_WHOLE)


def layers_of(rule: str) -> str:
    """The rule that chooses the layers."""
    return rule.removeprefix(_WHOLE)


def all_names() -> list[str]:
    """Every name that a tournament takes. Draws are many runs, and are drawn once."""
    return [*RULES, *(f"{_WHOLE}{name}" for name, rule in RULES.items() if not rule.draws)]
