"""What the setups answer: tables, and sentences that follow from their numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headimpact.evaluation import beside_original
from headimpact.evaluation.beside_original import Answers
from headimpact.report.cells import MISSING, estimate_cell
from headimpact.report.outputs import ORIGINAL, Outputs, Pair
from headimpact.report.page import Block, Cell, Heading, Items, Table, Text
from headimpact.report.prose import answers as prose
from headimpact.statistics import Difference
from headimpact.text import listed


@dataclass(frozen=True)
class Answered:
    """What a setup's answers come to.

    Attributes:
        estimates: every figure by name, with ``value`` and ``se``.
        differences: of every figure, against the original; empty where they are not known.
    """

    estimates: Mapping[str, Mapping[str, Any]]
    differences: Mapping[str, Difference]


Figures = Mapping[Pair, Answered]


def figures(outputs: Outputs) -> dict[Pair, Answered]:
    """The answers of every setup that was asked, beside those of its original."""
    return {
        pair: Answered(results.get("metrics", {}), _differences(outputs, pair))
        for pair, results in outputs.answers.items()
    }


def _differences(outputs: Outputs, pair: Pair) -> dict[str, Difference]:
    """Against the original, as far as both were asked about the same objects."""
    answered, original = _answers(outputs, pair), _answers(outputs, (pair[0], ORIGINAL))
    if pair[1] == ORIGINAL or not answered or not original or not beside_original.comparable(answered, original):
        return {}
    return beside_original.differences(answered, original)


def _answers(outputs: Outputs, pair: Pair) -> Answers | None:
    if pair not in outputs.orders or pair not in outputs.generated:
        return None
    return Answers(outputs.orders[pair], outputs.generated[pair])


def in_orders(answered: Figures, model: str) -> list[Block]:
    """Questions free of order bias: sentences, a table, and the labels' probabilities.

    Args:
        answered: what :func:`figures` gave.
        model: the model to name in the command where nothing was asked.
    """
    if not answered:
        return [Text(prose.NOT_ASKED.format(model=model))]
    sentences = [sentence for name in _models(answered) for sentence in _order_sentences(name, _setups(answered, name))]
    return [
        Text(prose.ORDERS),
        Items(sentences),
        _table(answered, prose.ORDER_COLUMNS),
        Heading(prose.LABELS),
        _table(answered, _labels(next(iter(answered.values())))),
    ]


def in_words(answered: Figures, galleries: Sequence[str], model: str) -> list[Block]:
    """Open-ended answers: sentences, and a table.

    Args:
        answered: what :func:`figures` gave.
        galleries: names of the pages with the answers.
        model: the model to name in the command where nothing was asked.
    """
    if not answered:
        return [Text(prose.NOT_ASKED.format(model=model))]
    shown = f" {prose.GALLERIES.format(galleries=listed(list(galleries)))}" if galleries else ""
    sentences = [_words_sentence(name, _setups(answered, name)) for name in _models(answered)]
    return [Text(f"{prose.WORDS}{shown}"), Items(sentences), _table(answered, prose.WORD_COLUMNS)]


def _models(answered: Figures) -> list[str]:
    return list(dict.fromkeys(model for model, _ in answered))


def _setups(answered: Figures, model: str) -> dict[str, Answered]:
    return {setup: figures for (name, setup), figures in answered.items() if name == model}


def _table(answered: Figures, columns: Mapping[str, str]) -> Table:
    rows = [
        [Cell(model), Cell(setup), *(_cell(figures, name) for name in columns)]
        for (model, setup), figures in answered.items()
    ]
    return Table(["model", "setup", *columns.values()], rows)


def _cell(figures: Answered, name: str) -> Cell:
    estimate, difference = figures.estimates.get(name), figures.differences.get(name)
    if estimate is None:
        return Cell(MISSING)
    change = (difference.value, difference.low, difference.high) if difference else None
    return estimate_cell(estimate["value"], estimate["se"], change)


def _order_sentences(model: str, setups: Mapping[str, Answered]) -> list[str]:
    sentences = [
        prose.SETUP_IN_ORDERS.format(
            model=model,
            setup=setup,
            every=_value(figures, "accuracy_24_orders"),
            single=_value(figures, "accuracy_1_order"),
            dependent=_value(figures, "order_dependent"),
            favourite=_favourite(figures),
        )
        for setup, figures in setups.items()
    ]
    every, single = (_claims(setups, name) for name in ("accuracy_24_orders", "accuracy_1_order"))
    if every:
        otherwise = [setup for setup in every if every[setup] != single[setup]]
        verdict = prose.SINGLE_OTHERWISE.format(setups=listed(otherwise)) if otherwise else prose.SINGLE_SAME
        sentences.append(prose.CLAIMS_IN_ORDERS.format(model=model, claims=_claimed(every), single=verdict))
    return sentences


def _words_sentence(model: str, setups: Mapping[str, Answered]) -> str:
    captions = ", ".join(f"{setup} {_value(figures, 'caption_f1_best')}" for setup, figures in setups.items())
    claims = _claims(setups, "cutout_f1")
    cutouts = prose.CUTOUTS.format(claims=_claimed(claims)) if claims else ""
    return prose.CAPTIONS.format(model=model, captions=captions, cutouts=cutouts)


def _value(figures: Answered, name: str) -> str:
    estimate = figures.estimates.get(name)
    return MISSING if estimate is None else f"{estimate['value']:.3f}"


def _labels(figures: Answered) -> dict[str, str]:
    """The figures that are a label's mean probability, by name, as a column calls them."""
    names = [name for name in figures.estimates if name.startswith("label_")]
    return {name: prose.LABEL.format(label=name.removeprefix("label_")) for name in names}


def _favourite(figures: Answered) -> str:
    """Which label has the most probability, if that is above chance by 2.5 standard errors (5 % for all four)."""
    if not (labels := _labels(figures)):
        return prose.NO_FAVOURITE
    name = max(labels, key=lambda label: figures.estimates[label]["value"])
    value, error = figures.estimates[name]["value"], figures.estimates[name]["se"]
    if value - 2.5 * error <= 1 / len(labels):
        return prose.NO_FAVOURITE
    return prose.FAVOURITE.format(label=labels[name], probability=f"{value:.3f}")


def _claims(setups: Mapping[str, Answered], name: str) -> dict[str, str]:
    """By trained setup: higher, lower, or no change that can be claimed."""
    claims = {}
    for setup, figures in setups.items():
        if change := figures.differences.get(name):
            claims[setup] = "higher" if change.low > 0 else "lower" if change.high < 0 else "no claim"
    return claims


def _claimed(claims: Mapping[str, str]) -> str:
    parts = []
    for answer, words in prose.CLAIMS.items():
        if setups := [setup for setup, claim in claims.items() if claim == answer]:
            parts.append(f"{words} {listed(setups)}")
    return "; ".join(parts)
