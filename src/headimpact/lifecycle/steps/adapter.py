"""The adapter of a setup, put onto its base."""

from typing import Any

from headimpact.adapters import lora
from headimpact.engine.forward import Engine
from headimpact.files import read_json
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Job
from headimpact.selection.grammar import ORIGINAL


def load_adapter(engine: Engine, job: Job) -> dict[str, Any] | None:
    """Attach the adapter that finetune wrote; several processes attach that of the first.

    Returns:
        Its header; None for the original, which has none.

    Raises:
        InputError: as for :func:`headimpact.adapters.lora.load`.
    """
    if job.setup == ORIGINAL:
        return None
    with engine.processes.folder_of_first(layout.adapter(job.model, job.setup)) as folder:
        lora.load(engine.vlm, folder)
        return read_json(folder / lora.HEADER)
