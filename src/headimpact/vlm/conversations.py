"""A conversation about an image: as text, by a checkpoint's own chat template, and as tokens, in which its answer is
found.

Nothing here knows the model: what stands for the image in the text, and what its visual tokens' positions are, is the
family's (:mod:`headimpact.vlm.base`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headimpact.errors import InputError

OPTION_LABELS = ("A", "B", "C", "D")
# A character of the private use area: it stands where an answer will be, and no other text has it.
_ANSWER_MARK = "\ue000"


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
class ImageText:
    """What stands for one image in a text: its visual tokens, as many as ``tokens``, and the markers around them."""

    text: str
    tokens: int


@dataclass(frozen=True)
class TokenizedText:
    """A text as tokens.

    Attributes:
        ids: token ids.
        visual: indices of the visual tokens.
        begin: the first character of each token, counted in the text before its image was expanded (right of the image,
            where all answers are).
        end: one past the last character of each token, counted likewise.
    """

    ids: Int[Tensor, "tokens"]
    visual: Int[Tensor, "visual"]
    begin: Int[Tensor, "tokens"]
    end: Int[Tensor, "tokens"]

    def covering(self, first: int, last: int) -> Int[Tensor, "covering"]:
        """Indices of the tokens that cover any of the characters ``first`` to ``last`` (exclusive), and of those
        between them: a tokenizer may give a token of white space no characters."""
        touching = ((self.end > first) & (self.begin < last) & (self.end > self.begin)).nonzero()[:, 0]
        return torch.arange(int(touching[0]), int(touching[-1]) + 1) if len(touching) else touching


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
class ChatFormat:
    """How one checkpoint writes a conversation about an image.

    Attributes:
        tokenizer: a fast tokenizer (character offsets are needed).
        template: the chat template, in Jinja.
        image_placeholder: what the template writes for an image.
        image_token: the token that stands for one visual token.
        source: folder or hub name of the checkpoint, for messages.
    """

    tokenizer: Any
    template: str
    image_placeholder: str
    image_token: str
    source: str

    @cached_property
    def image_token_id(self) -> int:
        """Token id of one visual token's place."""
        return self.tokenizer.convert_tokens_to_ids(self.image_token)

    @cached_property
    def special_ids(self) -> Int[Tensor, "special"]:
        """Ids of the tokens that are no text: marks of turns, ends, images."""
        added = [i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special]
        return torch.tensor(sorted({*added, *self.tokenizer.all_special_ids}), dtype=torch.long)

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
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=answer is None
            )
        except Exception as error:  # a template is foreign code, and can raise anything
            raise InputError(
                f"{self.source}: the chat template takes no conversation about an image: {error}"
            ) from None

    def render_answer(self, user: str, answer: str) -> RenderedConversation:
        """The conversation as text, and where its answer is: found by a mark in the answer's place, because the
        answer's own text may occur before it and behind it, and a template may trim it.

        Raises:
            InputError: as for :meth:`render`, or the template does not repeat the answer once, as it is.
        """
        text = self.render(user, answer)
        before, _, after = self.render(user, _ANSWER_MARK).partition(_ANSWER_MARK)
        written = text[len(before) : len(text) - len(after)]
        if text != before + written + after or written.strip() != answer.strip():
            raise InputError(f"{self.source}: the chat template does not repeat the answer {answer!r} once, as it is.")
        start = len(before) + len(written) - len(written.lstrip())
        return RenderedConversation(text, start, start + len(written.strip()), len(answer) - len(answer.lstrip()))

    def tokenize_text(self, text: str, image: ImageText) -> TokenizedText:
        """A rendered text as tokens, with ``image`` in its placeholder's place.

        Raises:
            InputError: the text has no placeholder, or an image token of its own.
        """
        before, placeholder, after = text.partition(self.image_placeholder)
        if not placeholder:
            raise InputError(f"{self.source}: the chat template places no image ({self.image_placeholder}).")
        head = before + image.text
        encoding = self.tokenizer(
            head + after, add_special_tokens=False, return_offsets_mapping=True, return_tensors="np"
        )
        ids = torch.from_numpy(encoding["input_ids"][0])
        begin, end = torch.from_numpy(encoding["offset_mapping"][0]).unbind(1)
        visual = (ids == self.image_token_id).nonzero()[:, 0]
        if len(visual) != image.tokens:
            raise InputError(f"The text must not contain {self.image_token}: it stands for a part of the image.")
        shift = len(head) - len(before) - len(placeholder)
        return TokenizedText(ids, visual, begin - shift, end - shift)

    def tokenize(self, conversation: Conversation, image: ImageText) -> TokenizedConversation:
        """A whole conversation as tokens; answer and target are found by character offsets, whatever the tokenizer
        merges. A token belongs to the target when it covers any of its characters. The answer ends with the first
        special token behind it; what a template writes after that is no part of it.

        Raises:
            InputError: the template does not place the image or the answer, or the text contains an image token.
        """
        rendered = self.render_answer(conversation.user, conversation.answer)
        tokens = self.tokenize_text(rendered.text, image)
        closing = (torch.isin(tokens.ids, self.special_ids) & (tokens.begin >= rendered.stop)).nonzero()[:, 0]
        stop = int(tokens.end[closing[0]]) if len(closing) else rendered.stop
        return TokenizedConversation(
            ids=tokens.ids,
            visual=tokens.visual,
            answer=tokens.covering(rendered.start, stop),
            target=tokens.covering(*rendered.target(*conversation.target)),
        )
