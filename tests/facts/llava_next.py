"""LLaVA-NeXT, with a Mistral decoder as of the checkpoint that most use."""

import torch
from transformers import LlavaNextConfig, LlavaNextImageProcessorPil

from facts import Facts, llava
from headimpact.lifecycle.rehearsal.checkpoints import make_tokenizer, published
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.tokengrid import TokenGrid

REAL = published()["llava-hf/llava-v1.6-mistral-7b-hf"]

# The real checkpoint's, as far as text and images go.
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{# Render all images first #}{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' }}{% for part in message['content'][:1] %}{{ part['text'] }}{% endfor %}{{ '</s>' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


def _settings():
    """A square of 96 pixels in 12x12 patches, and two to four crops of that size."""
    tokenizer = make_tokenizer(REAL.tiny, REAL.tokens)
    tokenizer.eos_token = "</s>"
    pinpoints = [[96, 192], [192, 96], [192, 192]]
    config = LlavaNextConfig(
        # So wide that masks of its many tokens take little of the memory, as in a real one.
        text_config=llava.decoder(tokenizer)
        | {"model_type": "mistral", "sliding_window": None, "intermediate_size": 672},
        vision_config=llava.vision(96, 8),
        image_token_index=tokenizer.get_vocab()["<image>"],
        image_seq_length=144,
        image_grid_pinpoints=pinpoints,
    )
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}, image_grid_pinpoints=pinpoints
    )
    return config, tokenizer, processor


def seen(vlm: Vlm, encoded: EncodedImage):
    """The mosaic is the middle of the crops."""
    grid, pixels = encoded.grid, encoded.pixels["pixel_values"][0]
    blocks, channels, height, _ = pixels.shape
    patches = pixels.reshape(blocks, channels, grid.rows, height // grid.rows, grid.cols, height // grid.cols)
    patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(blocks, grid.rows, grid.cols, -1)
    crops = patches[1:].reshape(grid.crop_rows, grid.crop_cols, grid.rows, grid.cols, -1).transpose(1, 2)
    joined = crops.reshape(grid.crop_rows * grid.rows, grid.crop_cols * grid.cols, -1)
    rows, cols = grid.mosaic
    top, left = (joined.shape[0] - rows) // 2, (joined.shape[1] - cols) // 2
    mosaic = joined[top : top + rows, left : left + cols]
    return torch.cat([patches[0].flatten(0, 1), mosaic.flatten(0, 1)])


FACTS = Facts(
    settings=_settings,
    real_settings=REAL.settings,
    template=TEMPLATE,
    caption="[INST] <image>\nWhat is this photo? [/INST] This is a photo of {phrase}.</s>",
    layers=32,
    heads=32,
    parameters=7_566_747_648,
    adapted_layer=8 * (4096 + 4096 + 2 * (4096 + 1024)),
    grid_at_640x480=TokenGrid(24, 24, 2, 2, mosaic=(36, 48)),
    # Without the learnt features after the rows, which the processor counts as well.
    visual_tokens={
        (37, 911): 720,
        (1920, 1080): 1920,
        (28, 28): 1152,
        (333, 777): 1920,
        (4000, 300): 1008,
        (640, 480): 2304,
        (640, 640): 2880,
        (640, 427): 2112,
        (200, 145): 1392,
    },
    patches_per_token=1,
    seen=seen,
    crops=(1, 2),
)
