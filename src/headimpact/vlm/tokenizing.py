"""A text about an image as tokens: the image's visual tokens stand in its placeholder's place."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from headimpact.errors import InputError


@dataclass(frozen=True)
class ImageText:
    """What stands for one image in a text: its visual tokens, as many as ``tokens``, and the markers around them.

    Of all its image tokens those at the places ``separators`` see nothing of the image, and are no visual tokens.
    """

    text: str
    tokens: int
    separators: tuple[int, ...] = ()


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

    def behind(self, token: int) -> "TokenizedText":
        """The same behind one more token, which has no characters."""
        at_first = [nn.functional.pad(tensor, (1, 0)) for tensor in (self.ids, self.begin, self.end)]
        at_first[0][0] = token
        return TokenizedText(at_first[0], self.visual + 1, *at_first[1:])


@dataclass(frozen=True)
class TextTokenizer:
    """Tokenises texts about images.

    Attributes:
        tokenizer: a fast tokenizer (character offsets are needed).
        image_placeholder: what stands for an image in a text.
        image_token: the token that stands for one visual token.
        source: folder or hub name of the checkpoint, for messages.
        begins: the tokenizer's begin token comes first, also where the text does not have it.
    """

    tokenizer: Any
    image_placeholder: str
    image_token: str
    source: str
    begins: bool = False

    @cached_property
    def image_token_id(self) -> int:
        """Token id of one visual token's place."""
        return self.tokenizer.convert_tokens_to_ids(self.image_token)

    @cached_property
    def dividing_ids(self) -> Int[Tensor, "dividing"]:
        """Ids of the tokens that divide every text: a tokenizer looks for them before it does anything else, so that
        the text on one side of them is tokenised as it would be whatever stood on the other."""
        added = self.tokenizer.added_tokens_decoder.items()
        return torch.tensor(sorted(number for number, token in added if _divides(token)), dtype=torch.long)

    def tokenize(self, text: str, image: ImageText) -> TokenizedText:
        """A text as tokens, with ``image`` in its placeholder's place.

        Raises:
            InputError: the text has no placeholder, or an image token of its own.
        """
        before, placeholder, after = text.partition(self.image_placeholder)
        if not placeholder:
            raise InputError(f"{self.source}: the chat template places no image ({self.image_placeholder}).")
        tokens = self._encode_in_short(before, image.text, after) or self.encode([before + image.text + after])[0]
        if len(tokens.visual) != image.tokens + len(image.separators):
            raise InputError(f"The text must not contain {self.image_token}: it stands for a part of the image.")
        shift = len(image.text) - len(placeholder)
        sees = torch.ones(len(tokens.visual), dtype=torch.bool)
        sees[list(image.separators)] = False
        tokens = replace(tokens, visual=tokens.visual[sees], begin=tokens.begin - shift, end=tokens.end - shift)
        begin = self.tokenizer.bos_token if self.begins else None
        return tokens if begin is None or text.startswith(begin) else tokens.behind(self.tokenizer.bos_token_id)

    def encode(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Texts as tokens, with whatever stands in them for an image."""
        encoding = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        encoded = []
        for numbers, spans in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            ids = torch.tensor(numbers, dtype=torch.long)
            begin, end = torch.tensor(spans, dtype=torch.long).reshape(-1, 2).unbind(1)
            encoded.append(TokenizedText(ids, (ids == self.image_token_id).nonzero()[:, 0], begin, end))
        return encoded

    def _encode_in_short(self, before: str, image: str, after: str) -> TokenizedText | None:
        """The text as :meth:`encode` gives it, but with each run of visual tokens tokenised as a single one, because
        thousands take longer than all the rest; None where the text cannot be divided at the visual tokens."""
        if self.image_token_id not in self.dividing_ids:
            return None
        short, runs = _shorten(image, self.image_token)
        tokens = self.encode([before + short + after])[0]
        if len(tokens.visual) != len(runs):
            return None
        repeats = torch.ones_like(tokens.ids)
        repeats[tokens.visual] = torch.tensor(runs, dtype=torch.long)
        index = torch.arange(len(tokens.ids)).repeat_interleave(repeats)
        # What comes before a token is longer than in the short text by the visual tokens that were left out there.
        longer = (torch.arange(len(index)) - index) * len(self.image_token)
        ids = tokens.ids[index]
        visual = (ids == self.image_token_id).nonzero()[:, 0]
        return TokenizedText(ids, visual, tokens.begin[index] + longer, tokens.end[index] + longer)


def _divides(token: Any) -> bool:
    """Whether an added token is found in every text, as it is and without the white space around it."""
    return not (token.normalized or token.single_word or token.lstrip or token.rstrip)


@lru_cache(maxsize=256)
def _shorten(text: str, token: str) -> tuple[str, tuple[int, ...]]:
    """A text with each run of ``token`` as a single one, and how many each run had."""
    run = re.compile(f"(?:{re.escape(token)})+")
    return run.sub(lambda _: token, text), tuple(len(found) // len(token) for found in run.findall(text))
