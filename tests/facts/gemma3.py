"""Gemma 3."""

from transformers import Gemma3Config, Gemma3ImageProcessorPil

from facts import Facts, paligemma
from headimpact.lifecycle.rehearsal.checkpoints import make_tokenizer, published
from headimpact.tiny import bases
from headimpact.vlm.tokengrid import TokenGrid

REAL = published()["google/gemma-3-4b-it"]

# The real checkpoint's, as far as text and images go.
TEMPLATE = (
    "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n"
    "    {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}\n"
    '    {%- set loop_messages = messages[1:] -%}\n{%- else -%}\n    {%- set first_user_prefix = "" -%}\n'
    "    {%- set loop_messages = messages -%}\n{%- endif -%}\n{%- for message in loop_messages -%}\n"
    "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
    '        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}\n'
    "    {%- endif -%}\n    {%- if (message['role'] == 'assistant') -%}\n        {%- set role = \"model\" -%}\n"
    "    {%- else -%}\n        {%- set role = message['role'] -%}\n    {%- endif -%}\n"
    "    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else \"\") }}\n"
    "    {%- for part in message['content'] -%}\n        {%- if part['type'] == 'image' -%}\n"
    "            {{ '<start_of_image>' }}\n        {%- elif part['type'] == 'text' -%}\n"
    "            {{ part['text'] | trim }}\n        {%- endif -%}\n    {%- endfor -%}\n    {{ '<end_of_turn>\\n' }}\n"
    "{%- endfor -%}\n{%- if add_generation_prompt -%}\n    {{'<start_of_turn>model\\n'}}\n{%- endif -%}\n"
)


def _settings():
    """The window is shorter than an image: what is said about it sees a part of it in every other layer."""
    base, _, _ = bases.TINY[REAL.tiny]()
    tokenizer = make_tokenizer(REAL.tiny, REAL.tokens)
    ids = tokenizer.get_vocab()
    text, vision = base.text_config, base.vision_config
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "max_position_embeddings": 2048,
            "sliding_window": 48,
            "sliding_window_pattern": 2,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "initializer_range": bases.INITIALIZER_RANGE,
        },
        vision_config=vision.to_dict() | {"patch_size": 7},
        mm_tokens_per_image=64,
        image_token_index=ids["<image_soft_token>"],
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        initializer_range=bases.INITIALIZER_RANGE,
    )
    return config, tokenizer, Gemma3ImageProcessorPil(size={"height": 112, "width": 112})


FACTS = Facts(
    settings=_settings,
    real_settings=REAL.settings,
    template=TEMPLATE,
    caption="<bos><start_of_turn>user\n<image>What is this photo?<end_of_turn>\n"
    "<start_of_turn>model\nThis is a photo of {phrase}.<end_of_turn>\n",
    layers=34,
    heads=8,
    parameters=4_300_079_472,
    adapted_layer=8 * (2560 + 8 * 256 + 2 * (2560 + 4 * 256)),
    grid_at_640x480=TokenGrid(16, 16),
    visual_tokens={(640, 480): 256, (37, 911): 256, (1920, 1080): 256},
    patches_per_token=16,
    seen=paligemma.seen,
    closing="<end_of_turn>",
)
