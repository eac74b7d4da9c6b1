"""Figures and tables in README.md and docs/, written from the files that hold them.

A block is what stands between ``<!-- name:start -->`` and ``<!-- name:end -->``. :func:`pages` fills the blocks of
``BLOCKS``; other blocks are written by hand. To add one: write its function and its entry, and the markers in a page.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from headimpact.errors import InputError
from headimpact.evaluation.metrics import METRICS
from headimpact.files import read_json
from headimpact.lifecycle import layout, reliability, speed, written
from headimpact.lifecycle.rehearsal import outcome
from headimpact.report import findings
from headimpact.report.cells import table_of
from headimpact.report.page import table_markdown
from headimpact.report.rows import records
from headimpact.report.sections import results
from headimpact.report.writing import MARKDOWN
from headimpact.selection.grammar import FULL
from headimpact.selection.rules import CHAMPION
from headimpact.text import listed
from headimpact.tournament.standings import DRAWS, headlines

README = Path("README.md")
DOCS = Path("docs")
_EXAMPLE = DOCS / "python.md"
_BLOCK = re.compile(r"(<!-- ([a-z0-9]+):start -->\n)(.*?)(<!-- \2:end -->)", re.DOTALL)
# Of a tournament, the metric of gain and the one of forgetting that the pages show, with their decimals.
_SHOWN = {"perplexity": 2, "accuracy": 3}


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        text: makes it from the files of a project, given its root.
        made_by: the command that writes these files.
    """

    text: Callable[[Path], str]
    made_by: str


class _NotThereError(Exception):
    """The report has no such table."""


def pages(root: Path) -> dict[Path, str]:
    """Every page that has a block, with its blocks filled; paths are relative to ``root``.

    Where the files of a block are not there, the block says which command makes them.

    Raises:
        InputError: a file that a block is made from is damaged.
    """
    paths = [README, *sorted(path.relative_to(root) for path in (root / DOCS).glob("*.md"))]
    texts = {path: (root / path).read_text(encoding="utf-8") for path in paths}
    return {path: _filled(text, root) for path, text in texts.items() if _BLOCK.search(text)}


def _filled(text: str, root: Path) -> str:
    def fill(match: re.Match[str]) -> str:
        start, name, before, end = match.groups()
        return f"{start}{_content(BLOCKS[name], root) if name in BLOCKS else before}{end}"

    return _BLOCK.sub(fill, text)


def _content(block: Block, root: Path) -> str:
    try:
        return f"{block.text(root).rstrip()}\n"
    except (FileNotFoundError, _NotThereError):
        return f"Not there yet: `{block.made_by}` makes it.\n"


def _python(root: Path) -> str:
    """The example of docs/python.md."""
    for match in _BLOCK.finditer((root / _EXAMPLE).read_text(encoding="utf-8")):
        if match[2] == "python":
            return match[3]
    raise InputError(f"{_EXAMPLE} has no example between <!-- python:start --> and <!-- python:end -->.")


# ---- the grid


def _table4(root: Path) -> str:
    return table_markdown(table_of(results.rows("table4", _read_table4(root))))


def _read_table4(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / layout.REPORTS / "table4.csv")


def _moved(root: Path) -> str:
    """Did the top layers move each metric more than their controls? A line a model."""
    answers: dict[str, list[str]] = {}
    for verdict in findings.verdicts(_read_table4(root)):
        answers.setdefault(f"- {verdict.model}, `{verdict.top}`: ", []).append(
            f"{verdict.metric.label}: {verdict.answer}"
        )
    return "\n".join(f"{start}{'; '.join(of_metrics)}." for start, of_metrics in answers.items())


# ---- the tournament


def _read_tournament(root: Path, name: str) -> list[dict[str, Any]]:
    return records(pd.read_csv(root / layout.tournament_table(name)).fillna({"twins": "", "winner": ""}))


def _every_rule(root: Path) -> str:
    changes = _read_tournament(root, "changes")
    return _rules_table(changes, _distinct(changes, "rule"))


def _rules_table(changes: Sequence[Mapping[str, Any]], rules: Sequence[str]) -> str:
    """Rules down, models across, at the largest K: the change of every metric shown, adapter minus original."""
    k, models = max(change["k"] for change in changes), _distinct(changes, "model")
    cells = {
        (change["rule"], change["model"], change["metric"]): "{value:+.{d}f} ({low:+.{d}f} to {high:+.{d}f})".format(
            **change, d=_SHOWN[change["metric"]]
        )
        for change in changes
        if change["k"] == k and change["metric"] in _SHOWN
    }
    rows = [
        [
            f"`{rule}-{k}`",
            *("<br>".join(cells.get((rule, model, metric), "not trained") for metric in _SHOWN) for model in models),
        ]
        for rule in rules
    ]
    return _table(["setup", *models], rows)


def _choice(root: Path) -> str:
    """The champion beside all layers at the same budget and beside random draws, and what can be claimed of them."""
    table = _rules_table(_read_tournament(root, "changes"), (CHAMPION, FULL, DRAWS))
    comparisons = _read_tournament(root, "comparisons")
    rivals = {FULL: f"`{FULL}-K`", DRAWS: "Random draws of K layers"}
    return "\n".join([table, *(_against(comparisons, rival, words) for rival, words in rivals.items())])


def _against(comparisons: Sequence[Mapping[str, Any]], rival: str, words: str) -> str:
    rows = [row for row in comparisons if row["rival"] == rival]
    won = [row for row in rows if row["winner"] == rival]
    lost, undecided = (sum(row["winner"] == winner for row in rows) for winner in (CHAMPION, ""))
    claims = [
        f"{METRICS[row['metric']].label} of {row['model']} at K = {row['k']}, by {-row['advantage']:.2f} "
        f"({-row['high']:.2f} to {-row['low']:.2f})"
        for row in won
    ]
    counted = f"better in {len(won)} of {len(rows)} comparisons, worse in {lost}, undecided in {undecided}"
    return f"- {words} against `{CHAMPION}-K`: {counted}{': ' if claims else ''}{'; '.join(claims)}."


def _claims(root: Path) -> str:
    """What can be claimed of the champion, and which rules took the same layers; a line a model and K."""
    comparisons, same = _read_tournament(root, "comparisons"), {}
    for row in comparisons:
        if CHAMPION in row["twins"].split(", "):
            same.setdefault((row["model"], row["k"]), {})[row["rival"]] = None
    lines = []
    for (model, k), line in headlines(pd.DataFrame(comparisons)).items():
        also = f" (the same layers as {listed(list(same[model, k]))})" if (model, k) in same else ""
        lines.append(f"- {model}, `{CHAMPION}-{k}`{also}: {line}.")
    return "\n".join(lines)


def _seeds(root: Path) -> str:
    """How far the champion's training seeds lie apart, at the largest K; a line a model."""
    cells = [cell for cell in _read_tournament(root, "cells") if cell["rule"] == CHAMPION]
    accuracies: dict[str, list[str]] = {}
    for cell in cells:
        if cell["k"] == max(other["k"] for other in cells):
            accuracies.setdefault(cell["model"], []).append(f"{cell['accuracy']:.2f}")
    return "\n".join(f"- {model}: accuracy {listed(of_seeds)}." for model, of_seeds in accuracies.items())


def _knockout(root: Path) -> str:
    """The layers without which the phrase loses most, as the tournament was held by it; a line a model."""
    lines = []
    for model in _distinct(_read_tournament(root, "changes"), "model"):
        selections = read_json(root / layout.tournament_selections(model))
        scores = next((made["scores"] for setup, made in selections.items() if setup.startswith("knockout-")), [])
        highest = sorted(enumerate(scores), key=lambda layer: -layer[1])[:3]
        losses = [f"layer {layer} {round(score, 2) + 0.0:.2f}" for layer, score in highest]
        lines += [f"- {model}: {', '.join(losses)}."] if losses else []
    if not lines:
        raise _NotThereError
    return "\n".join(lines)


def _distinct(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


# ---- what the report holds


def _report_tables(root: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The tables of the report, each with the heading above it, as rows by column."""
    heading, columns, rows = "", [], []
    for line in [*(root / layout.REPORTS / MARKDOWN).read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
            if not columns:
                columns = cells
            elif set(line) - set("|- "):
                rows.append(dict(zip(columns, cells, strict=True)))
        elif columns:
            yield heading, rows
            columns, rows = [], []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def _tables_with(root: Path, *columns: str) -> dict[str, list[dict[str, str]]]:
    """By heading, the tables of the report that have some columns.

    Raises:
        _NotThereError: there is none.
    """
    tables = {heading: rows for heading, rows in _report_tables(root) if rows and set(columns) <= set(rows[0])}
    if not tables:
        raise _NotThereError
    return tables


def _examination(root: Path) -> str:
    """Head Impact under test: a column a model."""
    by_model = _tables_with(root, "variation", "mean HI", "best head", "chance")
    (variances,) = _tables_with(root, "model", "between layers", "95 %").values()
    shares = {row["model"]: f"{float(row['between layers']):.0%} ({row['95 %']})" for row in variances}
    figures: dict[str, Sequence[str]] = {
        "best head; mean of all heads; their chance level": ("best head", "mean HI", "chance"),
        "a blob in the image's centre; all visual tokens": ("centre blob", "all ones"),
        "heads above chance; above the blob": ("heads above chance", "heads above the blob"),
    }
    rows: dict[str, list[str]] = {}
    for model, (definition, *others) in by_model.items():
        for title, columns in figures.items():
            rows.setdefault(title, []).append("; ".join(map(_first_line, map(definition.get, columns))))
        top = next(column for column in definition if column.startswith("top "))
        for row in others:
            rows.setdefault(f"{top}, {row['variation']}", []).append(_first_line(row[top]))
        rows.setdefault("variance between heads that lies between layers", []).append(shares.get(model, ""))
    return _table(["", *by_model], [[title, *of_models] for title, of_models in rows.items()])


def _first_line(cell: str | None) -> str:
    return (cell or "").partition("<br>")[0]


def _answers(root: Path) -> str:
    """Questions in every order, and the models' own words; a row a model and setup."""
    pair = ["model", "setup"]
    orders = ["accuracy, 24 orders", "accuracy, 1 order", "choice depends on the order"]
    words = ["caption, F1, nearest phrase", "cut-out, F1"]
    columns = [*pair, *orders, *words]
    (asked,) = _tables_with(root, *pair, *orders).values()
    (said,) = _tables_with(root, *pair, *words).values()
    spoken = {(row["model"], row["setup"]): row for row in said}
    rows = []
    for row in asked:
        both = row | spoken.get((row["model"], row["setup"]), {})
        rows.append([both.get(name, "") for name in columns])
    return _table(columns, rows)


def _curves(root: Path) -> str:
    """Where the learning curves of the embedded bases end."""
    ends = {}
    for path in sorted((root / layout.BASES).glob("*/learning_curve.csv")):
        curve = pd.read_csv(path)
        last = curve[curve["phase"] == curve["phase"].iloc[-1]]
        ends[path.parent.name] = last.groupby("metric", sort=False)["value"].last().drop("loss", errors="ignore")
    if not ends:
        raise _NotThereError
    metrics = list(dict.fromkeys(metric for end in ends.values() for metric in end.index))
    rows = [[base, *(f"{end[name]:.2f}" if name in end else "" for name in metrics)] for base, end in ends.items()]
    return _table(["base", *metrics], rows)


def _forgetting(root: Path) -> str:
    """Remedies against forgetting on the test part, a row an adapter."""
    table = pd.read_csv(root / layout.FORGETTING)
    rows = []
    for row in records(table[table["part"] == "test"]):
        name = f"`train.kl` {row['amount']:g}" if row["way"] == "kl" else f"scaled to {row['amount']:g}"
        name = "trained" if (row["way"], row["amount"]) == ("scaled", 1) else name
        cells = [
            "{:.{d}f}, {:+.{d}f} ({:+.{d}f} to {:+.{d}f})".format(
                row[metric], *(row[f"{metric}_{part}"] for part in ("difference", "low", "high")), d=decimals
            )
            for metric, decimals in _SHOWN.items()
        ]
        rows.append([row["model"], name, *cells])
    return _table(["model", f"adapter of `{table['setup'].iloc[0]}`", *_SHOWN], rows)


# ---- the families


def _contract(root: Path) -> str:
    """How far every family is from transformers' own numbers."""
    if not (root / layout.CONTRACT).is_file():
        raise _NotThereError
    rows = [
        {name: f"{value:.1g}" if isinstance(value, float) else f"{value}" for name, value in row.items()}
        for row in read_json(root / layout.CONTRACT)
    ]
    columns = ["conversations", "attention rows", "answers, nats", "packed or alone, nats", "coverage of a token"]
    columns.append("visual tokens")
    return _table(["family", *columns], [[f"`{row['family']}`", *(row[name] for name in columns)] for row in rows])


# ---- time and memory


def _rehearsals(root: Path) -> str:
    """What rehearsals found, a table a model and device."""
    found = [outcome.load(path) for path in sorted((root / layout.REHEARSALS).glob("*.json"))]
    if not found:
        raise _NotThereError
    return "\n".join(f"{rehearsed.told}:\n\n{_table(*outcome.table(rehearsed))}" for rehearsed in found)


def _speed(function: Callable[[Path], speed.Table]) -> Block:
    return Block(lambda root: _table(*function(root / layout.SPEED)), "python benchmarks/speed.py")


def _campaign(function: Callable[[dict[str, Any]], reliability.Table | str]) -> Block:
    def text(root: Path) -> str:
        made = function(reliability.read(root / layout.CAMPAIGN))
        return made if isinstance(made, str) else _table(*made)

    return Block(text, "make campaign")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [columns, ["---"] * len(columns), *rows])


_SPEED = {
    "scoring": speed.scoring,
    "training": speed.training,
    "evaluation": speed.evaluation,
    "growth": speed.growth,
}

BLOCKS: dict[str, Block] = {
    "python": Block(_python, "headimpact write"),
    "graph": Block(lambda root: written.diagram(), "headimpact write"),
    "table4": Block(_table4, "headimpact report"),
    "moved": Block(_moved, "headimpact report"),
    "choice": Block(_choice, "headimpact tournament"),
    "tournament": Block(_every_rule, "headimpact tournament"),
    "claims": Block(_claims, "headimpact tournament"),
    "seeds": Block(_seeds, "headimpact tournament"),
    "knockout": Block(_knockout, "headimpact tournament"),
    "examination": Block(_examination, "headimpact report"),
    "answers": Block(_answers, "headimpact report"),
    "curves": Block(_curves, "headimpact pretrain"),
    "forgetting": Block(_forgetting, "python benchmarks/forgetting.py"),
    "contract": Block(_contract, "python benchmarks/contract.py"),
    "rehearsals": Block(_rehearsals, "headimpact rehearse"),
    "campaigntried": _campaign(reliability.tried),
    "campaign": _campaign(reliability.promises),
    "campaignfailures": _campaign(reliability.failures),
    "campaignfacts": _campaign(reliability.facts),
    **{f"speed{name}": _speed(function) for name, function in _SPEED.items()},
}
"""Every block that is written from files, by name."""
