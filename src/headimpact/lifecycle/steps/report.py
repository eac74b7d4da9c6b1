"""Tables and figures of all models and setups that were run, from files alone."""

from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.outputs import collect
from headimpact.lifecycle.steps.inputs import read_part
from headimpact.lifecycle.summary import Summary
from headimpact.report import tables, writing


def run(config: Config, job: Job) -> Summary:
    """Write ``reports/``."""
    with tracking.run("report") as run_id:
        outputs = collect(config.grid.models, config.grid.setups)
        made = tables.tables(outputs)
        tests = read_part("test") if outputs.generated else []
        writing.write(outputs, made, layout.REPORTS, tests)
        for name, table in made.items():
            tracking.log_table(name, table)
        tracking.log_files(layout.REPORTS)
    rows = [("models", ", ".join(outputs.models)), ("setups", ", ".join(outputs.setups))]
    missing = [(absent.path.as_posix(), f"{absent.why}: {absent.command}") for absent in outputs.missing]
    return Summary("report", rows, missing, [layout.REPORTS, layout.REPORTS / writing.PAGE], run_id, "mlflow ui")
