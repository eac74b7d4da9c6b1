"""Tables and figures of the whole grid, from files alone."""

from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.outputs import collect
from headimpact.lifecycle.steps.inputs import read_part
from headimpact.lifecycle.summary import Summary
from headimpact.report import report


def run(config: Config, job: Job) -> Summary:
    """Write ``reports/``."""
    with tracking.run("report") as run_id:
        outputs = collect(config.grid.models, config.grid.setups)
        report.write(outputs, layout.REPORTS, read_part("test"))
        for name, table in report.tables(outputs).items():
            tracking.log_table(name, table)
        tracking.log_files(layout.REPORTS)
    rows = [("models", ", ".join(outputs.models)), ("setups", ", ".join(outputs.setups))]
    missing = [(path.as_posix(), "not made yet") for path in outputs.missing]
    return Summary("report", rows, missing, [layout.REPORTS, layout.REPORTS / report.PAGE], run_id, "mlflow ui")
