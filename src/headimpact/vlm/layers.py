"""The layers of a decoder: which have attention, and what their projections are called."""

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar

from headimpact.errors import InputError

PROJECTIONS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
"""The projections of a decoder layer, and in which part of it each stands."""


class DecoderLayers(ABC):
    """What a base says of its decoder's layers.

    Attributes:
        model: the transformers model.
        source: folder or hub name it was loaded from.
    """

    model: Any
    source: str
    decoder_path: ClassVar[str]
    no_single_heads: ClassVar[str] = ""
    """Why its heads cannot be adapted one by one; empty where they can."""

    @property
    def text_config(self):
        """The decoder's configuration."""
        return self.model.config.get_text_config()

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return self.text_config.num_hidden_layers

    @property
    def heads(self) -> int:
        """Number of attention (query) heads per decoder layer."""
        return self.text_config.num_attention_heads

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The layers that have attention, ascending: those that are scored, and that adapters go on."""
        return tuple(range(self.layers))

    @property
    def recurrent_numbers(self) -> float:
        """How many float32 numbers a token the backward keeps of what a layer without attention has in its place."""
        return 0.0

    def begins_at(self, first: int) -> int:
        """Where a forward has to begin for a change in the layers from ``first`` on: there, or at an earlier layer
        that hands on more than hidden states."""
        return first

    def projections_of(self, layer: int) -> tuple[str, ...]:
        """Which of ``PROJECTIONS`` one of the :attr:`attention_layers` has of its own."""
        return tuple(PROJECTIONS)

    def projections(self, layers: Sequence[int], targets: Sequence[str]) -> list[str]:
        """Full names of the projections ``targets`` (as ``q_proj`` or ``up_proj``) of some layers' attention and MLP;
        one that a layer shares with another is left out.

        Full names, because PEFT's ``layers_to_transform`` with bare names adapts the vision tower, too.

        Raises:
            InputError: there is no such projection, or a layer has no attention.
        """
        if unknown := [target for target in targets if target not in PROJECTIONS]:
            raise InputError(f"There is no projection {unknown[0]}: layers have {', '.join(PROJECTIONS)}.")
        if others := sorted(set(layers) - set(self.attention_layers)):
            raise InputError(
                f"Layer {others[0]} of {self.source} has no attention: adapters go on the layers "
                f"{', '.join(map(str, self.attention_layers))}."
            )
        return [
            f"{self.decoder_path}.layers.{layer}.{PROJECTIONS[target]}.{target}"
            for layer in sorted(layers)
            for target in targets
            if target in self.projections_of(layer)
        ]
