"""What the step answer found of all setups: tables, and sentences that follow from their numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from headimpact.report.page import Block, Cell, Heading, Items, Table, Text
from headimpact.text import listed

Results = Mapping[tuple[str, str], Mapping[str, Any]]

_IN_ORDERS = {
    "accuracy_24_orders": "accuracy, 24 orders",
    "accuracy_1_order": "accuracy, 1 order",
    "ans_prob_24_orders": "AnsProb, 24 orders",
    "ans_prob_1_order": "AnsProb, 1 order",
    "order_dependent": "choice depends on the order",
}
_LABELS = {f"label_{label}": f"label {label}" for label in "ABCD"}
_IN_WORDS = {
    "caption_f1_best": "caption, F1, nearest phrase",
    "caption_f1": "caption, F1, mean phrase",
    "question_f1_best": "question, F1, nearest phrase",
    "cutout_f1": "cut-out, F1",
    "cutout_rouge_l": "cut-out, ROUGE-L",
    "cutout_exact_match": "cut-out, exact match",
    "reference_log_prob": "log-probability of the phrase",
}
_ABOUT_ORDERS = (
    "The question of every object, asked in all 24 orders of its four options, beside the single seeded order of "
    "table 4 on the same objects. Value ± standard error clustered by image, and below it the paired difference "
    "against the original with its 95 % confidence interval (not corrected for the number of comparisons). A model "
    "that goes by the options alone never changes its choice with the order, and gives each label a mean probability "
    "of 0.25."
)
_ABOUT_WORDS = (
    "What the models say of themselves, generated greedily: of the whole image, asked for a caption and asked what it "
    "shows, and of every object's box, cut out and asked for a caption. The answers are compared with the objects' "
    "phrases by exact match and F1 of their words, and by ROUGE-L (0 to 1, higher is nearer). An answer about the "
    "whole image is held against the phrase that is nearest, or against all of them (mean). The log-probability (nats "
    "a token) is that of the phrase as the caption of the whole image. The answers themselves stand in "
)
_NOTHING = "Not measured: run headimpact answer."


def in_orders(results: Results) -> list[Block]:
    """Questions free of order bias: a table, the labels' probabilities, and sentences a model.

    Args:
        results: results.json of the step answer, by model and setup.
    """
    if not results:
        return [Text(_NOTHING)]
    said = Items([sentence for model in _models(results) for sentence in _order_sentences(model, _own(results, model))])
    return [
        Text(_ABOUT_ORDERS),
        said,
        _table(results, _IN_ORDERS),
        Heading("Mean probability of each label"),
        _table(results, _LABELS),
    ]


def in_words(results: Results, galleries: Sequence[str]) -> list[Block]:
    """Open-ended answers: a table, and sentences a model.

    Args:
        results: results.json of the step answer, by model and setup.
        galleries: names of the pages with the answers.
    """
    if not results:
        return [Text(_NOTHING)]
    said = [_words_sentence(model, _own(results, model)) for model in _models(results)]
    return [Text(f"{_ABOUT_WORDS}{listed(list(galleries))}."), Items(said), _table(results, _IN_WORDS)]


def _models(results: Results) -> list[str]:
    return list(dict.fromkeys(model for model, _ in results))


def _own(results: Results, model: str) -> dict[str, Mapping[str, Any]]:
    return {setup: found for (its_model, setup), found in results.items() if its_model == model}


def _table(results: Results, columns: Mapping[str, str]) -> Table:
    rows = [
        [Cell(model), Cell(setup), *(_cell(found, name) for name in columns)]
        for (model, setup), found in results.items()
    ]
    return Table(["model", "setup", *columns.values()], rows)


def _cell(found: Mapping[str, Any], name: str) -> Cell:
    estimate, change = found["metrics"][name], found.get("against_original", {}).get(name)
    return Cell(f"{estimate['value']:.3f} ± {estimate['se']:.3f}", _change(change) if change else "")


def _change(change: Mapping[str, float]) -> str:
    return f"{change['value']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})"


def _order_sentences(model: str, setups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    said = [
        f"{model}, {setup}: right in {_value(found, 'accuracy_24_orders')} of the answers over all orders and in "
        f"{_value(found, 'accuracy_1_order')} in the single one; the order decides the choice for "
        f"{_value(found, 'order_dependent')} of the objects, and {_favourite(found)}."
        for setup, found in setups.items()
    ]
    every, one = (_claims(setups, name) for name in ("accuracy_24_orders", "accuracy_1_order"))
    if every:
        otherwise = [setup for setup in every if (every[setup] != one[setup])]
        agrees = (
            f"The single order would have claimed otherwise of {listed(otherwise)}."
            if otherwise
            else "The single order claims the same."
        )
        said.append(f"{model}, accuracy over all orders against the original: {_claimed(every)}. {agrees}")
    return said


def _words_sentence(model: str, setups: Mapping[str, Mapping[str, Any]]) -> str:
    captions = ", ".join(f"{setup} {_value(found, 'caption_f1_best')}" for setup, found in setups.items())
    claims = _claims(setups, "cutout_f1")
    told = f" Of single objects (cut-outs), F1 against the original: {_claimed(claims)}." if claims else ""
    return f"{model}: F1 of the caption with the nearest phrase: {captions}.{told}"


def _value(found: Mapping[str, Any], name: str) -> str:
    return f"{found['metrics'][name]['value']:.3f}"


def _favourite(found: Mapping[str, Any]) -> str:
    """Which label has the most probability, if that is above 0.25 by 2.5 standard errors (5 % for all four)."""
    name = max(_LABELS, key=lambda label: found["metrics"][label]["value"])
    estimate = found["metrics"][name]
    if estimate["value"] - 2.5 * estimate["se"] <= 1 / len(_LABELS):
        return "no label is favoured beyond 2.5 standard errors"
    return f"{_LABELS[name]} is favoured with {estimate['value']:.3f} of the probability"


def _claims(setups: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, str]:
    """By trained setup: higher, lower, or no change that can be claimed."""
    claims = {}
    for setup, found in setups.items():
        if change := found.get("against_original", {}).get(name):
            claims[setup] = "higher" if change["low"] > 0 else "lower" if change["high"] < 0 else "no claim"
    return claims


def _claimed(claims: Mapping[str, str]) -> str:
    words = {"higher": "higher under", "lower": "lower under", "no claim": "no change can be claimed under"}
    parts = [
        f"{told} {listed(own)}"
        for answer, told in words.items()
        if (own := [setup for setup, claim in claims.items() if claim == answer])
    ]
    return "; ".join(parts)
