"""GLM-4V: as Qwen2-VL, with image sizes counted as of a video of two frames, and a decoder of GLM's own."""

from dataclasses import fields

from transformers import Glm4vForConditionalGeneration, Glm4vImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize

from headimpact.vlm.conversations import ChatFormat
from headimpact.vlm.families.qwen2_vl import Qwen2Vl
from headimpact.vlm.layers import PROJECTIONS
from headimpact.vlm.options import OptionTokens
from headimpact.vlm.tokengrid import TokenGrid


class AnswersAsText(ChatFormat):
    """The published template writes the content of an answer as it is: of a list of parts Python's way to write it."""

    def render(self, user: str, answer: str | None) -> str:
        """See ``ChatFormat.render``."""
        text = super().render(user, answer)
        return text if answer is None else text.replace(str([{"type": "text", "text": answer}]), answer)


class Glm4v(Qwen2Vl):
    """``Glm4vForConditionalGeneration`` (GLM-4.1V)."""

    model_class = Glm4vForConditionalGeneration
    image_processor_class = Glm4vImageProcessorPil
    image_placeholder = "<|image|>"
    image_token = "<|image|>"
    # The published template ends no answer, so this one does not.
    own_template = (
        "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{% for part in message['content'] %}"
        "{{ '<|begin_of_image|><|image|><|end_of_image|>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )

    def __init__(self, *made):
        super().__init__(*made)
        self.chat = AnswersAsText(**{field.name: getattr(self.chat, field.name) for field in fields(self.chat)})
        self._options = OptionTokens(self.chat)

    def projections_of(self, layer: int) -> tuple[str, ...]:
        """See ``DecoderLayers.projections_of``: the MLP computes gate and up in one, under a name of its own."""
        return tuple(name for name in PROJECTIONS if name not in ("gate_proj", "up_proj"))

    def grid(self, width: int, height: int) -> TokenGrid:
        """See ``Vlm.grid``: the bounds are of the pixels of as many frames as a patch has."""
        processor = self.image_processor
        side, frames = processor.patch_size * processor.merge_size, processor.temporal_patch_size
        smallest, largest = processor.size.shortest_edge, processor.size.longest_edge
        rows, cols = smart_resize(frames, height, width, frames, side, smallest, largest)
        return TokenGrid(rows // side, cols // side)
