"""Find out which base a model is, so that every step works with the same one."""

from headimpact import hub
from headimpact.files import read_json, write_json
from headimpact.lifecycle import code, layout, tracking
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.summary import Summary
from headimpact.vlm.families import family_name


def run(config: Config, job: Job) -> Summary:
    """Write source, commit, family, and the digests of weights and settings; what is on the hub is fetched."""
    base = config.models[job.model]
    with tracking.run("identify", job.model) as run_id:
        tracking.log_parameters({"model": job.model, "source": base.source, "revision": base.revision})
        folder, commit = hub.fetch_settings(base.source, base.revision)
        family = family_name(base.source, read_json(folder / hub.CONFIG))
        weights = hub.fetch_weights(base.source, folder, commit)
        identity = {
            "source": base.source,
            "revision": commit,
            "family": family,
            "digest": hub.weights_digest(weights),
            "settings_digest": hub.settings_digest(folder),
        }
        write_json(layout.identity(job.model), identity)
        tracking.set_tags({"base_digest": identity["digest"]})
        tracking.log_files(layout.identity(job.model))
    code.refresh(config)  # the family may not have been known before
    pin = hub.revision_line(base.revision, commit)
    rows = [(name.replace("_", " "), str(value)) for name, value in identity.items() if value is not None]
    return Summary(
        f"identify {job.model}",
        [*rows, *([("params.yaml", f"to stay with these weights, put there: {pin}")] if pin else [])],
        files=[layout.identity(job.model)],
        run=run_id,
        next=f"headimpact score --model {job.model}",
    )
