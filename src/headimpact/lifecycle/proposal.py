"""What a person is told to do next: every step's summary takes its proposal of a setup from here.

It is what the evidence of the model supports, and what the tournament's evidence supports where it has none
(:mod:`headimpact.report.advice`).
"""

from pathlib import Path

from headimpact.errors import InputError
from headimpact.lifecycle.config import Config
from headimpact.lifecycle.outputs import evaluations, read_tournament
from headimpact.report.advice import Advice, advise, proposed
from headimpact.report.prose.advice import FINETUNE


def advice_of(config: Config, model: str, root: Path = Path()) -> Advice:
    """The advice of a model, from its evaluations and the tournament.

    Raises:
        InputError: a file is damaged.
    """
    results, objects = evaluations(model, root, config.dataset)
    wanted = config.grid.setups if model in config.grid.models else ()
    tournament = read_tournament(root, config.dataset)
    return advise(model, results, objects, tournament, config.forgetting.bound, wanted)


def next_command(config: Config, model: str) -> str:
    """The command that goes on from what is there of a model: to train what is recommended, or to serve it."""
    advice = _advice(config, model)
    return FINETUNE.format(model=model, setup=proposed(None)) if advice is None else advice.next


def finetune_command(config: Config, model: str) -> str:
    """The command that trains the setup that is proposed for a model."""
    return FINETUNE.format(model=model, setup=proposed(_advice(config, model)))


def _advice(config: Config, model: str) -> Advice | None:
    """None where a file is damaged: a step that is done is not to fail for what it proposes."""
    try:
        return advice_of(config, model)
    except InputError:
        return None
