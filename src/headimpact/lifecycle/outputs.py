"""What the steps have written, read for the report: of the grid, and of every other model and setup that is there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from headimpact.errors import InputError
from headimpact.evaluation.beside_original import same_objects
from headimpact.evaluation.metrics import COMPARED, METRICS
from headimpact.evaluation.questions import QUESTIONS
from headimpact.files import digest_file, read_json, read_json_object
from headimpact.lifecycle import layout
from headimpact.lifecycle.dataset_in_use import InUse, in_use
from headimpact.report.outputs import ORIGINAL, Missing, Outputs, Pair, TournamentFiles
from headimpact.selection.grammar import alias, is_softened, trained
from headimpact.text import listed

_NOT_MADE = "not made yet"
_OTHER = "made of another dataset than the one in use, and left out"


@dataclass(frozen=True)
class _Source:
    """A file of every model (or of every model and setup), and the step that writes it."""

    step: str
    paths: Mapping[Any, Path]

    def command(self, key: str | Pair) -> str:
        """What makes the file of a model, or of a model and setup."""
        return f"headimpact {self.step} --model {key}" if isinstance(key, str) else _command(self.step, key)


def collect(models: Sequence[str], setups: Sequence[str], root: Path = Path(), dataset: str | None = None) -> Outputs:
    """Read what exists of ``models`` x ``setups``, and of every other model and setup that was scored or evaluated.

    A model that has no file at all is left out of the tables; a setup that is named by its folder alone has its text
    from its results. What is of another dataset than the one in use is missing.

    Args:
        models: of the grid.
        setups: of the grid.
        root: of the project.
        dataset: as params.yaml names it; None: whichever was made.

    Raises:
        InputError: a file is there but cannot be read (the message names the command that makes it again), or
            ``dataset`` has not been made.
    """
    used = in_use(root)
    if made := used.instead_of(dataset):
        raise InputError(
            f"The dataset {dataset} has not been made: what is in the project is of {made}. Make it: headimpact data"
        )
    pairs = _pairs(models, setups, root)
    scored = sorted(path.name for path in (root / layout.IMPACT).glob("[!.]*") if path.is_dir())
    names = list(dict.fromkeys([*models, *scored, *(model for model, _ in pairs)]))
    sources = _sources(names, pairs)
    contents: dict[str, dict[Any, Any]] = {
        field: {
            key: _read(root / path, source.command(key))
            for key, path in source.paths.items()
            if (root / path).is_file()
        }
        for field, source in sources.items()
    }
    others = _of_other_dataset(contents, used)
    for field in contents:
        if field != "identities":
            contents[field] = {key: content for key, content in contents[field].items() if key not in others}
    # Identities are in git, also of models that nothing was run with.
    there = {_model(key) for field, by_key in contents.items() if field != "identities" for key in by_key}
    tournament = read_tournament(root, dataset)
    return Outputs(
        models=tuple(name for name in names if name in there),
        pairs=tuple(pair for name in names if name in there for pair in pairs if pair[0] == name),
        tournament=tournament,
        missing=(
            *_absent(sources, contents, there, others),
            *_outdated(contents["results"], contents["objects"]),
            *_of_other_objects(contents["objects"], contents["orders"]),
            *(_outdated_tournament(tournament, contents["results"]) if tournament else ()),
        ),
        **contents,
    )


def evaluations(
    model: str, root: Path = Path(), dataset: str | None = None
) -> tuple[dict[Pair, Any], dict[Pair, pd.DataFrame]]:
    """By model and setup, the results of every setup of a model that was evaluated, and the results of its objects;
    of the dataset in use alone.

    Raises:
        InputError: a file is there but cannot be read.
    """
    results, objects = {}, {}
    used = in_use(root)
    if used.instead_of(dataset):
        return results, objects
    for path in sorted((root / layout.EVALUATIONS / model).glob("[!.]*/results.json")):
        pair = (model, _setup(path, model))
        results[pair] = _read(path, _command("evaluate", pair))
        if (table := root / layout.evaluated_objects(*pair)).is_file():
            objects[pair] = _read(table, _command("evaluate", pair))
            if used.has_other(objects[pair]):
                del results[pair], objects[pair]
    return results, objects


def _of_other_dataset(contents: Mapping[str, Mapping[Any, Any]], used: InUse) -> set[str | Pair]:
    """The models and pairs whose files are of another dataset than the one in use."""
    others: set[str | Pair] = {model for model, summary in contents["summaries"].items() if used.is_other(summary)}
    for pair in {key for by_key in contents.values() for key in by_key if not isinstance(key, str)}:
        if pair in contents["objects"]:
            is_other = used.has_other(contents["objects"][pair])
        elif pair in contents["headers"]:
            is_other = used.is_other(contents["headers"][pair])
        else:
            is_other = pair[0] in others
        if is_other:
            others.add(pair)
    return others


def _pairs(models: Sequence[str], setups: Sequence[str], root: Path) -> list[Pair]:
    """The models and setups that were asked for, and those on disk; with each of the latter its original."""
    pairs = [(model, setup) for model in models for setup in setups]
    for path in sorted((root / layout.EVALUATIONS).glob("[!.]*/[!.]*/results.json")):
        model = path.parents[1].name
        pairs += [(model, ORIGINAL), (model, _setup(path, model))]
    return list(dict.fromkeys(pairs))


def _setup(path: Path, model: str) -> str:
    """The text of a setup, whose folder has its alias."""
    setup = read_json_object(path).get("setup")
    if not isinstance(setup, str) or alias(setup) != path.parent.name:
        raise InputError(
            f"{path} is of the setup {setup}, which is not that of its folder. Remove the folder, or evaluate its "
            f"setup again: headimpact evaluate --model {model}"
        )
    return setup


def _sources(models: Sequence[str], pairs: Sequence[Pair]) -> dict[str, _Source]:
    """By the fields of :class:`Outputs`, the files that they are read from."""
    adapted = [pair for pair in pairs if pair[1] != ORIGINAL]
    softened = [pair for pair in adapted if is_softened(pair[1])]
    return {
        "identities": _Source("identify", {model: layout.identity(model) for model in models}),
        "summaries": _Source("score", {model: layout.impact_summary(model) for model in models}),
        "impacts": _Source("score", {model: layout.impact_table(model) for model in models}),
        "measures": _Source("measure", {model: layout.measures(model) for model in models}),
        "variations": _Source("examine", {model: layout.examination(model) / "variations.csv" for model in models}),
        "stability": _Source("examine", {model: layout.examination(model) / "stability.csv" for model in models}),
        "variances": _Source("examine", {model: layout.examination(model) / "variance.json" for model in models}),
        "selections": _Source("select", {pair: layout.selection(*pair) for pair in adapted}),
        "headers": _Source("finetune", {pair: layout.adapter(*pair) / "header.json" for pair in adapted}),
        "scales": _Source("soften", {pair: layout.scales(pair[0], trained(pair[1])) for pair in softened}),
        "results": _Source("evaluate", {pair: layout.results(*pair) for pair in pairs}),
        "objects": _Source("evaluate", {pair: layout.evaluated_objects(*pair) for pair in pairs}),
        "answers": _Source("answer", {pair: layout.answer_results(*pair) for pair in pairs}),
        "orders": _Source("answer", {pair: layout.order_answers(*pair) for pair in pairs}),
        "generated": _Source("answer", {pair: layout.generated(*pair) for pair in pairs}),
    }


def _read(path: Path, command: str) -> Any:
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".json": read_json_object}
    try:
        return readers[path.suffix](path)
    except InputError as error:
        raise InputError(f"{error} Make it again: {command}") from None
    except (OSError, ValueError) as error:  # what pandas and pyarrow raise for a file that is cut off
        raise InputError(f"{path} is not a whole table ({error}). Make it again: {command}") from None


def _model(key: str | Pair) -> str:
    return key if isinstance(key, str) else key[0]


def _absent(
    sources: Mapping[str, _Source],
    contents: Mapping[str, Mapping[Any, Any]],
    there: set[str],
    others: set[str | Pair],
) -> Iterator[Missing]:
    """Every file that is not there; of a model that has none at all, its first."""
    for field, source in sources.items():
        for key, path in source.paths.items():
            if key not in contents[field] and (field == "summaries" or _model(key) in there):
                yield Missing(path, _OTHER if key in others else _NOT_MADE, source.command(key))


def _outdated(results: Mapping[Pair, Mapping[str, Any]], objects: Mapping[Pair, pd.DataFrame]) -> Iterator[Missing]:
    """Evaluations that were made before there was one of today's metrics."""
    for pair in dict.fromkeys([*results, *objects]):
        columns, content = objects.get(pair), results.get(pair, {})
        known, few_questions = content.get("metrics", {}), QUESTIONS in content
        lacking = [
            name
            for name, metric in METRICS.items()
            if (pair in results and name not in known and not (metric.asked and few_questions))
            or (columns is not None and not set(metric.columns) <= set(columns))
        ]
        if lacking:
            why = f"evaluated before there was {listed(lacking)}; evaluate again"
            yield Missing(layout.results(*pair), why, _command("evaluate", pair))


def _of_other_objects(objects: Mapping[Pair, pd.DataFrame], orders: Mapping[Pair, pd.DataFrame]) -> Iterator[Missing]:
    """What is not about the same objects as the original, and so has no difference."""
    for step, tables, place in (
        ("evaluate", objects, layout.evaluated_objects),
        ("answer", orders, layout.order_answers),
    ):
        for pair, table in tables.items():
            original = tables.get((pair[0], ORIGINAL))
            if original is not None and not same_objects(table, original):
                why = "made of other test objects than the original, so that no difference is known; make both again"
                yield Missing(place(*pair), why, _command(step, pair))


def _outdated_tournament(tournament: TournamentFiles, results: Mapping[Pair, Mapping[str, Any]]) -> Iterator[Missing]:
    """A tournament that was held before there was one of today's metrics, or on other data."""
    if tournament.elsewhere:
        why = "held on another test part than that of data/dataset"
        yield Missing(layout.tournament_table("changes"), why, "headimpact tournament")
    few_questions = any(QUESTIONS in content for content in results.values())
    compared = [name for name, metric in COMPARED.items() if not (metric.asked and few_questions)]
    if lacking := [name for name in compared if name not in set(tournament.changes["metric"])]:
        why = f"held before there was {listed(lacking)}"
        yield Missing(layout.tournament_table("changes"), why, "headimpact tournament")


def _command(step: str, pair: Pair) -> str:
    if is_softened(pair[1]) and step in ("select", "finetune", "soften"):
        step, pair = "select" if step == "select" else "soften", (pair[0], trained(pair[1]))
    return f"headimpact {step} --model {pair[0]} --setup {pair[1]}"


def read_tournament(root: Path = Path(), dataset: str | None = None) -> TournamentFiles | None:
    """The files of the tournament, None where one of them is absent.

    Args:
        root: of the project.
        dataset: as params.yaml names it; None: whichever was made.

    Raises:
        InputError: the verdicts are not JSON, or another version wrote the tables.
    """
    tables = {name: root / layout.tournament_table(name) for name in ("changes", "comparisons", "cells")}
    verdicts, figure = root / layout.tournament_verdicts(), root / layout.tournament_figure()
    if not all(path.is_file() for path in (*tables.values(), verdicts, figure)):
        return None
    contents = {
        name: pd.read_csv(path, dtype={"layers": str, "rank": str, "twins": str}) for name, path in tables.items()
    }
    if "metric" not in contents["changes"]:
        raise InputError(
            f"{tables['changes']} was written by another version. Hold the tournament again, which keeps its runs: "
            "headimpact tournament"
        )
    contents["comparisons"] = contents["comparisons"].fillna({"twins": ""})
    originals = dict(_tournament_originals(root, contents["changes"]["model"]))
    return TournamentFiles(
        **contents,
        cells_digest=digest_file(tables["cells"]),
        verdicts=read_json(verdicts),
        figure=figure,
        originals=originals,
        elsewhere=_elsewhere(in_use(root), originals.values(), dataset),
    )


def _elsewhere(used: InUse, originals: Iterable[pd.DataFrame], dataset: str | None) -> bool:
    """Whether a tournament was held on another dataset than the one in use."""
    if used.instead_of(dataset) or used.held_on_other:
        return True
    there = used.phrases
    return there is not None and not all(original["object_id"].isin(there).all() for original in originals)


def _tournament_originals(root: Path, models: Iterable[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """By model, the results of the original, as far as the tournament's runs are kept."""
    for model in dict.fromkeys(models):
        path = root / layout.tournament_runs(model)
        if path.is_file():
            original = pd.read_parquet(path, columns=["object_id", "nll"], filters=[("layers", "==", "")])
            yield model, original
