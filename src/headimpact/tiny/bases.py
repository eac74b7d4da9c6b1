"""The tiny bases: the real architectures at toy size, with tokenizers of their families' conventions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Gemma3Config,
    Gemma3ImageProcessorPil,
    Idefics3Config,
    Idefics3ImageProcessorPil,
    LlamaConfig,
    PaliGemmaConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)
from transformers.models.gemma2 import Gemma2Config
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from headimpact.data import scenes
from headimpact.vlm import attention
from headimpact.vlm.base import Vlm
from headimpact.vlm.families import family_class

# At 0.02 a decoder this narrow stays at chance for thousands of steps.
INITIALIZER_RANGE = 0.08
WIDTH = 96
LAYERS = 14
VISION_WIDTH = 96
VISION_LAYERS = 4

_PROMPT_WORDS = """
    What is this photo ? This is a photo of an the in shown Choose one the options describe answer en You are helpful
    assistant system user User Assistant A B C D E yes no and or how many which where colour shape pattern object
    objects picture image there
"""


def _words() -> list[str]:
    groups = (scenes.TEXTURES, scenes.COLOURS, scenes.SHAPES, scenes.VERTICALS, scenes.HORIZONTALS)
    return sorted({word for group in groups for word in group} | set(_PROMPT_WORDS.split()))


def _byte_level_tokenizer(special: list[str], **names: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in Qwen2-VL and SmolVLM; every word of the scenes is one token, with or without the space
    before it, and any other text falls apart into bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [text for word in _words() for text in (word, f" {word}")]
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus, "\n\n"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _sentencepiece_tokenizer(special: list[str], **names: str) -> PreTrainedTokenizerFast:
    """BPE as in Gemma: spaces become a visible mark, unknown characters fall back to bytes."""
    draft = Tokenizer(models.BPE())
    draft.normalizer = normalizers.Replace(" ", "▁")
    words = Regex("▁?[A-Za-z]+|▁?[^A-Za-z▁]|▁")
    draft.pre_tokenizer = pre_tokenizers.Split(words, behavior="isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        special_tokens=special,
        initial_alphabet=[*map(chr, range(33, 127)), "▁", "\n"],
        show_progress=False,
    )
    draft.train_from_iterator([text for word in _words() for text in (word, f" {word}")], trainer)
    model = json.loads(draft.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = draft.normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _paligemma2() -> tuple[PaliGemmaConfig, PreTrainedTokenizerFast, SiglipImageProcessorPil]:
    tokenizer = _sentencepiece_tokenizer(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<image>"],
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
    )
    text = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=224,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        query_pre_attn_scalar=16,
        max_position_embeddings=2048,
        sliding_window=2048,
        initializer_range=INITIALIZER_RANGE,
    )
    vision = SiglipVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=112,
        patch_size=14,
        vision_use_head=False,
    )
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.get_vocab()["<image>"],
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        vocab_size=len(tokenizer),
    )
    return config, tokenizer, SiglipImageProcessorPil(size={"height": 112, "width": 112})


def _gemma3() -> tuple[Gemma3Config, PreTrainedTokenizerFast, Gemma3ImageProcessorPil]:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    special += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    tokenizer = _sentencepiece_tokenizer(
        special, pad_token="<pad>", eos_token="<end_of_turn>", bos_token="<bos>", unk_token="<unk>"
    )
    ids = tokenizer.get_vocab()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 224,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        # Queries and keys are normalised: this is how sharp attention can get, and at 16 it is hardly sharp at all.
        "query_pre_attn_scalar": 4,
        "max_position_embeddings": 2048,
        "sliding_window": 512,
        "initializer_range": INITIALIZER_RANGE,
        "pad_token_id": ids["<pad>"],
        "bos_token_id": ids["<bos>"],
        "eos_token_id": ids["<end_of_turn>"],
    }
    vision = SiglipVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=112,
        patch_size=7,
        vision_use_head=False,
    )
    config = Gemma3Config(
        text_config=text,
        vision_config=vision.to_dict(),
        mm_tokens_per_image=64,
        image_token_index=ids["<image_soft_token>"],
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        initializer_range=INITIALIZER_RANGE,
    )
    return config, tokenizer, Gemma3ImageProcessorPil(size={"height": 112, "width": 112})


def _qwen2_vl() -> tuple[Qwen2VLConfig, PreTrainedTokenizerFast, Qwen2VLImageProcessorPil]:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    tokenizer = _byte_level_tokenizer(special, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    ids = tokenizer.get_vocab()
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 224,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "initializer_range": INITIALIZER_RANGE,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": VISION_LAYERS,
            "embed_dim": VISION_WIDTH,
            "hidden_size": WIDTH,
            "mlp_ratio": 2,
            "num_heads": 4,
            "patch_size": 8,
            "initializer_range": INITIALIZER_RANGE,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    size = {"shortest_edge": 64 * 64, "longest_edge": 192 * 192}
    return config, tokenizer, Qwen2VLImageProcessorPil(patch_size=8, size=size)


def _smolvlm() -> tuple[Idefics3Config, PreTrainedTokenizerFast, Idefics3ImageProcessorPil]:
    special = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>"]
    special += ["<global-img>", *(f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2))]
    tokenizer = _byte_level_tokenizer(special, pad_token="<|endoftext|>", eos_token="<end_of_utterance>")
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=224,
        num_hidden_layers=LAYERS,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=tokenizer.get_vocab()["<|im_start|>"],
        eos_token_id=tokenizer.get_vocab()["<end_of_utterance>"],
        pad_token_id=tokenizer.get_vocab()["<|endoftext|>"],
        tie_word_embeddings=True,
    )
    # As in SmolVLM, the crop is a little wider than its whole patches: the last 2 of 66 pixels are never seen.
    config = Idefics3Config(
        text_config=text.to_dict(),
        vision_config={
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 2 * VISION_WIDTH,
            "num_hidden_layers": VISION_LAYERS,
            "num_attention_heads": 4,
            "image_size": 66,
            "patch_size": 8,
            "initializer_range": INITIALIZER_RANGE,
        },
        image_token_id=tokenizer.get_vocab()["<image>"],
        scale_factor=2,
        tie_word_embeddings=True,
    )
    return (
        config,
        tokenizer,
        Idefics3ImageProcessorPil(size={"longest_edge": 132}, max_image_size={"longest_edge": 66}),
    )


TINY: dict[str, Callable] = {
    "tiny-paligemma2": _paligemma2,
    "tiny-qwen2-vl": _qwen2_vl,
    "tiny-smolvlm": _smolvlm,
    "tiny-gemma3": _gemma3,
}


def build(name: str, seed: int) -> Vlm:
    """A tiny base with random weights, the same for the same seed.

    Args:
        name: a key of ``TINY``.
        seed: of torch's generator.
    """
    config, tokenizer, image_processor = TINY[name]()
    family = family_class(config.model_type)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config._attn_implementation = {"text_config": attention.NAME, "vision_config": "sdpa"}
        model = family.model_class(config)
    tokenizer.chat_template = family.own_template
    return family(model, tokenizer, image_processor, family.own_template, name, None, "")


def save(vlm: Vlm, folder: Path) -> None:
    """Write a base in the ordinary ``save_pretrained`` layout, weights as safetensors."""
    vlm.model.save_pretrained(folder)
    # safetensors writes files that their owner alone can read, whatever the umask.
    shutil.copymode(folder / CONFIG_NAME, folder / SAFE_WEIGHTS_NAME)
    vlm.tokenizer.save_pretrained(folder)
    vlm.image_processor.save_pretrained(folder)
