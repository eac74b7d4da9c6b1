"""A question as tokens, and the token of each option's label in its place."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from headimpact.errors import InputError
from headimpact.vlm.conversations import ChatFormat, Conversation, RenderedConversation, TokenizedConversation
from headimpact.vlm.tokenizing import ImageText, TokenizedText

# Of each option's conversation the answer, and where its label is.
Answers = tuple[tuple[str, tuple[int, int]], ...]


class OptionTokens:
    """Tokenises the conversations of one checkpoint that differ in the label they answer with.

    The labels' tokens depend on the text between the dividing tokens around the answer alone: that text is tokenised
    with each label, in the place of the whole conversation, and only once where it is the template's. For every set of
    labels this is held to the whole conversations the first time; where it does not give the same, they are tokenised
    every time.
    """

    def __init__(self, chat: ChatFormat):
        self.chat = chat
        self._proven: dict[Answers, bool] = {}
        self._known: dict[tuple[str, str, Answers], Tensor] = {}

    def tokenize(
        self, conversations: Sequence[Conversation], chosen: int, image: ImageText
    ) -> tuple[TokenizedConversation, Int[Tensor, "options"]]:
        """One of the conversations as tokens, and for each of them the single token of its target.

        Args:
            conversations: one an option; they differ in the answer alone.
            chosen: index of the one to tokenise.
            image: what stands for the image.

        Raises:
            InputError: as for :meth:`ChatFormat.tokenize`, or the targets are not one token each in the same place.
        """
        conversation = conversations[chosen]
        rendered = self.chat.render_answer(conversation.user, conversation.answer)
        tokens = self.chat.texts.tokenize(rendered.text, image)
        answers = tuple((option.answer, option.target) for option in conversations)
        labels = None
        if self._proven.get(answers, True):
            labels = self._labels_in_short(conversations, chosen, rendered, tokens)
        if labels is None or answers not in self._proven:
            whole = [self.chat.tokenize(option, image) for option in conversations]
            found = self._single([(option.ids, option.target) for option in whole])
            if labels is not None:
                self._proven[answers] = torch.equal(labels, found)
            labels = found
        return self.chat.locate(conversation, rendered, tokens), labels

    def _labels_in_short(
        self,
        conversations: Sequence[Conversation],
        chosen: int,
        rendered: RenderedConversation,
        tokens: TokenizedText,
    ) -> Int[Tensor, "options"] | None:
        """The labels' tokens from the text around the answer; None where it is not to be had."""
        users, answers = {option.user for option in conversations}, [option.answer for option in conversations]
        frame = self.chat.frame_of(conversations[chosen].user, answers[chosen], rendered.text)
        if frame is None or len(users) > 1 or any(answer != answer.strip() for answer in answers):
            return None
        divides = torch.isin(tokens.ids, self.chat.texts.dividing_ids)
        divides[: int(tokens.visual[-1])] = False
        left = (divides & (tokens.end <= rendered.start)).nonzero()[:, 0]
        right = (divides & (tokens.begin >= rendered.stop)).nonzero()[:, 0]
        if not len(left):
            return None
        first, last = int(left[-1]), int(right[0]) if len(right) else len(tokens.ids) - 1
        before = rendered.text[int(tokens.begin[first]) : rendered.start]
        after = rendered.text[rendered.stop : int(tokens.end[last]) if len(right) else None]
        key = before, after, tuple((option.answer, option.target) for option in conversations)
        if (known := self._known.get(key)) is not None:
            return known
        texts = self.chat.texts.encode([before + answer + after for answer in answers])
        if not torch.equal(texts[chosen].ids, tokens.ids[first : last + 1]):
            return None
        targets = [tuple(len(before) + place for place in option.target) for option in conversations]
        labels = self._single([(text.ids, text.covering(*target)) for text, target in zip(texts, targets, strict=True)])
        if frame.between.endswith(before):
            self._known[key] = labels
        return labels

    def _single(self, options: Sequence[tuple[Int[Tensor, "_"], Int[Tensor, "_"]]]) -> Int[Tensor, "options"]:
        """The only token of each target, given token ids and the target's indices."""
        places = [target.tolist() for _, target in options]
        if len(places[0]) != 1 or any(place != places[0] for place in places):
            raise InputError(f"{self.chat.source}: an option label is not a single token of this tokenizer.")
        return torch.stack([ids[places[0][0]] for ids, _ in options])
