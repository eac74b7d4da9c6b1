"""A part of a decoder's layers: those below are skipped, or those above.

transformers' decoders call their layers one after the other and hand on what each returns. A layer is left out by
another module in its place, for the time of one forward; indices, masks and all else stay as they are.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn


class _HandsOn(nn.Module):
    """Stands where a layer was: returns the hidden states that it gets, or, if there are some, its own."""

    def __init__(self, states: Tensor | None = None) -> None:
        super().__init__()
        self.states = states

    def forward(self, hidden_states: Tensor, *_, **__) -> Tensor:
        """In the form in which a decoder calls its layers."""
        return hidden_states if self.states is None else self.states


class _Keeps(nn.Module):
    """Stands where a layer was: keeps the hidden states that would enter it."""

    entering: Tensor | None = None

    def forward(self, hidden_states: Tensor, *_, **__) -> Tensor:
        """In the form in which a decoder calls its layers."""
        self.entering = hidden_states
        return hidden_states


@contextmanager
def _replaced(layers: nn.ModuleList, others: Mapping[int, nn.Module]) -> Iterator[None]:
    before = {index: layers[index] for index in others}
    try:
        for index, other in others.items():
            layers[index] = other
        yield
    finally:
        for index, layer in before.items():
            layers[index] = layer


@contextmanager
def starting_at(layers: nn.ModuleList, first: int, states: Float[Tensor, "batch tokens width"]) -> Iterator[None]:
    """Within the block a forward of the decoder begins with ``states`` entering the layer ``first`` (above 0)."""
    skipped: dict[int, nn.Module] = {index: _HandsOn() for index in range(first - 1)}
    with _replaced(layers, skipped | {first - 1: _HandsOn(states)}):
        yield


@contextmanager
def ending_before(layers: nn.ModuleList, last: int) -> Iterator[_Keeps]:
    """Within the block a forward of the decoder ends with what would enter the layer ``last``, which is kept."""
    keeps = _Keeps()
    with _replaced(layers, {index: keeps if index == last else _HandsOn() for index in range(last, len(layers))}):
        yield keeps
