"""Prompts by the real checkpoints' templates, and description tokens whatever the tokenizer merges."""

import pytest
from facts.idefics3 import TEMPLATE as SMOLVLM_TEMPLATE
from facts.qwen2_vl import TEMPLATE as QWEN2_VL_TEMPLATE
from family_facts import facts
from toy_tokenizers import TOKENIZERS, vlm_with

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
    before, after = facts(family).caption.split("{phrase}")
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
    vlm = vlm_with(family, tokenizer, facts(family).template)
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
        vlm = vlm_with(family, name, facts(family).template)
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
    vlm = vlm_with(family, tokenizer, facts(family).template)
    for phrase in (" red dog", "red dog ", "\tred dog\n"):
        assert vlm.caption(phrase) == vlm.caption("red dog")


@pytest.mark.parametrize(("family", "tokenizer"), CASES)
def test_a_phrase_that_was_said_before_counts_where_it_is_answered(family, tokenizer):
    vlm = vlm_with(family, tokenizer, facts(family).template)
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


def test_a_template_that_writes_the_date_writes_the_same_every_day() -> None:
    vlm = vlm_with("qwen2_vl", "bytes", "{{ strftime_now('%Y-%m-%d') }}" + QWEN2_VL_TEMPLATE)
    assert vlm.render("What is it?", None).startswith("2026-01-01<|im_start|>")
