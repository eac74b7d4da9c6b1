"""Tables 1 to 5 beside the paper's, figures 4 and 5, the tournament and what they say, from the steps' files alone."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import pandas as pd

from headimpact.data.samples import Sample
from headimpact.errors import InputError
from headimpact.files import atomic_folder
from headimpact.report import answer_findings, examined, figures, gallery, paper, tournament_section
from headimpact.report.findings import METRICS, Verdict, changes, verdicts
from headimpact.report.page import (
    Block,
    Cell,
    Document,
    Heading,
    Items,
    Picture,
    Run,
    Runs,
    Section,
    Table,
    Text,
    table_markdown,
    to_html,
    to_markdown,
)
from headimpact.report.paper import beside, contradictions
from headimpact.selection.agreement import with_champion
from headimpact.selection.measured import measured_layers
from headimpact.selection.rules import BY_POSITION, CHAMPION, RULES
from headimpact.text import listed
from headimpact.tournament.standings import headlines

PAGE = "report.html"
MISSING = "missing"
_TOURNAMENT = "tournament.png"
_TITLES = {
    "table1": "Table 1. Models",
    "table2": "Table 2. Kruskal-Wallis test on Head Impact",
    "table3": "Table 3. Adapted layers",
    "table4": "Table 4. Results on the test part",
    "table5": "Table 5. Parameters",
}
_ABOUT = {
    "table4": (
        "Value ± standard error, and below it the paired difference against the original with its confidence "
        "interval. The largest absolute difference of a model stands out."
    ),
}
_ABOUT_PAPER = {
    "table1": "The paper's parameters are the total of its table 5, less the trainable ones.",
    "table2": (
        "Each of the paper's models stands with the tests that are its own by their degrees of freedom, which follow "
        "from statistic and p-value; the last column says under which name the paper prints them."
    ),
    "table4": "The paper's values are as printed, with standard errors where it gives them.",
}
_ABOUT_VERDICTS = (
    "A setup's movement is the absolute value of its paired difference in table 4, its confidence interval "
    "folded at zero. More or less is claimed only where the intervals do not overlap."
)
_K = 4
_ABOUT_AGREEMENT = (
    f"Every rule of selection beside top-{_K} by HI: the rank correlation (Spearman) of what the two go by, over all "
    f"layers, and how many of their {_K} layers are the same. Measured by the step measure: "
    f"{listed([rule.name for rule in RULES.values() if rule.needs_measures])}. By the layer's place alone: "
    f"{listed([rule.name for rule in RULES.values() if rule.group == BY_POSITION])}."
)
_ABOUT_VARIATIONS = (
    "Head Impact computed otherwise, one thing at a time, on images of the impact part. Difference: of the mean over "
    "all heads to the definition's, on the same objects; the intervals hold for all variations together (95 %, "
    "clustered by image). Chance: the same attention against masks of other images. Centre blob: an ellipse half as "
    "wide and half as high as the image, without any model; all ones: all visual tokens. Neither goes by the "
    "threshold: the median lets every head attend to half of all tokens, and top-area tells it how many the object "
    "has, which the blob is not told. Rank: Spearman correlation with the definition. Sinks: of every full hundred "
    "visual tokens the one most attended to, at least one, is taken from attention and mask; the image's is that of "
    "all heads together."
)
_ABOUT_VARIANCE = (
    "The variance of Head Impact between heads, split into layers and heads within layers (nested random effects; what "
    "the choice of images leaves is estimated, clustered by image, and taken off), beside the paper's Kruskal-Wallis "
    "tests. Between layers: their share, with its interval over choices of images. Eta squared is the share of the sum "
    "of squares with nothing taken off, beside its mean where heads are put into layers at random."
)
_ASKED = (
    "Head Impact (HI) says how well an attention head looks at the object that is being described. The paper says that "
    "training LoRA adapters on the layers of highest HI (top) changes a model more than training as many layers of "
    "lowest HI (bottom) or as many others (random). Is that so here?"
)
_METHOD = (
    "Every adapter was measured on the same test objects as the original model. Perplexity says how well the model "
    "foresees the descriptions it was trained for; accuracy and AnsProb (the probability of the right answer) say "
    "whether it still answers questions with four options, which it was not trained for. A change is claimed only "
    "where its confidence interval leaves zero out. These intervals cover other test images alone: there is one "
    "adapter a setup, and they are not corrected for the number of comparisons. Other training seeds, and corrected "
    "intervals, are the matter of the tournament."
)
_ABOUT_CHECKS = "Found from the printed numbers alone. Nothing here depends on the models that were run."
_RIVALS = (
    "Other rules for choosing layers, random draws of layers, and the budget spread over all layers (over evenly "
    "spaced ones where it is less than rank 1 a layer: full), each with as many trainable parameters and several seeds "
    "(section Tournament). What can be claimed of the layers of highest HI, with less perplexity, more accuracy and "
    "more AnsProb being better:"
)
_ABOUT_RUNS = (
    "Each link searches MLflow for the run whose numbers stand in this report. Start mlflow ui in the project; if your "
    "store is elsewhere, give its address and the number in the address of its experiment. MLflow shows a run of the "
    "whole grid below its parent: open that with its plus sign. The text below a link can also be pasted into the "
    "search field of the experiment's runs."
)


@dataclass(frozen=True)
class Outputs:
    """What the steps have written for some models and setups; ``missing`` names the files not there."""

    models: tuple[str, ...]
    setups: tuple[str, ...]
    summaries: Mapping[str, Mapping[str, Any]]
    impacts: Mapping[str, pd.DataFrame]
    measures: Mapping[str, pd.DataFrame]
    variations: Mapping[str, pd.DataFrame]
    stability: Mapping[str, pd.DataFrame]
    variances: Mapping[str, Mapping[str, Any]]
    selections: Mapping[tuple[str, str], Mapping[str, Any]]
    results: Mapping[tuple[str, str], Mapping[str, Any]]
    headers: Mapping[tuple[str, str], Mapping[str, Any]]
    tournament: tournament_section.Found | None
    answers: Mapping[tuple[str, str], Mapping[str, Any]]
    generated: Mapping[tuple[str, str], pd.DataFrame]
    missing: tuple[Path, ...]

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Every model with every setup."""
        return [(model, setup) for model in self.models for setup in self.setups]


def table1(outputs: Outputs) -> pd.DataFrame:
    """The models: source, parameters of the base, layers, heads."""
    rows = []
    for model in outputs.models:
        summary = outputs.summaries.get(model, {})
        header = _first(outputs.headers, model)
        counts = _first(outputs.results, model).get("parameters", {})
        rows.append(
            {
                "model": model,
                "source": header.get("source"),
                "parameters": counts["total"] - counts["trainable"] if counts else None,
                "layers": summary.get("layers"),
                "heads": summary.get("heads"),
            }
        )
    return _frame(rows, ("parameters", "layers", "heads"))


def _first(found: Mapping[tuple[str, str], Mapping[str, Any]], model: str) -> Mapping[str, Any]:
    return next((value for key, value in found.items() if key[0] == model), {})


def table2(outputs: Outputs) -> pd.DataFrame:
    """Kruskal-Wallis tests of Head Impact across layers and across heads: df, statistic, p-value."""
    rows = []
    for model in outputs.models:
        tests = outputs.summaries.get(model, {}).get("kruskal_wallis", {})
        for groups in ("layers", "heads"):
            test = tests.get(groups, {})
            rows.append(
                {"model": model, "groups": groups} | {key: test.get(key) for key in ("df", "statistic", "p_value")}
            )
    return _frame(rows, ("df",))


def table3(outputs: Outputs) -> pd.DataFrame:
    """The adapted layers of every setup, as in ``6 8 9 11``."""
    rows = []
    for model, setup in outputs.cells:
        if setup != "original":
            layers = outputs.selections.get((model, setup), {}).get("layers")
            told = None if layers is None else " ".join(map(str, layers))
            rows.append({"model": model, "setup": setup, "layers": told})
    return _frame(rows)


def table4(outputs: Outputs) -> pd.DataFrame:
    """Metrics of every setup with standard errors, and paired differences against the original.

    Columns for each metric: ``<metric>``, ``<metric>_se``, ``<metric>_n``, ``<metric>_difference`` with its
    confidence interval ``_low``, ``_high`` and ``_p_value``, and ``<metric>_largest``: the largest absolute
    difference of the model.
    """
    rows = [
        {"model": model, "setup": setup} | _metrics(outputs.results.get((model, setup), {}))
        for model, setup in outputs.cells
    ]
    counts = [f"{metric}_n" for metric in METRICS]
    table = _frame(rows, counts)
    figures = table.columns.difference(["model", "setup", *counts])
    table = table.astype(dict.fromkeys(figures, float))
    for metric in METRICS:
        size = table[f"{metric}_difference"].abs()
        largest = size.groupby(table["model"]).transform("max")
        table[f"{metric}_largest"] = (size == largest) & (size > 0)
    return table


def _metrics(results: Mapping[str, Any]) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for metric in METRICS:
        estimate = results.get("metrics", {}).get(metric, {})
        difference = results.get("against_original", {}).get(metric, {})
        columns |= {metric: estimate.get("value"), f"{metric}_se": estimate.get("se")}
        columns[f"{metric}_n"] = estimate.get("n")
        columns[f"{metric}_difference"] = difference.get("value")
        columns |= {f"{metric}_{name}": difference.get(name) for name in ("low", "high", "p_value")}
    return columns


def table5(outputs: Outputs) -> pd.DataFrame:
    """Total and trainable parameters of every setup that trains."""
    names = ("total", "trainable", "percent")
    rows = []
    for model, setup in outputs.cells:
        if setup != "original":
            counts = outputs.results.get((model, setup), {}).get("parameters", {})
            rows.append({"model": model, "setup": setup} | {name: counts.get(name) for name in names})
    return _frame(rows, names[:2])


def tables(outputs: Outputs) -> dict[str, pd.DataFrame]:
    """All five tables, by name."""
    return {table.__name__: table(outputs) for table in (table1, table2, table3, table4, table5)}


def _frame(rows: list[dict[str, Any]], whole: Iterable[str] = ()) -> pd.DataFrame:
    """The rows as a frame; the columns ``whole`` are whole numbers also where one is missing."""
    return pd.DataFrame(rows).astype(dict.fromkeys(whole, "Int64"))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], table.to_dict("records"))


def paper_table4(table: pd.DataFrame) -> pd.DataFrame:
    """Table 4 laid out as in the paper: a row a model and metric, a column a setup, in every place a :class:`Cell`."""
    rows = []
    for model, group in table.groupby("model", sort=False):
        for metric, name in METRICS.items():
            cells = {row["setup"]: _result(row, metric) for row in _records(group)}
            rows.append({"model": _cell(model), "metric": _cell(name)} | cells)
    return pd.DataFrame(rows)


def _result(row: dict[str, Any], metric: str) -> Cell:
    if pd.isna(row[metric]):
        return Cell(MISSING)
    note = ""
    if not pd.isna(row[f"{metric}_difference"]):
        low, high = row[f"{metric}_low"], row[f"{metric}_high"]
        note = f"{row[f'{metric}_difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    return Cell(f"{row[metric]:.3f} ± {row[f'{metric}_se']:.3f}", note, bool(row[f"{metric}_largest"]))


def _shown(name: str, table: pd.DataFrame) -> list[dict[str, Cell]]:
    """The rows of a table as they are shown."""
    shown = paper_table4(table) if name == "table4" else table.map(_cell)
    return cast(list[dict[str, Cell]], shown.to_dict("records"))


def _cell(value: Any) -> Cell:
    """A cell without a value says so."""
    if isinstance(value, Cell):
        return value
    if pd.isna(value):
        return Cell(MISSING)
    if isinstance(value, float):
        return Cell(f"{value:.4g}")
    return Cell(f"{value:,}" if isinstance(value, Integral) else str(value))


def _table(rows: Sequence[Mapping[str, Cell]]) -> Table:
    """Rows as a table of all their columns; a row that has not a column has no value to miss there."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return Table(columns, [[row.get(column, Cell("")) for column in columns] for row in rows])


def write(outputs: Outputs, folder: Path, tests: Sequence[Sample]) -> None:
    """Write the report: the tables as CSV and Markdown, figures 4 and 5, a gallery of answers a model, report.md and
    report.html. All or nothing.

    Args:
        outputs: what there is to report; models that were never run are only listed as missing.
        folder: where to, replaced if it exists.
        tests: the samples of the test part, for the galleries.

    Raises:
        InputError: no model has been run.
    """
    if not outputs.models:
        raise InputError("There is nothing to report: no model has been run. Run dvc repro first.")
    made = tables(outputs)
    with atomic_folder(folder) as aside:
        for name, table in made.items():
            table.to_csv(aside / f"{name}.csv", index=False)
            (aside / f"{name}.md").write_text(table_markdown(_table(_shown(name, table))), encoding="utf-8")
        for model, impact in outputs.impacts.items():
            figures.save(figures.heatmap(impact, model), aside / f"figure4_{model}.png")
            figures.save(figures.profiles(impact, model), aside / f"figure5_{model}.png")
        if outputs.tournament:
            shutil.copyfile(outputs.tournament.figure, aside / _TOURNAMENT)
        for name, page in _galleries(outputs, tests).items():
            (aside / name).write_text(page, encoding="utf-8")
        for model, curve in outputs.stability.items():
            figures.save(figures.stability(curve, model), aside / f"stability_{model}.png")
        report = document(outputs, made, aside)
        (aside / "report.md").write_text(to_markdown(report), encoding="utf-8")
        (aside / PAGE).write_text(to_html(report), encoding="utf-8")


def document(outputs: Outputs, made: Mapping[str, pd.DataFrame], folder: Path) -> Document:
    """The whole report, as Markdown and HTML have it.

    Args:
        outputs: what the steps have written.
        made: what :func:`tables` made of it.
        folder: where the figures are.
    """
    printed = paper.read()
    judged = verdicts(made["table4"])
    missing = [path.as_posix() for path in outputs.missing]
    return Document(
        "Head Impact: report",
        [
            Section("Summary", _summary(outputs, made["table4"], judged)),
            *(Section(_TITLES[name], _beside(outputs, name, table, printed)) for name, table in made.items()),
            Section("Did the top layers move more?", [Text(_ABOUT_VERDICTS), _list(judged, "No setup top-K was run.")]),
            Section("Tournament", tournament_section.blocks(outputs.tournament, folder / _TOURNAMENT)),
            Section("How much the rankings agree", _agreement(outputs)),
            Section("Questions in every order of their options", answer_findings.in_orders(outputs.answers)),
            Section(
                "Answers in the models' own words",
                answer_findings.in_words(outputs.answers, list(map(_gallery_name, _spoken(outputs)))),
            ),
            Section("Head Impact under test", _examination(outputs, folder)),
            Section("Where the paper's tables contradict themselves", _checks(printed)),
            Section("Figure 4. Head Impact of every head", _pictures(outputs, folder / "figure4")),
            Section("Figure 5. Mean Head Impact by layer and by head", _pictures(outputs, folder / "figure5")),
            Section("MLflow runs", _runs(outputs)),
            Section("Missing", [_list(missing, "Nothing.")]),
        ],
    )


def _spoken(outputs: Outputs) -> list[str]:
    """Models of which answers were generated."""
    return list(dict.fromkeys(model for model, _ in outputs.generated))


def _gallery_name(model: str) -> str:
    return f"gallery_{model}.html"


def _galleries(outputs: Outputs, tests: Sequence[Sample]) -> dict[str, str]:
    """A page a model: what all its setups say, beside each other, by the page's name."""
    pages = {}
    for model in _spoken(outputs):
        said = {setup: table for (its_model, setup), table in outputs.generated.items() if its_model == model}
        everywhere = set.intersection(*(set(table["image_id"]) for table in said.values()))
        samples = [sample for sample in tests if sample.id in everywhere]
        pages[_gallery_name(model)] = gallery.html(f"What {model} says", samples, said)
    return pages


def _agreement(outputs: Outputs) -> list[Block]:
    """Top-K by HI beside every other rule."""
    rows: dict[str, dict[str, Cell]] = {}
    for model, impact in outputs.impacts.items():
        measured = measured_layers(impact, outputs.measures.get(model))
        k = min(_K, len(measured["hi"]))
        for pair in with_champion(measured, k).to_dict("records"):
            rank = "no ranking" if pd.isna(pair["spearman"]) else f"{pair['spearman']:+.2f}"
            row = rows.setdefault(pair["rule"], {"rule": Cell(pair["rule"])})
            row[model] = Cell(rank, f"{pair['overlap']} of {k} layers")
    return [Text(_ABOUT_AGREEMENT), _table(list(rows.values()))] if rows else [Text("No model was scored.")]


def _examination(outputs: Outputs, folder: Path) -> list[Block]:
    """Head Impact by other definitions, on other images, and split into layers and heads."""
    models = [model for model in outputs.variations if model in outputs.stability and model in outputs.variances]
    if not models:
        return [Text("No model was examined.")]
    blocks: list[Block] = [Text(_ABOUT_VARIATIONS)]
    for model in models:
        table, curve, facts = outputs.variations[model], outputs.stability[model], outputs.variances[model]
        counted = f"{facts['examined_objects']} objects of {facts['examined_images']} images."
        blocks += [
            Heading(model),
            Text(f"{counted} {facts['layers']} layers of {facts['heads']} heads."),
            Items(examined.sentences(table, curve, facts)),
            _table([_variation(row) for row in _records(table)]),
            Picture(folder / f"stability_{model}.png", f"{model}: top layers that two sets of images have in common"),
        ]
    variances = [_variance(model, outputs.variances[model]) for model in models]
    return [*blocks, Heading("Layers and heads"), Text(_ABOUT_VARIANCE), _table(variances)]


def _variation(row: Mapping[str, Any]) -> dict[str, Cell]:
    def number(name: str, form: str = ".3f") -> str:
        return "" if pd.isna(row[name]) else format(row[name], form)

    interval = "" if pd.isna(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
    return {
        "variation": Cell(str(row["variation"])),
        "mean HI": Cell(number("mean_hi")),
        "difference": Cell(number("difference", "+.3f"), interval),
        "best head": Cell(number("best_hi"), f"layer {row['best_layer']} head {row['best_head']}"),
        "chance": Cell(number("chance")),
        "centre blob": Cell(number("blob")),
        "all ones": Cell(number("ones")),
        "heads above chance": Cell(number("above_chance", "d")),
        "heads above the blob": Cell(number("above_blob", "d")),
        "rank of heads": Cell(number("spearman_heads", "+.2f")),
        "rank of layers": Cell(number("spearman_layers", "+.2f")),
        f"top {_K} the same": Cell(f"{row['overlap']}", f"layers {row['top']}"),
    }


def _variance(model: str, facts: Mapping[str, Any]) -> dict[str, Cell]:
    split, tests = facts["variance"], facts["kruskal_wallis"]
    told = {
        f"Kruskal-Wallis, {groups}": Cell(f"{test['statistic']:.4g}", f"df {test['df']}, p = {test['p_value']:.2g}")
        for groups, test in tests.items()
    }
    return {
        "model": Cell(model),
        "between layers": _cell(split["share"]),
        "95 %": Cell("" if split["low"] is None else f"{split['low']:.2f} to {split['high']:.2f}"),
        "variance of layers": _cell(split["layers"]),
        "of heads within layers": _cell(split["heads"]),
        "left by images": _cell(split["images"]),
        "eta squared": Cell(_cell(split["eta_squared"]).text, f"by chance {split['eta_squared_by_chance']:.3f}"),
    } | told


def _summary(outputs: Outputs, table: pd.DataFrame, judged: Sequence[Verdict]) -> list[Block]:
    blocks: list[Block] = [Text(_ASKED), Text(_counted(judged)), *([_at_a_glance(judged)] if judged else [])]
    for model, sentences in changes(table).items():
        own = [verdict for verdict in judged if verdict.model == model]
        asked = [
            f"Did {top} move it more than its controls? {_answers(own, top)}."
            for top in dict.fromkeys(v.top for v in own)
        ]
        blocks += [Heading(model), Items([*sentences, *asked])]
    if outputs.tournament:
        told = headlines(outputs.tournament.comparisons).items()
        rivals = [f"{model}, {CHAMPION}-{k}: {headline}." for (model, k), headline in told]
        blocks += [Heading("Against every other rule"), Text(_RIVALS), Items(rivals)]
    return [*blocks, Heading("How to read this"), Text(_METHOD)]


def _counted(judged: Sequence[Verdict]) -> str:
    if not judged:
        return "Not answered: no setup top-K was run."
    answers = [verdict.answer for verdict in judged]
    told = {
        "yes": "the top layers moved the metric more than both controls",
        "no": "they moved it less than one of them",
        "it cannot be claimed": "the intervals overlap and nothing can be claimed",
        "not known": "a result is missing",
    }
    counts = [f"in {answers.count(answer)} {words}" for answer, words in told.items() if answer in answers]
    counted = f"Of {len(judged)} comparisons (a model and a metric each), {listed(counts)}."
    return f"{counted} In the table: did the top layers move the metric more than both controls?"


def _at_a_glance(judged: Sequence[Verdict]) -> Table:
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for verdict in judged:
        row = rows.setdefault((verdict.model, verdict.top), {"model": Cell(verdict.model, verdict.top)})
        row[METRICS[verdict.metric]] = Cell(verdict.answer, strong=verdict.answer == "yes")
    return _table(list(rows.values()))


def _answers(judged: Sequence[Verdict], top: str) -> str:
    return "; ".join(f"{METRICS[verdict.metric]}: {verdict.answer}" for verdict in judged if verdict.top == top)


def _beside(outputs: Outputs, name: str, table: pd.DataFrame, printed: paper.Tables) -> list[Block]:
    """A table with the paper's rows: among ours for the paper's own models, apart for models of the same family."""
    sources = {model: _first(outputs.headers, model).get("source") for model in outputs.models}
    same = {model: beside.same_model(source, printed) for model, source in sources.items()}
    family = {model: beside.same_family(model, printed) for model in outputs.models if same[model] is None}
    ours = _shown(name, table)
    if any(same.values()):
        ours = _interleaved(ours, {model: _printed(name, twin, printed) for model, twin in same.items() if twin})
    blocks: list[Block] = [*([Text(_ABOUT[name])] if name in _ABOUT else []), _table(ours)]
    if apart := list(dict.fromkeys(filter(None, family.values()))):
        rows = [{"model": Cell(twin)} | row for twin in apart for row in _printed(name, twin, printed)]
        blocks += [Heading(f"The paper's {name.replace('table', 'table ')}: other models, no comparison")]
        if name == "table1":
            blocks.append(
                Items([_apart(model, twin, sources[model], printed) for model, twin in family.items() if twin])
            )
        blocks.append(_table(rows))
    if (apart or any(same.values())) and name in _ABOUT_PAPER:
        blocks.append(Text(_ABOUT_PAPER[name]))
    return blocks if name != "table1" else [*blocks, Text(_datasets(outputs))]


def _printed(name: str, twin: str, printed: paper.Tables) -> list[dict[str, Cell]]:
    rows = beside.rows(name, twin, printed, METRICS)
    return [{column: Cell(text) for column, text in row.items()} for row in rows]


def _interleaved(
    ours: Sequence[dict[str, Cell]], theirs: Mapping[str, Sequence[dict[str, Cell]]]
) -> list[dict[str, Cell]]:
    """Our rows of each model, then the paper's of the same model."""
    rows = []
    for model in dict.fromkeys(row["model"].text for row in ours):
        own = [row for row in ours if row["model"].text == model]
        for whose, found in (("this run", own), ("paper", theirs.get(model, []))):
            rows += [{"model": Cell(model), "from": Cell(whose)} | row for row in found]
    return rows


def _datasets(outputs: Outputs) -> str:
    names = dict.fromkeys(summary["dataset"] for summary in outputs.summaries.values() if "dataset" in summary)
    here = f"Measured here on the dataset {listed(list(names))}" if names else "The dataset here is not known"
    return f"{here}; the paper measured on one of its own, of MS COCO images."


def _apart(model: str, twin: str, source: str | None, printed: paper.Tables) -> str:
    checkpoint = printed["table1"].set_index("model").loc[twin, "checkpoint"]
    loaded = f"was loaded from {source}" if source else "is of a source that is not known (no adapter was trained)"
    return f"{model} {loaded}; the paper's {twin} is {checkpoint}."


def _checks(printed: paper.Tables) -> list[Block]:
    blocks: list[Block] = [Text(_ABOUT_CHECKS)]
    for check in contradictions.checks(printed):
        found = "Found." if check.found else "Not found."
        rows = [_table(_shown("", check.table))] if len(check.table) else []
        blocks += [Heading(check.title), Text(f"{found} {check.words}"), *rows]
    return blocks


def _pictures(outputs: Outputs, name: Path) -> list[Block]:
    return [Picture(name.with_name(f"{name.name}_{model}.png"), model) for model in outputs.impacts]


def _runs(outputs: Outputs) -> list[Block]:
    """Every run that is behind the report, searched by what only that run has: its tags and its numbers."""
    runs = []
    for model, summary in outputs.summaries.items():
        if digest := summary.get("table_digest"):
            runs.append(Run(f"score {model}", f"{_search('score', model)} and tags.table_digest = '{digest}'"))
    for model, table in outputs.variations.items():
        number = f"metrics.`examine/mean_hi` = {table['mean_hi'].iloc[0]}"
        runs.append(Run(f"examine {model}", f"{_search('examine', model)} and {number}"))
    for step, metric, found in (
        ("finetune", "perplexity", outputs.results),
        ("answer", "accuracy_24_orders", outputs.answers),
    ):
        for (model, setup), results in found.items():
            value = results.get("metrics", {}).get(metric, {}).get("value")
            if value is not None:
                number = f"tags.setup = '{setup}' and metrics.`test/{metric}` = {value}"
                runs.append(Run(f"{step} {model} {setup}", f"{_search(step, model)} and {number}"))
    if outputs.tournament:
        digest = f"tags.cells_digest = '{outputs.tournament.cells_digest}'"
        for model in outputs.tournament.verdicts:
            runs.append(Run(f"tournament, all of {model}", f"{_search('tournament run', model)} and {digest}"))
    return [Text(_ABOUT_RUNS), Runs(runs)] if runs else [Text("None.")]


def _search(step: str, model: str) -> str:
    return f"attributes.status = 'FINISHED' and tags.step = '{step}' and tags.model = '{model}'"


def _list(items: Sequence[object], otherwise: str) -> Block:
    return Items([str(item) for item in items]) if items else Text(otherwise)
