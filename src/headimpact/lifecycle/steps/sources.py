"""What the steps that a dataset is made by have in common."""

from headimpact.data.records import Processes
from headimpact.files import write_json
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.summary import Summary


def nothing_to_do(step: str, config: Config) -> Summary:
    """What download, ground and segment do for a dataset that does not need them."""
    write_json(layout.made(step), {"digest": None})
    return Summary(step, [("nothing to do", f"the dataset {config.dataset} does not need it")])


def not_first(step: str, processes: Processes) -> Summary:
    """What a process of several tells that is not the first: only that one tracks and records."""
    return Summary(step, [("process", f"{processes.rank + 1} of {processes.count}: its share is done")])
