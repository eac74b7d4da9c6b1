"""What the project needs of a vision-language model, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn

from headimpact.errors import InputError
from headimpact.vlm import attention, tokengrid
from headimpact.vlm.packing import Batch, Tokens
from headimpact.vlm.tokengrid import TokenGrid

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
class EncodedImage:
    """One image as the model takes it.

    Attributes:
        pixels: the image processor's tensors for one image, leading batch axis kept.
        grid: where its visual tokens lie.
    """

    pixels: dict[str, Tensor]
    grid: TokenGrid


@dataclass(frozen=True)
class _Tokenized:
    """A text as tokens; ``begin`` and ``end`` count characters of the text before its image was expanded (right
    of the image, where all answers are)."""

    ids: Int[Tensor, "tokens"]
    visual: Int[Tensor, "visual"]
    begin: Int[Tensor, "tokens"]
    end: Int[Tensor, "tokens"]

    def covering(self, first: int, last: int) -> Int[Tensor, "covering"]:
        """Indices of the tokens that cover any of the characters ``first`` to ``last`` (exclusive), and of those
        between them: a tokenizer may give a token of white space no characters."""
        found = ((self.end > first) & (self.begin < last) & (self.end > self.begin)).nonzero()[:, 0]
        return torch.arange(int(found[0]), int(found[-1]) + 1) if len(found) else found


@dataclass(frozen=True)
class _Rendered:
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


class Vlm(ABC):
    """A loaded checkpoint of one family. Family facts are the abstract members; the rest is common.

    Attributes:
        model: the transformers model.
        tokenizer: a fast tokenizer (character offsets are needed).
        image_processor: the PIL image processor.
        source: folder or hub name it was loaded from.
        revision: the commit it resolved to; None for a folder.
        digest: SHA-256 of its weights; empty where there are none.
    """

    model_class: ClassVar[type]
    image_processor_class: ClassVar[type]
    decoder_path: ClassVar[str]
    bidirectional_prompt: ClassVar[bool]
    image_placeholder: ClassVar[str]
    image_token: ClassVar[str]
    own_template: ClassVar[str]

    def __init__(
        self,
        model,
        tokenizer,
        image_processor,
        template: str | None,
        source: str,
        revision: str | None,
        digest: str,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.template = template or self.own_template
        self.source = source
        self.revision = revision
        self.digest = digest
        model.eval()

    # ---- family facts

    @abstractmethod
    def encode_image(self, image: Image.Image, **processor_settings: Any) -> EncodedImage:
        """Put an image through the image processor; ``processor_settings`` override its own (a mask is neither
        rescaled nor normalised)."""

    @abstractmethod
    def grid(self, width: int, height: int) -> TokenGrid:
        """Where the visual tokens of an image of this size (pixels) lie, without encoding one."""

    @property
    @abstractmethod
    def patches_per_token(self) -> int:
        """Patches of the vision tower that are merged into one visual token."""

    @abstractmethod
    def check_geometry(self) -> None:
        """Hold the image processor's settings to the model's.

        Raises:
            InputError: they do not fit each other, or are not of the kind that this family's code is for.
        """

    @abstractmethod
    def seen_pixels(self, encoded: EncodedImage) -> Float[Tensor, "tokens pixels"]:
        """Regroup the processed pixels by the visual token that sees them; unseen pixels are left out."""

    @abstractmethod
    def expand_image(self, grid: TokenGrid) -> str:
        """The text that stands for one image: its visual tokens and the markers around them."""

    @abstractmethod
    def image_features(self, images: Sequence[EncodedImage]) -> list[Float[Tensor, "_ width"]]:
        """Embeddings of the visual tokens of each image, as the decoder gets them."""

    @abstractmethod
    def position_ids(self, ids: Int[Tensor, "tokens"], grid: TokenGrid) -> Int[Tensor, "axes tokens"]:
        """Position ids of one conversation, one row per rotary axis."""

    @abstractmethod
    def caption(self, phrase: str) -> Conversation:
        """The conversation in which the assistant describes an object (paper, appendix)."""

    @abstractmethod
    def question(self, options: Sequence[str], label: str) -> Conversation:
        """The conversation in which the assistant picks one of four options (paper, appendix)."""

    @abstractmethod
    def native_inputs(self, tokens: Tokens, encoded: EncodedImage) -> dict[str, Tensor]:
        """Inputs of the transformers model's own forward for one conversation (used by ``generate``)."""

    def decoder_mask(self, mask: Bool[Tensor, "batch 1 tokens tokens"], positions: Int[Tensor, "axes batch tokens"]):
        """The attention mask in the form that the decoder takes."""
        return mask

    def decoder_positions(self, positions: Int[Tensor, "axes batch tokens"]) -> Tensor:
        """The position ids in the form that the decoder takes."""
        return positions[0]

    # ---- common parts

    def projections(self, layers: Sequence[int], targets: Sequence[str]) -> list[str]:
        """Full names of the projections ``targets`` (as ``q_proj``) of some layers' attention.

        Full names, because PEFT's ``layers_to_transform`` with bare names adapts the vision tower, too.
        """
        return [
            f"{self.decoder_path}.layers.{layer}.self_attn.{target}" for layer in sorted(layers) for target in targets
        ]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def text_config(self):
        """The decoder's configuration."""
        return self.model.config.get_text_config()

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return self.text_config.num_hidden_layers

    @property
    def heads(self) -> int:
        """Number of attention (query) heads per decoder layer."""
        return self.text_config.num_attention_heads

    @property
    def decoder(self) -> nn.Module:
        """The language model without its output projection."""
        return self.model.get_submodule(self.decoder_path)

    @cached_property
    def image_token_id(self) -> int:
        """Token id of one visual token's place."""
        return self.tokenizer.convert_tokens_to_ids(self.image_token)

    @cached_property
    def _special_ids(self) -> Int[Tensor, "special"]:
        """Ids of the tokens that are no text: marks of turns, ends, images."""
        added = [i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special]
        return torch.tensor(sorted({*added, *self.tokenizer.all_special_ids}), dtype=torch.long)

    def coverages(self, masks: Sequence[Bool[np.ndarray, "height width"]]) -> Float[Tensor, "objects tokens"]:
        """Covered share of what each visual token sees, in [0, 1], for pixel masks of objects of one image; the
        masks go through the image's own geometry."""
        rows = []
        for mask in masks:
            picture = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")
            encoded = self.encode_image(picture, do_rescale=False, do_normalize=False)
            rows.append(tokengrid.coverage(self.seen_pixels(encoded).float()))
        return torch.stack(rows)

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

    def _render_answer(self, user: str, answer: str) -> _Rendered:
        """The conversation as text, and where its answer is: found by a mark in the answer's place, because the
        answer's own text may occur before it and behind it, and a template may trim it."""
        text = self.render(user, answer)
        before, _, after = self.render(user, _ANSWER_MARK).partition(_ANSWER_MARK)
        said = text[len(before) : len(text) - len(after)]
        if text != before + said + after or said.strip() != answer.strip():
            raise InputError(f"{self.source}: the chat template does not repeat the answer {answer!r} once, as it is.")
        start = len(before) + len(said) - len(said.lstrip())
        return _Rendered(text, start, start + len(said.strip()), len(answer) - len(answer.lstrip()))

    def _tokenize(self, text: str, grid: TokenGrid) -> _Tokenized:
        before, placeholder, after = text.partition(self.image_placeholder)
        if not placeholder:
            raise InputError(f"{self.source}: the chat template places no image ({self.image_placeholder}).")
        head = before + self.expand_image(grid)
        encoding = self.tokenizer(
            head + after, add_special_tokens=False, return_offsets_mapping=True, return_tensors="np"
        )
        ids = torch.from_numpy(encoding["input_ids"][0])
        begin, end = torch.from_numpy(encoding["offset_mapping"][0]).unbind(1)
        visual = (ids == self.image_token_id).nonzero()[:, 0]
        if len(visual) != grid.tokens:
            raise InputError(f"The text must not contain {self.image_token}: it stands for a part of the image.")
        shift = len(head) - len(before) - len(placeholder)
        return _Tokenized(ids, visual, begin - shift, end - shift)

    def tokenize(self, conversation: Conversation, grid: TokenGrid) -> Tokens:
        """Tokenise a whole conversation; find answer and target by character offsets, whatever the tokenizer
        merges. A token belongs to the target when it covers any of its characters. The answer ends with the
        first special token behind it; what a template writes after that is no part of it.

        Raises:
            InputError: the template does not place the image or the answer, or the text contains an image token.
        """
        rendered = self._render_answer(conversation.user, conversation.answer)
        found = self._tokenize(rendered.text, grid)
        closing = (torch.isin(found.ids, self._special_ids) & (found.begin >= rendered.stop)).nonzero()[:, 0]
        stop = int(found.end[closing[0]]) if len(closing) else rendered.stop
        return Tokens(
            ids=found.ids,
            positions=self.position_ids(found.ids, grid),
            visual=found.visual,
            answer=found.covering(rendered.start, stop),
            target=found.covering(*rendered.target(*conversation.target)),
        )

    def prompt(self, user: str, grid: TokenGrid) -> Tokens:
        """Tokenise a user turn, ready to be continued by the assistant; answer and target are empty.

        Raises:
            InputError: the template does not place the image, or the text contains an image token.
        """
        found = self._tokenize(self.render(user, None), grid)
        none = torch.empty(0, dtype=torch.long)
        return Tokens(found.ids, self.position_ids(found.ids, grid), found.visual, none, none)

    def question_tokens(
        self, options: Sequence[str], label: int, grid: TokenGrid
    ) -> tuple[Tokens, Int[Tensor, "options"]]:
        """Tokenise a question with the true label, and find each label's token in the same place by tokenising
        the whole conversation with it.

        Raises:
            InputError: the labels are not one token each in this tokenizer.
        """
        variants = [self.tokenize(self.question(options, name), grid) for name in OPTION_LABELS[: len(options)]]
        if any(len(v.target) != 1 or v.target[0] != variants[0].target[0] for v in variants):
            raise InputError(f"{self.source}: an option label is not a single token of this tokenizer.")
        return variants[label], torch.stack([v.ids[v.target[0]] for v in variants])

    def hidden_states(
        self,
        batch: Batch,
        features: Sequence[Float[Tensor, "_ width"]],
        capture: attention.RowCapture | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """The decoder's last hidden states of packed sequences.

        Args:
            batch: packed sequences.
            features: per sequence the embeddings of its image's visual tokens.
            capture: reads attention rows layer by layer on the way.
        """
        batch = batch.to(self.device)
        embeddings = self.model.get_input_embeddings()(batch.ids)
        rows = torch.cat([torch.full((len(index),), row) for row, index in enumerate(batch.visual)])
        places = (rows.to(self.device), torch.cat(batch.visual).to(self.device))
        embeddings = embeddings.index_put(places, torch.cat(list(features)).to(embeddings.dtype))
        extra = {} if capture is None else {"capture": capture}
        return self.decoder(
            inputs_embeds=embeddings,
            attention_mask=self.decoder_mask(batch.mask, batch.positions),
            position_ids=self.decoder_positions(batch.positions),
            use_cache=False,
            **extra,
        ).last_hidden_state

    def logits(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens vocabulary"]:
        """Next-token logits of the given hidden states, in float32, with the family's final softcap if any."""
        logits = self.model.get_output_embeddings()(hidden).float()
        softcap = getattr(self.text_config, "final_logit_softcapping", None)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    @torch.inference_mode()
    def generate(self, image: Image.Image, prompt: str, **generation: Any) -> str:
        """The assistant's answer to a prompt about an image, by transformers' own ``generate``."""
        encoded = self.encode_image(image)
        tokens = self.prompt(prompt, encoded.grid)
        inputs = {key: value.to(self.device) for key, value in self.native_inputs(tokens, encoded).items()}
        output = self.model.generate(**inputs, **generation)
        return self.tokenizer.decode(output[0, len(tokens.ids) :], skip_special_tokens=True).strip()
