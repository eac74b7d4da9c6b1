"""Gemma 4."""

from transformers import Gemma4Config, Gemma4ImageProcessorPil

from facts import Facts
from headimpact.lifecycle.rehearsal.checkpoints import make_tokenizer, published
from headimpact.tiny import bases
from headimpact.vlm.base import EncodedImage, Vlm
from headimpact.vlm.tokengrid import TokenGrid

REAL = published()["google/gemma-4-E2B-it"]

# The real checkpoint's, as far as text and images go.
TEMPLATE = (
    "{{ bos_token }}\n{%- if enable_thinking is defined and enable_thinking -%}\n"
    "    {{- '<|turn>system\\n' -}}\n    {{- '<|think|>\\n' -}}\n    {{- '<turn|>\\n' -}}\n{%- endif %}\n"
    "{%- for message in messages -%}\n"
    "    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}\n"
    "    {{- '<|turn>' + role + '\\n' }}\n    {%- if message['content'] is string -%}\n"
    "        {{- message['content'] | trim -}}\n    {%- else -%}\n"
    "        {%- for part in message['content'] -%}\n            {%- if part['type'] == 'text' -%}\n"
    "                {{ part['text'] | trim }}\n            {%- elif part['type'] == 'image' -%}\n"
    "                {{- '<|image|>' -}}\n            {%- endif -%}\n        {%- endfor -%}\n    {%- endif -%}\n"
    "    {{- '<turn|>\\n' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n    {{- '<|turn>model\\n' -}}\n"
    "{%- endif -%}\n"
)


def _settings():
    """Two layers of narrow heads, two of wide ones, of which the last takes keys and values from the one before; the
    image attends to itself in both directions, as in the larger checkpoints. The window is shorter than an image."""
    base, _, _ = bases.TINY[REAL.tiny]()
    tokenizer = make_tokenizer(REAL.tiny, REAL.tokens)
    ids = tokenizer.get_vocab()
    text = base.text_config
    config = Gemma4Config(
        text_config={
            "vocab_size": len(tokenizer),
            "vocab_size_per_layer_input": len(tokenizer),
            "hidden_size": text.hidden_size,
            "hidden_size_per_layer_input": 8,
            "intermediate_size": text.intermediate_size,
            "use_double_wide_mlp": True,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 1,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "global_head_dim": 32,
            "max_position_embeddings": 2048,
            "sliding_window": 48,
            "use_bidirectional_attention": "vision",
            "final_logit_softcapping": 30.0,
            "initializer_range": bases.INITIALIZER_RANGE,
        },
        vision_config={
            "hidden_size": bases.VISION_WIDTH,
            "intermediate_size": 2 * bases.VISION_WIDTH,
            "num_hidden_layers": bases.VISION_LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 24,
            "patch_size": 8,
            "pooling_kernel_size": 2,
            "position_embedding_size": 160,
            "initializer_range": bases.INITIALIZER_RANGE,
        },
        image_token_id=ids["<|image|>"],
        boi_token_id=ids["<|image>"],
        eoi_token_id=ids["<image|>"],
        initializer_range=bases.INITIALIZER_RANGE,
    )
    return config, tokenizer, Gemma4ImageProcessorPil(patch_size=8, pooling_kernel_size=2, max_soft_tokens=70)


def seen(vlm: Vlm, encoded: EncodedImage):
    """The processor lists patches row by row, and those that fill up last."""
    merged = vlm.image_processor.pooling_kernel_size
    rows, cols = encoded.grid.rows, encoded.grid.cols
    patches = encoded.pixels["pixel_values"][0, : rows * cols * merged**2]
    return patches.reshape(rows, merged, cols, merged, -1).transpose(1, 2).reshape(rows * cols, -1)


def _adapted(layer: int) -> int:
    """Every fifth layer has wide heads; the last twenty have queries alone."""
    width = 512 if layer % 5 == 4 else 256
    return 8 * (1536 + 8 * width) + (2 * 8 * (1536 + width) if layer < 15 else 0)


FACTS = Facts(
    settings=_settings,
    real_settings=REAL.settings,
    template=TEMPLATE,
    caption="<bos><|turn>user\n<image>What is this photo?<turn|>\n<|turn>model\nThis is a photo of {phrase}.<turn|>\n",
    layers=35,
    heads=8,
    parameters=5_104_297_504,
    adapted_layer={layer: _adapted(layer) for layer in range(35)},
    grid_at_640x480=TokenGrid(14, 19),
    visual_tokens={(640, 480): 266, (640, 640): 256, (640, 427): 260, (200, 145): 266},
    patches_per_token=9,
    seen=seen,
    closing="<turn|>",
)
