"""What the steps that a dataset is made by have in common."""

from pathlib import Path

from headimpact.files import write_json
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.summary import Summary


def nothing_to_do(step: str, config: Config) -> Summary:
    """What download, ground and segment do for a dataset that does not need them (``Step.datasets``).

    Such a run is not tracked, and needs nothing that takes time to import: it comes before every ``data``.
    """
    write_json(layout.made(step), {"digest": None})
    return Summary(step, [("nothing to do", f"the dataset {config.dataset} does not need it")])


def release(config: Config) -> Path:
    """Where the published release lies: the folder that ``published.source`` names, or what was fetched of it."""
    source = Path(config.published.source)
    return source if source.is_dir() else layout.download("published") / "release"
