"""Tables and figures of all models and setups that were run, from files alone; the first screen says what to use."""

from collections.abc import Mapping, Sequence

from headimpact.adapters.elsewhere import Snippet
from headimpact.errors import InputError
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.outputs import collect
from headimpact.lifecycle.pasting import paste
from headimpact.lifecycle.steps.inputs import project_facts, read_part
from headimpact.lifecycle.summary import Summary
from headimpact.lifecycle.unrecorded import TAKEN, once
from headimpact.report import tables, writing
from headimpact.report.advice import Advice
from headimpact.report.outputs import Outputs
from headimpact.report.sections.advice import advices


def run(config: Config, job: Job) -> Summary:
    """Write ``reports/``; what an earlier report has there and this one cannot make stays."""
    with tracking.run("report") as run_id:
        outputs = collect(config.grid.models, config.grid.setups, dataset=config.dataset)
        made, given = tables.tables(outputs), advices(outputs, config.forgetting.bound)
        tests = read_part("test") if outputs.generated else []
        facts, place = project_facts("report", config, job), layout.unrecorded_step("report")
        bound, pastes = config.forgetting.bound, _pastes(config, given)
        kept, again = once(
            layout.REPORTS, place, facts, lambda: writing.write(outputs, made, layout.REPORTS, tests, bound, pastes)
        )
        for name, table in made.items():
            tracking.log_table(name, table)
        tracking.log_files(layout.REPORTS)
    rows = [("models", ", ".join(outputs.models) or "none"), ("setups", ", ".join(outputs.setups))]
    rows += [(f"use of {advice.model}", f"{advice.sentence} {advice.sure}") for advice in given]
    told = "of an earlier report, perhaps of other data, which this one cannot make"
    rows += [("kept", f"{told}: {', '.join(kept)}")] if kept else []
    rows += [("kept", TAKEN)] if again else []
    following = given[0].next if given else f"headimpact advise --model {config.model}"
    return Summary(
        "report", rows, _missing(outputs), [layout.REPORTS, layout.REPORTS / writing.PAGE], run_id, following
    )


def _pastes(config: Config, given: Sequence[Advice]) -> Mapping[str, Sequence[Snippet]]:
    """By model, the recommended setup as text, where that follows from files."""
    pastes = {}
    for advice in given:
        try:
            pastes[advice.model] = paste(config, advice.model, advice.decision.setup, fetch=False)
        except InputError:
            continue  # the report says which command tells it, and that one says what is wrong
    return pastes


def _missing(outputs: Outputs) -> list[tuple[str, str]]:
    """What is not there, a row a model and reason; what it would cost tells advise."""
    commands: dict[tuple[str, str], dict[str, None]] = {}
    for absent in outputs.missing:
        _, step, *options = absent.command.split()
        model = options[options.index("--model") + 1] if "--model" in options else "project"
        setup = f" {options[options.index('--setup') + 1]}" if "--setup" in options else ""
        commands.setdefault((model, absent.why), {})[f"{step}{setup}"] = None
    rows = [(model, f"{why}: {', '.join(steps)}") for (model, why), steps in commands.items()]
    return (
        [*rows, ("", "dvc repro makes what is in the grid; headimpact advise --model tells the cost")] if rows else []
    )
