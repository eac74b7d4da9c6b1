"""PaliGemma 1: PaliGemma 2 with another decoder, which has one key-value head, one mask for all layers, no softcap."""

from torch import Tensor

from headimpact.vlm.families.paligemma import PaliGemma2


class PaliGemma1(PaliGemma2):
    """``PaliGemmaForConditionalGeneration`` over a Gemma decoder."""

    decoder_type = "gemma"

    def decoder_mask(self, mask: Tensor, positions: Tensor) -> Tensor:
        """See ``Vlm.decoder_mask``."""
        return mask
