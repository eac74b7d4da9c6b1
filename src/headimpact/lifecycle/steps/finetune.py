"""Fine-tune a setup: train an adapter on the selected layers."""

from headimpact.files import atomic_folder, read_json_object, write_text
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.summary import Summary
from headimpact.processes import launched


def run(config: Config, job: Job) -> Summary:
    """Train, and write the adapter and its history; nothing is trained for a setup without layers."""
    processes = launched(config.compute.device)
    path = layout.selection(job.model, job.setup)
    selected = processes.give(read_json_object(path, "layers", "table_digest") if processes.is_first else {})
    if selected["layers"]:
        from headimpact.lifecycle.steps import training  # takes seconds to import, and the original does without

        return training.run(config, job, selected)
    if processes.is_first:
        with atomic_folder(layout.finetune(job.model, job.setup)) as aside:
            write_text(aside / layout.history(job.model, job.setup).name, "step,epoch,metric,value\n")
    return Summary(f"finetune {job.setup} of {job.model}", [("layers", "none: there is nothing to train")])
