"""An adapter that is attached to a model, for a while without effect."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def is_adapted(model: nn.Module) -> bool:
    """Whether an adapter of PEFT is attached to the model, by this project or by somebody else."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


@contextmanager
def original(model: nn.Module) -> Iterator[None]:
    """Within the block the model answers as if no adapter were attached; what can be trained stays so."""
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    enabled = [module for module in adapted if not module.disable_adapters]
    try:
        for module in enabled:
            module.enable_adapters(False)
        yield
    finally:
        for module in enabled:
            module.enable_adapters(True)
        for parameter, requires_grad in trainable:
            parameter.requires_grad_(requires_grad)
