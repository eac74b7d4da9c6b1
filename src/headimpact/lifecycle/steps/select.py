"""Select the layers of a setup from the HI table."""

from headimpact.files import read_json_object, write_json
from headimpact.lifecycle import layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.steps.measured import read_measured
from headimpact.lifecycle.summary import Summary
from headimpact.selection.choice import select
from headimpact.selection.selection import Reason
from headimpact.selection.setups import needs_measures


def run(config: Config, job: Job) -> Summary:
    """Write the selected layers, with the rule and the reason of each."""
    summary = read_json_object(layout.impact_summary(job.model), "table_digest")
    selection = select(job.setup, read_measured(job.model, needs_measures(job.setup)), config.seed)
    path = layout.selection(job.model, job.setup)
    with tracking.run("select", job.model, job.setup) as run_id:
        tracking.log_parameters({"model": job.model, "setup": job.setup, "seed": config.seed})
        write_json(path, {"model": job.model, "table_digest": summary["table_digest"]} | selection.to_dict())
        tracking.set_tags({"layers": ",".join(map(str, selection.layers))})
        tracking.link_score(job.model, summary["table_digest"])
        tracking.log_files(path)
    return Summary(
        f"select {job.setup} of {job.model}",
        [("layers", ", ".join(map(str, selection.layers)) or "none"), ("rule", selection.rule)]
        + [(_place(reason), f"{reason.score:.3f}: {reason.reason}") for reason in selection.why],
        files=[path],
        run=run_id,
        next=f"headimpact finetune --model {job.model} --setup {job.setup}",
    )


def _place(reason: Reason) -> str:
    return f"layer {reason.layer}" + (f" head {reason.head}" if reason.head is not None else "")
