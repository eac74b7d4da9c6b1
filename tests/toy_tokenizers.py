"""Tokenizers that merge where the real ones do, and where they might: across words, line ends and templates."""

from collections.abc import Callable
from functools import cache

from family_facts import tiny
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headimpact.vlm.base import Vlm

_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
_SPECIAL += ["<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
_SPECIAL += ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2))]
# What is said so often here becomes one token, across words, line ends and punctuation.
_OFTEN = ["This is a photo of dog.", "This is a photo of red dog.", "assistant\nThis is a photo of", " café.", "A) dog"]
_OFTEN += ["describe en\ndog", "describe en\nred dog", "日本", "photo.", "a dog, a dog", "What is this photo?"]


def _special() -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in _SPECIAL]


def _byte_level(trim_offsets: bool, regex: bool, normalizer: normalizers.Normalizer | None) -> PreTrainedTokenizerFast:
    """As in Qwen2-VL and SmolVLM."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        min_frequency=1,
        special_tokens=_special(),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_OFTEN, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def _sentencepiece() -> PreTrainedTokenizerFast:
    """As in Gemma: a visible mark for spaces, merges across words, bytes for unknown characters."""
    draft = Tokenizer(models.BPE())
    draft.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        min_frequency=1,
        initial_alphabet=[*map(chr, range(33, 127)), "▁", "\n"],
        limit_alphabet=130,
        show_progress=False,
    )
    draft.train_from_iterator([text for text in _OFTEN if text != "日本"], trainer)
    vocabulary = {token: number for number, token in enumerate([*_SPECIAL, *(f"<0x{b:02X}>" for b in range(256))])}
    learned = draft.get_vocab()
    for token in sorted(learned, key=lambda token: learned[token]):
        vocabulary.setdefault(token, len(vocabulary))
    merges = [(left, token[len(left) :]) for token in sorted(learned, key=lambda t: learned[t]) for left in _cut(token)]
    merges = [pair for pair in merges if pair[0] in learned and pair[1] in learned]
    model = models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = draft.normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(_special())
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


def _cut(token: str) -> list[str]:
    return [token[:at] for at in range(1, len(token))]


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes": lambda: _byte_level(False, False, None),
    "bytes-trimmed": lambda: _byte_level(True, False, None),
    "bytes-words": lambda: _byte_level(True, True, None),
    "bytes-nfc": lambda: _byte_level(False, False, normalizers.NFC()),
    "sentencepiece": _sentencepiece,
}
tokenizer_of = cache(lambda name: TOKENIZERS[name]())
"""Built once a process; to be left as it is."""


def vlm_with(family: str, tokenizer: str, template: str | None) -> Vlm:
    """A tiny model of a family behind one of ``TOKENIZERS``."""
    base = tiny(family)
    return type(base)(base.model, tokenizer_of(tokenizer), base.image_processor, template, family, None, "")
