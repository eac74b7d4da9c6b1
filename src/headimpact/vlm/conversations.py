"""A conversation about an image: as text, by a checkpoint's own chat template, and as tokens, in which its answer is
found.

Nothing here knows the model: what stands for the image in the text, and what its visual tokens' positions are, is the
family's (:mod:`headimpact.vlm.base`).
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headimpact.errors import InputError
from headimpact.vlm.tokenizing import ImageText, TextTokenizer, TokenizedText

OPTION_LABELS = ("A", "B", "C", "D")
# For templates that write the day's date, as Mistral's do: what is measured is the same on every day.
_SAME_DAY = "{% macro strftime_now(format) %}2026-01-01{% endmacro %}"
# Characters of the private use area: they stand where an answer or the user's text will be, and no other text has them.
_ANSWER_MARK, _USER_MARK = "\ue000", "\ue001"


@dataclass(frozen=True)
class Conversation:
    """A user turn about one image and the assistant's answer, as text.

    Attributes:
        user: what the user says beside the image.
        answer: what the assistant says.
        target: the characters of interest within ``answer`` (the phrase, or the option label): start, stop.
    """

    user: str
    answer: str
    target: tuple[int, int]


@dataclass(frozen=True)
class TokenizedConversation:
    """A conversation as tokens.

    Attributes:
        ids: token ids of the whole conversation.
        visual: indices of the visual tokens.
        answer: indices of the assistant's answer, its end token included.
        target: indices of the tokens of interest within the answer.
    """

    ids: Int[Tensor, "tokens"]
    visual: Int[Tensor, "visual"]
    answer: Int[Tensor, "answer"]
    target: Int[Tensor, "target"]


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation as text; its answer, without white space around it, is ``text[start:stop]``, and the
    ``trimmed`` first characters of the answer are not in there."""

    text: str
    start: int
    stop: int
    trimmed: int

    def target(self, first: int, last: int) -> tuple[int, int]:
        """The characters ``first`` to ``last`` of the answer, as characters of the text."""
        shift = self.start - self.trimmed
        return max(first + shift, self.start), min(last + shift, self.stop)


@dataclass(frozen=True)
class ChatFrame:
    """What a chat template writes around the user's text and around the answer, where it repeats both as they are."""

    before: str
    between: str
    after: str

    def fill(self, user: str, answer: str) -> str:
        """The conversation as text."""
        return f"{self.before}{user}{self.between}{answer}{self.after}"


@dataclass(frozen=True)
class ChatFormat:
    """How one checkpoint writes a conversation about an image.

    Attributes:
        tokenizer: a fast tokenizer (character offsets are needed).
        template: the chat template, in Jinja.
        image_placeholder: what the template writes for an image.
        image_token: the token that stands for one visual token.
        source: folder or hub name of the checkpoint, for messages.
        begins: the tokenizer's begin token comes first, also where the template does not write it.
    """

    tokenizer: Any
    template: str
    image_placeholder: str
    image_token: str
    source: str
    begins: bool = False

    @cached_property
    def texts(self) -> TextTokenizer:
        """Tokenises what the template writes."""
        return TextTokenizer(self.tokenizer, self.image_placeholder, self.image_token, self.source, self.begins)

    @property
    def image_token_id(self) -> int:
        """Token id of one visual token's place."""
        return self.texts.image_token_id

    @cached_property
    def special_ids(self) -> Int[Tensor, "special"]:
        """Ids of the tokens that are no text: marks of turns, ends, images."""
        added = [i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special]
        return torch.tensor(sorted({*added, *self.tokenizer.all_special_ids}), dtype=torch.long)

    def count_tokens(self, text: str) -> int:
        """The tokens of a text by itself."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def control_token(self, text: str) -> str | None:
        """The first part of a text of somebody else that is no text to the model; None where all of it is.

        It would end a turn, stand for an image, or speak for somebody else: it is written like a control token or an
        image's place, or the tokenizer takes it for one after its own rules (other letters that it takes for the same).
        """
        if found := self._control_names.search(text):
            return found[0]
        control = {*self.special_ids.tolist()} - {self.tokenizer.unk_token_id}  # unknown, but text
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return next((self.tokenizer.convert_ids_to_tokens(i) for i in ids if i in control), None)

    @cached_property
    def _control_names(self) -> re.Pattern[str]:
        names = {*self.tokenizer.convert_ids_to_tokens(self.special_ids.tolist())}
        names |= {self.image_token, self.image_placeholder}
        longest_first = sorted(filter(None, names), key=lambda name: (-len(name), name))
        return re.compile("|".join(map(re.escape, longest_first)))

    @cached_property
    def frame(self) -> ChatFrame | None:
        """What the template writes around marks in the place of both texts; None where it does not repeat each once."""
        try:
            text = self.render(_USER_MARK, _ANSWER_MARK)
        except InputError:
            return None
        before, _, rest = text.partition(_USER_MARK)
        between, mark, after = rest.partition(_ANSWER_MARK)
        once = mark and text.count(_USER_MARK) == text.count(_ANSWER_MARK) == 1
        return ChatFrame(before, between, after) if once else None

    def frame_of(self, user: str, answer: str, text: str) -> ChatFrame | None:
        """The frame of a conversation whose rendered ``text`` is nothing but that around both texts, as they are."""
        frame = None if _ANSWER_MARK in user else self.frame
        return frame if frame and text == frame.fill(user, answer) else None

    def render(self, user: str, answer: str | None) -> str:
        """The conversation as text with the image's placeholder; up to the answer's start where it is None.

        Raises:
            InputError: the chat template cannot take a conversation about an image.
        """
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": user}]}
        ]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                chat_template=_SAME_DAY + self.template,
                tokenize=False,
                add_generation_prompt=answer is None,
                # Answers follow the prompt at once, those that are scored and those that are generated.
                enable_thinking=False,
            )
        except Exception as error:  # a template is foreign code, and can raise anything
            raise InputError(
                f"{self.source}: the chat template takes no conversation about an image: {error}"
            ) from None

    def render_answer(self, user: str, answer: str) -> RenderedConversation:
        """The conversation as text, and where its answer is: found by a mark in the answer's place, because the
        answer's own text may occur before it and behind it, and a template may trim it. Where the text is the
        template's frame around both texts as they are, the mark's place is known without rendering once more.

        Raises:
            InputError: as for :meth:`render`, or the template does not repeat the answer once, as it is.
        """
        text = self.render(user, answer)
        if frame := self.frame_of(user, answer, text):
            before, after = f"{frame.before}{user}{frame.between}", frame.after
        else:
            before, _, after = self.render(user, _ANSWER_MARK).partition(_ANSWER_MARK)
        written = text[len(before) : len(text) - len(after)]
        if text != before + written + after or written.strip() != answer.strip():
            raise InputError(f"{self.source}: the chat template does not repeat the answer {answer!r} once, as it is.")
        start = len(before) + len(written) - len(written.lstrip())
        return RenderedConversation(text, start, start + len(written.strip()), len(answer) - len(answer.lstrip()))

    def tokenize(self, conversation: Conversation, image: ImageText) -> TokenizedConversation:
        """A whole conversation as tokens; answer and target are found by character offsets, whatever the tokenizer
        merges. A token belongs to the target when it covers any of its characters. The answer ends with the first
        special token behind it; what a template writes after that is no part of it.

        Raises:
            InputError: the template does not place the image or the answer, or the text contains an image token.
        """
        rendered = self.render_answer(conversation.user, conversation.answer)
        return self.locate(conversation, rendered, self.texts.tokenize(rendered.text, image))

    def locate(
        self, conversation: Conversation, rendered: RenderedConversation, tokens: TokenizedText
    ) -> TokenizedConversation:
        """A conversation of which text and tokens are known, with its answer and target."""
        closing = (torch.isin(tokens.ids, self.special_ids) & (tokens.begin >= rendered.stop)).nonzero()[:, 0]
        stop = int(tokens.end[closing[0]]) if len(closing) else rendered.stop
        return TokenizedConversation(
            ids=tokens.ids,
            visual=tokens.visual,
            answer=tokens.covering(rendered.start, stop),
            target=tokens.covering(*rendered.target(*conversation.target)),
        )
