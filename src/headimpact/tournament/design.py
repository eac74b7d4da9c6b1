"""How runs make up units and groups, and objects images: what is averaged over what.

Rules that took the same layers share their runs, whose figures are then equal to the last digit: they are one
*group*, with the runs of all of them, and there is nothing to compare between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from headimpact.errors import InputError
from headimpact.evaluation.metrics import compared_columns
from headimpact.tournament.runs import RuleAtK, Runs


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one rule at one K, or of several rules that took the same layers.

    Attributes:
        k: the K.
        drawn: whether the rule draws its layers at random.
        rules: the rules that have these runs.
        units: by seed, or by draw where the rule draws, the indices of its runs.
    """

    k: int
    drawn: bool
    rules: list[str] = field(default_factory=list)
    units: dict[int, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Design:
    """Which runs make up a unit, which units a group, which group is a rule's, which objects an image.

    Attributes:
        groups: all groups.
        group_of: by rule and K, the index of its group.
        counts: the number of units of each group.
        units_from_runs: its product with figures of all runs gives the units' means.
        groups_from_units: its product with figures of all units gives the groups' means.
        order: sorts the objects by image.
        starts: where each image begins then.
    """

    groups: list[Group]
    group_of: dict[RuleAtK, int]
    counts: np.ndarray
    units_from_runs: Float[np.ndarray, "units runs"]
    groups_from_units: Float[np.ndarray, "groups units"]
    order: Int[np.ndarray, " objects"]
    starts: Int[np.ndarray, " images"]


def design_of(runs: Runs) -> Design:
    """The design of a tournament.

    Raises:
        InputError: a contestant comes twice, a rule has been trained once, or there are fewer than two images.
    """
    groups = _groups(runs)
    counts = np.array([len(group.units) for group in groups])
    if (counts < 2).any():
        once = groups[int(np.argmin(counts))]
        raise InputError(
            f"{once.rules[0]}-{once.k} has been trained once: with one run, luck cannot be told from the rule. Train "
            "it with at least 2 seeds."
        )
    order, starts = by_image(runs.images)
    if len(starts) < 2:
        raise InputError(f"An interval clustered by image needs at least 2 images, not {len(starts)}.")
    units = [members for group in groups for members in group.units.values()]
    return Design(
        groups=groups,
        group_of={
            (rule, k): next(i for i, group in enumerate(groups) if group.k == k and rule in group.rules)
            for rule, k in zip(runs.rules, runs.ks.tolist(), strict=True)
        },
        counts=counts,
        units_from_runs=_averages(units, len(runs.rules)),
        groups_from_units=_averages(np.split(np.arange(len(units)), np.cumsum(counts)[:-1]), len(units)),
        order=order,
        starts=starts,
    )


def by_image(images: Int[np.ndarray, " objects"]) -> tuple[np.ndarray, np.ndarray]:
    """What sorts objects by their images, and where each image begins then."""
    order = np.argsort(images, kind="stable")
    return order, np.unique(images[order], return_index=True)[1]


def _averages(members: Sequence[Sequence[int] | np.ndarray], things: int) -> Float[np.ndarray, "rows things"]:
    """A matrix whose product with figures of all things gives the mean over each row's members."""
    rows = np.zeros((len(members), things))
    for row, chosen in zip(rows, members, strict=True):
        row[np.asarray(chosen)] = 1 / len(chosen)
    return rows


def _groups(runs: Runs) -> list[Group]:
    """The runs of every rule and K; a rule that is trained by seed joins the group that has one of its runs."""
    contestants = list(zip(runs.rules, runs.ks.tolist(), runs.seeds.tolist(), runs.draws.tolist(), strict=True))
    if len(set(contestants)) < len(contestants):
        raise InputError("A run (rule, K, seed, draw) comes twice: every run may be compared once.")
    members_of: dict[RuleAtK, list[int]] = {}
    for index, (rule, k, _, _) in enumerate(contestants):
        members_of.setdefault((rule, k), []).append(index)
    figures = np.concatenate([runs.adapted[column] for column in compared_columns()], axis=1)
    groups: list[Group] = []
    owners: dict[tuple[int, int, bytes], Group] = {}
    for (rule, k), members in members_of.items():
        if drawn := len({runs.draws[index] for index in members}) > 1:
            groups.append(group := Group(k, drawn))
            for index in members:
                group.units.setdefault(int(runs.draws[index]), []).append(index)
        else:
            marks = [(k, int(runs.seeds[index]), figures[index].tobytes()) for index in members]
            group = next((owners[mark] for mark in marks if mark in owners), None)
            if group is None:
                groups.append(group := Group(k, drawn))
            owners |= dict.fromkeys(marks, group)
            for index in members:
                group.units.setdefault(int(runs.seeds[index]), [index])
        group.rules.append(rule)
    return groups
