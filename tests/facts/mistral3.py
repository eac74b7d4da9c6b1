"""Mistral 3: a tiny Ministral 3, and the real Mistral Small 3.1."""

from transformers import Mistral3Config, PixtralImageProcessorPil

from facts import Facts, llava, paligemma
from headimpact.lifecycle.rehearsal.checkpoints import make_tokenizer, published
from headimpact.vlm.tokengrid import TokenGrid

REAL = published()["mistralai/Mistral-Small-3.1-24B-Instruct-2503"]

# The real checkpoint's, as far as text and images go; before [INST] it has a system prompt with the day's date.
TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{%- if message['content'] is string %}{{- '[INST]' + message['content'] + '[/INST]' }}{%- else %}"
    "{{- '[INST]' }}{%- for part in message['content'] %}{%- if part['type'] == 'text' %}{{ part['text'] }}"
    "{%- elif part['type'] in ['image', 'image_url'] %}{{- '[IMG]' }}{%- endif %}{%- endfor %}{{- '[/INST]' }}"
    "{%- endif %}{%- elif message['role'] == 'assistant' %}"
    "{% for part in message['content'][:1] %}{{ part['text'] }}{% endfor %}{{- eos_token }}{%- endif %}{%- endfor %}"
)


def _settings():
    """Queries are scaled from position 16 on."""
    tokenizer = make_tokenizer(REAL.tiny, REAL.tokens)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    config = Mistral3Config(
        text_config=llava.decoder(tokenizer)
        | {
            "model_type": "ministral3",
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "llama_4_scaling_beta": 0.1,
                "original_max_position_embeddings": 16,
            },
        },
        vision_config=llava.vision(192, 4) | {"model_type": "pixtral"},
        image_token_index=tokenizer.get_vocab()["[IMG]"],
        tie_word_embeddings=False,
    )
    patch = {"height": 4, "width": 4}
    return config, tokenizer, PixtralImageProcessorPil(size={"longest_edge": 192}, patch_size=patch)


FACTS = Facts(
    settings=_settings,
    real_settings=REAL.settings,
    template=TEMPLATE,
    caption="<s>[INST]<image>What is this photo?[/INST]This is a photo of {phrase}.</s>",
    layers=40,
    heads=32,
    parameters=24_011_361_280,
    adapted_layer=8 * (5120 + 4096 + 2 * (5120 + 1024)),
    grid_at_640x480=TokenGrid(18, 23),
    visual_tokens={
        (37, 911): 66,
        (1920, 1080): 1705,
        (28, 28): 1,
        (333, 777): 336,
        (4000, 300): 275,
        (640, 480): 414,
        (640, 640): 529,
        (640, 427): 368,
        (200, 145): 48,
    },
    patches_per_token=4,
    seen=paligemma.seen,
)
