"""Short cuts of rendering and tokenising give what the whole way gives."""

import dataclasses
import re
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from family_facts import facts, families, kinds, tiny
from tokenizers import AddedToken
from toy_tokenizers import TOKENIZERS, vlm_with
from transformers import PreTrainedTokenizerFast

from headimpact.errors import InputError
from headimpact.vlm import conversations, options
from headimpact.vlm.base import Vlm
from headimpact.vlm.conversations import OPTION_LABELS, ChatFormat, Conversation, RenderedConversation
from headimpact.vlm.families import FAMILIES
from headimpact.vlm.tokengrid import TokenGrid
from headimpact.vlm.tokenizing import ImageText, TextTokenizer, TokenizedText

USERS = [
    "What is this photo?",
    "dog",
    "",
    " ",
    " dog. \n",
    "a dog, a dog",
    "日本の犬 🐕 cafe\u0301",
    "{{ x }} <&> \"'\\",
]
USERS += ["<|im_end|>\n<|im_start|>assistant\ndog<eos>", "A\nA)", "x\ue001y", "x\ue000y", "UPPER lower"]
ANSWERS = [
    "dog",
    "dog.",
    "This is a photo of dog.",
    " dog",
    "dog \n",
    "日本",
    "🦮",
    "A.",
    "photo",
    "Assistant",
    "x\ue000y",
]
ANSWERS += ["<|im_end|>", "\ue001", "{% raw %}", "straße ﬁne"]
SPLIT = "{% set text = part['text'].split('dog')[-1] %}{{ text }}"
TEMPLATES = {
    "plain": "{{ part['text'] }}",
    "trimmed": "{{ part['text'] | trim }}",
    "upper": "{{ part['text'] | upper }}",
    "twice": "{{ part['text'] * 2 }}",
    "none": "",
    "padded": "{{ ' ' ~ part['text'] ~ ' \n' }}",
    "escaped": "{{ part['text'] | e }}",
    "quoted": "{{ part['text'] | tojson }}",
    "cut": SPLIT,
    "short": "{{ part['text'][:8] }}",
    "by content": "{% if 'dog' in part['text'] %}Look: {% endif %}{{ part['text'] }}",
    "by label": "{% if 'B' in part['text'] %}Look: {% endif %}{{ part['text'] }}",
    "by length": "{{ part['text'] | length }}{{ part['text'] }}",
    "captured": "{% set text %}{{ part['text'] }}{% endset %}{{ text | trim }}",
    "refusing": "{% if part['text'] == 'dog' %}{{ raise_exception('a dog') }}{% endif %}{{ part['text'] }}",
}
LABELLED = ["dog", "a red dog", "日本", "A) dog", "B.", "<|im_end|>", "This is a photo of dog."]


def grid_of(family: str) -> TokenGrid:
    """That of an image, in several crops where the family cuts it."""
    return tiny(family).grid(132, 99)


def render_answer(chat: ChatFormat, user: str, answer: str) -> RenderedConversation:
    """The whole way: two renderings."""
    text = chat.render(user, answer)
    before, _, after = chat.render(user, "\ue000").partition("\ue000")
    written = text[len(before) : len(text) - len(after)]
    if text != before + written + after or written.strip() != answer.strip():
        raise InputError(f"{chat.source}: the chat template does not repeat the answer {answer!r} once, as it is.")
    start = len(before) + len(written) - len(written.lstrip())
    return RenderedConversation(text, start, start + len(written.strip()), len(answer) - len(answer.lstrip()))


def tokenize_text(texts: TextTokenizer, text: str, image: ImageText) -> TokenizedText:
    """The whole way: all visual tokens through the tokenizer."""
    before, placeholder, after = text.partition(texts.image_placeholder)
    if not placeholder:
        raise InputError("places no image")
    head = before + image.text
    encoding = texts.tokenizer(head + after, add_special_tokens=False, return_offsets_mapping=True, return_tensors="np")
    ids = torch.from_numpy(encoding["input_ids"][0])
    begin, end = torch.from_numpy(encoding["offset_mapping"][0]).unbind(1)
    visual = (ids == texts.image_token_id).nonzero()[:, 0]
    if len(visual) != image.tokens + len(image.separators):
        raise InputError("The text must not contain")
    visual = torch.tensor([place for i, place in enumerate(visual.tolist()) if i not in image.separators])
    shift = len(head) - len(before) - len(placeholder)
    begin, end = begin - shift, end - shift
    if not texts.begins:
        return TokenizedText(ids, visual, begin, end)
    zero, first = torch.zeros(1, dtype=torch.long), torch.tensor([texts.tokenizer.bos_token_id])
    return TokenizedText(torch.cat([first, ids]), visual + 1, torch.cat([zero, begin]), torch.cat([zero, end]))


def question_tokens(vlm: Vlm, listed: Sequence[str], label: int, grid: TokenGrid):
    """The whole way: every label in the whole conversation."""
    variants = []
    for name in OPTION_LABELS[: len(listed)]:
        conversation = vlm.question(listed, name)
        rendered = render_answer(vlm.chat, conversation.user, conversation.answer)
        tokens = tokenize_text(vlm.chat.texts, rendered.text, vlm.image_text(grid))
        variants.append(vlm.chat.locate(conversation, rendered, tokens))
    if any(len(v.target) != 1 or v.target[0] != variants[0].target[0] for v in variants):
        raise InputError("an option label is not a single token")
    return variants[label], torch.stack([v.ids[v.target[0]] for v in variants])


def outcome(function, *arguments):
    """What comes out: a result, or the first words of an error."""
    try:
        return function(*arguments)
    except InputError as error:
        return next((part for part in _ERRORS if part in str(error)), str(error))


_ERRORS = ["does not repeat the answer", "places no image", "must not contain", "is not a single token"]


def same(one, other) -> bool:
    """Whether two outcomes are the same to the last index."""
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and one == other
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if dataclasses.is_dataclass(one):
        one, other = ([getattr(value, field.name) for field in dataclasses.fields(one)] for value in (one, other))
    return one == other if isinstance(one, int) else len(one) == len(other) and all(map(same, one, other))


def chat_of(family: str, written: str) -> ChatFormat:
    """A family's format with another way to write texts."""
    template = facts(family).template
    vlm = tiny(family)
    if template is None:
        template = (
            "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
            "<image><bos>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
            "{{ '\n' if message['role'] == 'user' else '<eos>' }}{% endfor %}"
        )
    template, replaced = re.subn(r"{{ part\['text'\]( \| trim)? }}", lambda _: written, template)
    assert replaced
    return ChatFormat(vlm.tokenizer, template, vlm.image_placeholder, vlm.image_token, family, vlm.begins)


def count_renderings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is rendered from now on."""
    rendered: list[str] = []
    whole = ChatFormat.render

    def render(self, user, answer):
        rendered.append(user)
        return whole(self, user, answer)

    monkeypatch.setattr(ChatFormat, "render", render)
    return rendered


@kinds()
@pytest.mark.parametrize("written", TEMPLATES)
def test_one_rendering_finds_the_answer_where_two_do(family, written):
    chat = chat_of(family, TEMPLATES[written])
    for index, (user, answer) in enumerate(product(USERS, ANSWERS)):
        if index % 4:  # a quarter of them meets every user's text and every answer
            continue
        expected = outcome(render_answer, chat, user, answer)
        assert same(outcome(chat.render_answer, user, answer), expected), (user, answer)


@families()
def test_a_conversation_is_rendered_once(family, monkeypatch):
    # A family's own template may trim texts, as Gemma 3's does: one with space around it is rendered twice then.
    formats = [(tiny(family).chat, "")]
    own = facts(family).template
    if own is None or "part['text']" in own:  # GLM-4.1V's is written in another way
        formats.append((chat_of(family, TEMPLATES["plain"]), " "))
    for chat, space in formats:
        assert chat.frame is not None
        rendered = count_renderings(monkeypatch)
        chat.render_answer("What is it?", "dog")
        chat.render_answer(f"{space}What is it?{space}", f"{space}a dog.{space}")
        assert len(rendered) == 2
        monkeypatch.undo()


@kinds()
def test_a_frame_is_learnt_of_what_repeats_both_texts_once(family):
    learnt = {name for name, written in TEMPLATES.items() if chat_of(family, written).frame is not None}
    assert learnt >= {"plain", "trimmed", "by content"}
    assert not learnt & {"twice", "none"}


CASES = [("qwen2_vl", name) for name in TOKENIZERS] + [("idefics3", name) for name in TOKENIZERS]
CASES += [("paligemma", name) for name in TOKENIZERS]


@pytest.mark.parametrize(("family", "tokenizer"), [*CASES, *((family, None) for family in FAMILIES)])
def test_an_image_in_short_gives_every_token_of_the_whole(family, tokenizer):
    vlm = tiny(family) if tokenizer is None else vlm_with(family, tokenizer, facts(family).template)
    texts = vlm.chat.texts
    for grid in (grid_of(family), TokenGrid(1, 1)):
        image = vlm.image_text(grid)
        for user in [*USERS[::2], vlm.image_token, f"a{vlm.image_token}b"]:
            text = vlm.render(user, " a dog.\n")
            for broken in (text, f" \n{text}", text.replace(vlm.image_placeholder, f" {vlm.image_placeholder} ")):
                expected = outcome(tokenize_text, texts, broken, image)
                assert same(outcome(texts.tokenize, broken, image), expected), broken


@families()
def test_visual_tokens_are_tokenised_once_a_run(family, monkeypatch):
    vlm = tiny(family)
    seen: list[str] = []
    whole = TextTokenizer.encode

    def encode(self, texts):
        seen.extend(texts)
        return whole(self, texts)

    monkeypatch.setattr(TextTokenizer, "encode", encode)
    grid = grid_of(family)
    assert len(vlm.tokenize(vlm.caption("dog"), grid).visual) == grid.tokens
    (text,) = seen
    runs = re.findall(f"(?:{re.escape(vlm.image_token)})+", vlm.expand_image(grid))
    assert text.count(vlm.image_token) == len(runs) < grid.tokens


@pytest.mark.parametrize("flag", ["normalized", "single_word", "lstrip", "rstrip"])
def test_an_image_token_that_takes_more_than_itself_goes_the_whole_way(flag):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS["bytes"]().backend_tokenizer)
    tokenizer.add_tokens([AddedToken("<picture>", special=True, **{"normalized": False, flag: True})])
    texts = TextTokenizer(tokenizer, "<photo>", "<picture>", "here")
    image = ImageText("<row_1_col_1>" + "<picture>" * 4 + " <picture> ", 5)
    assert tokenizer.convert_tokens_to_ids("<picture>") not in texts.dividing_ids
    for text in ("a <photo> b", "a<photo>b", " <photo>", "<photo>\n"):
        expected = outcome(tokenize_text, texts, text, image)
        assert same(outcome(texts.tokenize, text, image), expected)


def all_options() -> list[list[str]]:
    """Options of questions: texts that tokenizers merge with labels, and that hold marks of turns."""
    return [
        [LABELLED[(start + step * k) % len(LABELLED)] for k in range(4)] for start, step in product(range(7), (1, 2))
    ]


@pytest.mark.parametrize(("family", "tokenizer"), [*CASES, *((family, None) for family in FAMILIES)])
def test_labels_are_the_tokens_of_the_whole_conversations(family, tokenizer):
    vlm = tiny(family) if tokenizer is None else vlm_with(family, tokenizer, facts(family).template)
    grid = grid_of(family)
    for index, listed in enumerate([*all_options(), ["dog", "cat"], ["dog", "cow"]]):
        label = index % len(listed)
        expected = outcome(question_tokens, vlm, listed, label, grid)
        tokens = outcome(vlm.question_tokens, listed, label, grid)
        if not isinstance(tokens, str):
            kinds = ("ids", "visual", "answer", "target")
            expected = ([getattr(expected[0], kind) for kind in kinds], expected[1])
            tokens = ([getattr(tokens[0], kind) for kind in kinds], tokens[1])
        assert same(tokens, expected), listed


@kinds()
@pytest.mark.parametrize("written", TEMPLATES)
def test_labels_are_those_that_the_template_writes(family, written):
    base, chat = tiny(family), chat_of(family, TEMPLATES[written])
    vlm = type(base)(base.model, base.tokenizer, base.image_processor, chat.template, family, None, "")
    for index, listed in enumerate(all_options()):
        expected = outcome(question_tokens, vlm, listed, index % 4, grid_of(family))
        tokens = outcome(vlm.question_tokens, listed, index % 4, grid_of(family))
        assert isinstance(tokens, str) == isinstance(expected, str)
        assert same(tokens, expected) if isinstance(tokens, str) else same(tokens[1], expected[1])


@families()
def test_a_question_is_rendered_and_tokenised_once(family, monkeypatch):
    base = tiny(family)
    vlm = type(base)(base.model, base.tokenizer, base.image_processor, base.template, family, None, "")
    listed = ["a dog", "a cat", "a cow", "a horse"]
    first = vlm.question_tokens(listed, 1, grid_of(family))
    rendered, whole = count_renderings(monkeypatch), []
    tokenize = TextTokenizer.tokenize
    monkeypatch.setattr(TextTokenizer, "tokenize", lambda *arguments: whole.append(1) or tokenize(*arguments))
    again = vlm.question_tokens(listed, 1, grid_of(family))
    assert (len(rendered), len(whole)) == (1, 1)
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[0].ids, again[0].ids)


def test_labels_whose_surroundings_do_not_tell_are_read_in_whole_conversations(monkeypatch):
    base = tiny("qwen2_vl")
    vlm = type(base)(base.model, base.tokenizer, base.image_processor, base.template, "here", None, "")
    listed = ["a dog", "a cat", "a cow", "a horse"]
    expected = vlm.question_tokens(listed, 0, grid_of("qwen2_vl"))[1]
    wrong = lambda self, *_: torch.zeros(4, dtype=torch.long)  # noqa: E731
    monkeypatch.setattr(options.OptionTokens, "_labels_in_short", wrong)
    vlm = type(base)(base.model, base.tokenizer, base.image_processor, base.template, "here", None, "")
    for _ in range(2):
        assert torch.equal(vlm.question_tokens(listed, 0, grid_of("qwen2_vl"))[1], expected)


def test_the_marks_are_no_text():
    assert conversations._USER_MARK != conversations._ANSWER_MARK
    conversation = Conversation("\ue001", "\ue000", (0, 1))
    vlm = tiny("idefics3")
    found = vlm.chat.render_answer(conversation.user, conversation.answer)
    assert found.text[found.start : found.stop] == "\ue000"
