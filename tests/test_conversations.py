"""Prompts by the real checkpoints' templates, and description tokens whatever the tokenizer merges."""

from collections.abc import Callable
from functools import cache

import pytest
from family_facts import FACTS, QWEN2_VL_TEMPLATE, SMOLVLM_TEMPLATE, tiny
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headimpact.errors import InputError
from headimpact.vlm.base import Vlm
from headimpact.vlm.conversations import Conversation
from headimpact.vlm.packing import Tokens

PHRASES = [
    "dog",
    "red dog",
    "a dog, a dog",
    "café",
    "cafe\u0301 au lait",
    "日本",
    "日本の犬 🐕 dog",
    "🦮",
    "👩‍👩‍👧 family",
    "photo",
    "assistant",
    "What is this photo?",
    "This is a photo of dog.",
    "describe en",
    "answer en",
    "dog.",
    "...",
    "3 men's hats.",
    "red  dog",
    "straße ﬁne ½",
]

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


def vlm_with(family: str, tokenizer: str, template: str | None) -> Vlm:
    base = tiny(family)
    return type(base)(base.model, tokenizer_of(tokenizer), base.image_processor, template, family, None, "")


def grid(vlm: Vlm):
    return vlm.grid(128, 96)


def spans(vlm: Vlm, tokens: Tokens) -> dict[int, tuple[int, int]]:
    """The characters that each token behind the image covers, by decoding growing prefixes; a token may hold part
    of a character."""
    cut = int(tokens.visual[-1]) + 1

    def decoded(first: int, last: int) -> str:
        return vlm.tokenizer.decode(tokens.ids[first:last].tolist(), skip_special_tokens=False)

    found, head = {}, len(decoded(0, cut))
    for index in range(cut, len(tokens.ids)):
        before, after = decoded(cut, index), decoded(cut, index + 1)
        begin, end = len(before.rstrip("\ufffd")), len(after.rstrip("\ufffd")) + after.endswith("\ufffd")
        found[index] = (head + begin, head + end)
    return found


def check(vlm: Vlm, conversation: Conversation, text: str, answer: tuple[int, int], target: tuple[int, int]) -> Tokens:
    """Answer and target are the tokens that cover these characters of ``text``, in which the image is expanded."""
    tokens = vlm.tokenize(conversation, grid(vlm))
    where = spans(vlm, tokens)
    assert vlm.tokenizer.decode(tokens.ids.tolist(), skip_special_tokens=False) == text
    for got, (first, last) in ((tokens.answer, answer), (tokens.target, target)):
        assert got.tolist() == [i for i, (begin, end) in where.items() if end > first and begin < last]
    return tokens


def expected_text(vlm: Vlm, family: str, phrase: str) -> tuple[str, tuple[int, int], tuple[int, int]]:
    """The text of the design with the image expanded; where the answer (with its end) and the phrase are."""
    before, after = FACTS[family].caption.split("{phrase}")
    before = before.replace("<image>", vlm.expand_image(grid(vlm)))
    start = len(before) - len("" if family == "paligemma" else "This is a photo of ")
    phrase_at = (len(before), len(before) + len(phrase))
    return before + phrase + after, (start, phrase_at[1] + len(after.rstrip())), phrase_at


CASES = [("qwen2_vl", name) for name in TOKENIZERS if name != "sentencepiece"]
CASES += [
    ("idefics3", "bytes"),
    ("idefics3", "bytes-words"),
    ("paligemma", "sentencepiece"),
    ("qwen2_vl", "sentencepiece"),
]


@pytest.mark.parametrize(("family", "tokenizer"), CASES)
def test_description_tokens_are_those_that_cover_the_phrase(family, tokenizer):
    vlm = vlm_with(family, tokenizer, FACTS[family].template)
    for phrase in PHRASES:
        if tokenizer == "bytes-nfc" and phrase.startswith("cafe\u0301"):
            continue  # decodes to other characters: the next test
        text, answer, target = expected_text(vlm, family, phrase)
        tokens = check(vlm, vlm.caption(phrase), text, answer, target)
        assert phrase in vlm.tokenizer.decode(tokens.ids[tokens.target].tolist())


def test_a_normaliser_that_composes_characters_moves_no_token():
    vlm = vlm_with("qwen2_vl", "bytes-nfc", QWEN2_VL_TEMPLATE)
    tokens = vlm.tokenize(vlm.caption("cafe\u0301 au lait"), grid(vlm))
    found = vlm.tokenizer.decode(tokens.ids[tokens.target].tolist())
    assert "café au lait" in found
    assert found.strip() in ("café au lait", "café au lait.", "of café au lait", "of café au lait.")
    only = vlm.tokenize(vlm.caption("e\u0301"), grid(vlm))
    assert "é" in vlm.tokenizer.decode(only.ids[only.target].tolist())


def test_the_tokenizers_do_merge_across_the_phrases_ends():
    for family, name, phrase in (("qwen2_vl", "bytes", "dog"), ("paligemma", "sentencepiece", "dog")):
        vlm = vlm_with(family, name, FACTS[family].template)
        tokens = vlm.tokenize(vlm.caption(phrase), grid(vlm))
        glued = vlm.tokenizer.decode(tokens.ids[tokens.target].tolist())
        assert glued != phrase
        assert phrase in glued
    split = vlm_with("qwen2_vl", "bytes", QWEN2_VL_TEMPLATE)
    assert len(split.tokenize(split.caption("🦮"), grid(split)).target) > 1
    split = vlm_with("paligemma", "sentencepiece", None)
    assert len(split.tokenize(split.caption("🦮"), grid(split)).target) == 4


@pytest.mark.parametrize(
    ("family", "tokenizer"), [("qwen2_vl", "bytes"), ("idefics3", "bytes-words"), ("paligemma", "sentencepiece")]
)
def test_white_space_around_a_phrase_is_no_part_of_the_description(family, tokenizer):
    vlm = vlm_with(family, tokenizer, FACTS[family].template)
    for phrase in (" red dog", "red dog ", "\tred dog\n"):
        assert vlm.caption(phrase) == vlm.caption("red dog")


@pytest.mark.parametrize(("family", "tokenizer"), CASES)
def test_a_phrase_that_was_said_before_counts_where_it_is_answered(family, tokenizer):
    vlm = vlm_with(family, tokenizer, FACTS[family].template)
    conversation = Conversation("Is it dog. or a photo of dog.?", "dog. It is dog, not dog.", (12, 15))
    text = vlm.render(conversation.user, conversation.answer)
    expanded = text.replace(vlm.image_placeholder, vlm.expand_image(grid(vlm)))
    start = expanded.rindex(conversation.answer)
    end = len(expanded.rstrip())
    check(vlm, conversation, expanded, (start, end), (start + 12, start + 15))


BEHIND = QWEN2_VL_TEMPLATE.replace(
    "{% if add_generation_prompt %}",
    "{% if messages | length > 1 and not add_generation_prompt %}<|im_start|>user\nWas it {{ '' }}dog.? "
    "This is a photo of dog.{% endif %}{% if add_generation_prompt %}",
)


def test_text_that_a_template_writes_behind_the_answer_is_no_part_of_it():
    vlm = vlm_with("qwen2_vl", "bytes", BEHIND)
    conversation = vlm.caption("dog")
    text = vlm.render(conversation.user, conversation.answer)
    assert text.endswith("<|im_start|>user\nWas it dog.? This is a photo of dog.")
    expanded = text.replace("<|image_pad|>", vlm.expand_image(grid(vlm)))
    start = expanded.index(conversation.answer)
    stop = start + len(conversation.answer)
    tokens = check(vlm, conversation, expanded, (start, stop + len("<|im_end|>")), (stop - 4, stop - 1))
    assert vlm.tokenizer.decode(tokens.ids[tokens.answer][-1:]) == "<|im_end|>"


@pytest.mark.parametrize("trim", ["trim", "string"])
def test_an_answer_that_a_template_trims_is_found(trim):
    template = QWEN2_VL_TEMPLATE.replace("{{ part['text'] }}", "{{ part['text'] | " + trim + " }}")
    vlm = vlm_with("qwen2_vl", "bytes-words", template)
    conversation = Conversation("What?", "  red dog \n", (2, 9))
    tokens = vlm.tokenize(conversation, grid(vlm))
    assert vlm.tokenizer.decode(tokens.ids[tokens.target].tolist()).strip() == "red dog"
    assert vlm.tokenizer.decode(tokens.ids[tokens.answer][-1:]) == "<|im_end|>"
    wide = vlm.tokenize(Conversation("What?", "  red dog \n", (0, 11)), grid(vlm))
    assert vlm.tokenizer.decode(wide.ids[wide.target].tolist()).strip() == "red dog"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (SMOLVLM_TEMPLATE.replace("{{ part['text'] }}", "{{ part['text'] | upper }}"), "does not repeat the answer"),
        (SMOLVLM_TEMPLATE.replace("{{ part['text'] }}", "{{ part['text'] * 2 }}"), "does not repeat the answer"),
        (SMOLVLM_TEMPLATE.replace("{{ part['text'] }}", ""), "does not repeat the answer"),
        (SMOLVLM_TEMPLATE.replace("{{ '<image>' }}", ""), "places no image"),
        ("{% for m in messages %}{{ m['content'] + '!' }}{% endfor %}", "takes no conversation about an image"),
        ("{% for m in messages %}{{ m.who.name }}{% endfor %}", "takes no conversation about an image"),
        ("{{ 1 / 0 }}", "takes no conversation about an image: division by zero"),
        ("{% for m in messages %}", "takes no conversation about an image"),
        ("{{ raise_exception('text alone') }}", "takes no conversation about an image: text alone"),
    ],
)
def test_a_template_that_cannot_hold_the_conversation_is_refused(template, message):
    vlm = vlm_with("idefics3", "bytes", template)
    with pytest.raises(InputError, match=message):
        vlm.tokenize(vlm.caption("dog"), grid(vlm))
