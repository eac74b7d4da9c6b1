"""Where the numbers come from: MLflow's runs; and which files are not there."""

from collections.abc import Iterator

from headimpact.report.cells import listing
from headimpact.report.outputs import Outputs
from headimpact.report.page import Block, Run, Runs, Text
from headimpact.report.prose import runs as prose
from headimpact.text import listed


def runs(outputs: Outputs) -> list[Block]:
    """Every run that is behind the report, searched by what only that run has: its tags and its numbers."""
    searches = list(_searches(outputs))
    return [Text(prose.RUNS), Runs(searches)] if searches else [Text(prose.NO_RUNS.format(model=outputs.models[0]))]


def missing(outputs: Outputs) -> list[Block]:
    """The files that are not there or have to be made again, a line a command."""
    files: dict[tuple[str, str], list[str]] = {}
    for absent in outputs.missing:
        files.setdefault((absent.command, absent.why), []).append(absent.path.as_posix())
    lines = [
        prose.MISSING.format(files=listed(paths), why=why, command=command) for (command, why), paths in files.items()
    ]
    return [listing(lines, prose.NOTHING_MISSING)]


def _searches(outputs: Outputs) -> Iterator[Run]:
    for model, summary in outputs.summaries.items():
        if digest := summary.get("table_digest"):
            yield Run(f"score {model}", f"{_search('score', model)} and tags.table_digest = '{digest}'")
    for model, table in outputs.variations.items():
        number = f"metrics.`examine/mean_hi` = {table['mean_hi'].iloc[0]}"
        yield Run(f"examine {model}", f"{_search('examine', model)} and {number}")
    # The run that trained an adapter has its evaluation, too: the step is not searched for.
    for step, searched, figure, written in (
        ("evaluate", None, "perplexity", outputs.results),
        ("answer", "answer", "accuracy_24_orders", outputs.answers),
    ):
        for (model, setup), results in written.items():
            value = results.get("metrics", {}).get(figure, {}).get("value")
            if value is not None:
                number = f"tags.setup = '{setup}' and metrics.`test/{figure}` = {value}"
                yield Run(f"{step} {model} {setup}", f"{_search(searched, model)} and {number}")
    if outputs.tournament:
        digest = f"tags.cells_digest = '{outputs.tournament.cells_digest}'"
        for model in outputs.tournament.verdicts:
            yield Run(f"tournament, all of {model}", f"{_search('tournament run', model)} and {digest}")


def _search(step: str | None, model: str) -> str:
    """What finds the finished runs of a model, of one step or of any."""
    tags = f"tags.step = '{step}' and tags.model = '{model}'" if step else f"tags.model = '{model}'"
    return f"attributes.status = 'FINISHED' and {tags}"
