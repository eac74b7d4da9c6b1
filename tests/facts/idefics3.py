"""SmolVLM."""

from facts import Facts
from headimpact.lifecycle.rehearsal.checkpoints import published
from headimpact.tiny import bases
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.tokengrid import TokenGrid

# The real checkpoint's, as far as text and images go.
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def seen(vlm: Vlm, encoded: EncodedImage):
    """The last pixels of a block that fill no whole patch are seen by no token."""
    pixels = encoded.pixels["pixel_values"][0]
    blocks, channels = pixels.shape[:2]
    side, width = encoded.grid.rows, vlm.model.config.vision_config.patch_size * vlm.model.config.scale_factor
    seen = pixels[:, :, : side * width, : side * width].reshape(blocks, channels, side, width, side, width)
    return seen.permute(0, 2, 4, 1, 3, 5).reshape(encoded.grid.tokens, -1)


FACTS = Facts(
    settings=bases.TINY["tiny-smolvlm"],
    real_settings=published()["HuggingFaceTB/SmolVLM-Instruct"].settings,
    template=TEMPLATE,
    caption="<|im_start|>User:<image>What is this photo?<end_of_utterance>\n"
    "Assistant: This is a photo of {phrase}.<end_of_utterance>\n",
    layers=24,
    heads=32,
    parameters=2_246_272_880,
    adapted_layer=393_216 // 4,
    grid_at_640x480=TokenGrid(9, 9, 3, 4),
    visual_tokens={(640, 480): 1053, (640, 640): 1377, (200, 145): 1053},
    patches_per_token=9,
    seen=seen,
    crops=(2, 2),
)
