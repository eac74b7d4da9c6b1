"""An adapter's configuration for a setup that need not have been trained: what its choice looks like elsewhere."""

from collections.abc import Sequence
from pathlib import Path

from headimpact.adapters import elsewhere
from headimpact.adapters.elsewhere import Snippet
from headimpact.errors import InputError
from headimpact.files import read_json
from headimpact.lifecycle import layout
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.steps.measured import read_measured
from headimpact.selection.choice import select
from headimpact.selection.grammar import ORIGINAL, is_softened, read_setup, trained
from headimpact.selection.setups import needs_measures


def paste(config: Config, model: str, setup: str, fetch: bool) -> Sequence[Snippet]:
    """The choice of a setup as text to paste elsewhere.

    It is read from the adapter if that was trained; else it follows from the layers (of all, or as the tournament or
    the HI table selects them) and the names in the base's config.

    Args:
        config: the values.
        model: the model.
        setup: the setup.
        fetch: whether the config of a base on the hub may be fetched.

    Raises:
        InputError: the layers cannot be known yet, single heads are adapted, or the base's config is not there; the
            message says what to do.
    """
    if setup == ORIGINAL:
        raise InputError("The original has no adapter.")
    if read_setup(setup).kind == "heads":
        raise InputError(f"{setup} trains single rows of projections, which no configuration says: load its adapter.")
    if is_softened(setup):
        raise InputError(f"{setup} is scaled down after {trained(setup)} was trained: load its adapter.")
    made = layout.adapter(model, setup) / "adapter_config.json"
    if made.is_file():
        return elsewhere.snippets(read_json(made))
    base = config.models[model]
    if not fetch and not Path(base.source).is_dir():
        raise InputError(f"{base.source} is on the hub.")
    from headimpact.adapters import cell, lora  # these take seconds
    from headimpact.vlm import loading

    vlm = loading.skeleton(base.source, base.revision)
    settings = lora.LoraSettings(**config.lora.model_dump())
    layers = range(vlm.layers) if read_setup(setup).kind == "full" else _layers(config, model, setup)
    chosen = cell.placement(list(layers), (), read_setup(setup).budget, settings.rank)
    return elsewhere.snippets(lora.peft_config(vlm, chosen.layers, settings, chosen.ranks).to_dict())


def _layers(config: Config, model: str, setup: str) -> Sequence[int]:
    named = read_setup(setup).layers
    entered = layout.tournament_selections(model)
    if not named and entered.is_file() and setup in (selections := read_json(entered)):
        return selections[setup]["layers"]
    return named or select(setup, read_measured(model, needs_measures(setup)), config.seed).layers
