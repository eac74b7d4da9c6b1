"""What the project needs of a vision-language model, whatever its family."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn

from headimpact.errors import InputError
from headimpact.vlm import attention, decoder, native
from headimpact.vlm.conversations import OPTION_LABELS, ChatFormat, Conversation, TokenizedConversation
from headimpact.vlm.geometry import Geometry
from headimpact.vlm.layers import DecoderLayers
from headimpact.vlm.options import OptionTokens
from headimpact.vlm.packing import Batch, PromptAttention, Tokens
from headimpact.vlm.tokengrid import TokenGrid
from headimpact.vlm.tokenizing import ImageText

_NARROW = 20  # an image this many times as long as wide is tried in full: most cannot be refused


@dataclass(frozen=True)
class EncodedImage:
    """One image as the model takes it.

    Attributes:
        pixels: the image processor's tensors for one image, leading batch axis kept.
        grid: where its visual tokens lie.
    """

    pixels: dict[str, Tensor]
    grid: TokenGrid

    def pin_memory(self) -> "EncodedImage":
        """The same in page-locked memory, from where it goes to a GPU without waiting (torch's DataLoader asks)."""
        return EncodedImage({name: tensor.pin_memory() for name, tensor in self.pixels.items()}, self.grid)


class Vlm(DecoderLayers):
    """A loaded checkpoint of one family. Family facts are the abstract members; the rest is common.

    Attributes:
        model: the transformers model.
        tokenizer: a fast tokenizer (character offsets are needed).
        image_processor: the PIL image processor.
        source: folder or hub name it was loaded from.
        revision: the commit it resolved to; None for a folder.
        digest: SHA-256 of its weights; empty where there are none.
        chat: how it writes conversations.
    """

    model_class: ClassVar[type]
    image_processor_class: ClassVar[type]
    prompt_attention: ClassVar[PromptAttention]
    image_placeholder: ClassVar[str]
    image_token: ClassVar[str]
    own_template: ClassVar[str]
    begins: ClassVar[bool] = False
    """The tokenizer puts its begin token before every text: the chat template does not write it."""

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
        self.source = source
        self.revision = revision
        self.digest = digest
        self.settings: Mapping[str, str] = {}
        self.settings_digest = ""
        self.chat = ChatFormat(
            tokenizer, template or self.own_template, self.image_placeholder, self.image_token, source, self.begins
        )
        self._options = OptionTokens(self.chat)
        model.eval()

    # ---- family facts

    @abstractmethod
    def encode_image(self, image: Image.Image) -> EncodedImage:
        """Put an image through the image processor."""

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
    def geometry(self, width: int, height: int) -> Geometry:
        """Which pixels of an image of this size each visual token sees, by the image processor's settings."""

    @abstractmethod
    def expand_image(self, grid: TokenGrid) -> str:
        """The text that stands for one image: its visual tokens and the markers around them."""

    @abstractmethod
    def image_features(self, images: Sequence[EncodedImage]) -> list[Float[Tensor, "_ columns"]]:
        """Embeddings of the visual tokens of each image, as the decoder gets them.

        Where the decoder adds further features after its first layers, these are further columns, as many as of the
        embedding for each of these layers; what they are for it is :meth:`added_inputs` that says.
        """

    @abstractmethod
    def caption(self, phrase: str) -> Conversation:
        """The conversation in which the assistant describes an object (paper, appendix)."""

    @abstractmethod
    def question(self, options: Sequence[str], label: str) -> Conversation:
        """The conversation in which the assistant picks one of four options (paper, appendix)."""

    def unfit(self, width: int, height: int) -> str | None:
        """Why the image processor cannot take an image of this size (pixels); None where it can."""
        try:
            self.grid(width, height)
            if max(width, height) > _NARROW * min(width, height):
                self.geometry(width, height)
        except ValueError as error:
            words = str(error).rstrip(".")
            return f"the image processor of {self.source} takes no image of {width}x{height} pixels ({words})"
        return None

    def separators(self, grid: TokenGrid) -> tuple[int, ...]:
        """Which of the tokens with the image's token id see nothing of it, and are no visual tokens."""
        return ()

    def position_ids(self, ids: Int[Tensor, "tokens"], grid: TokenGrid) -> Int[Tensor, "axes tokens"]:
        """Position ids of one conversation, one row per rotary axis."""
        return torch.arange(len(ids))[None]

    def native_inputs(self, tokens: Tokens, encoded: EncodedImage) -> dict[str, Tensor]:
        """Inputs of the transformers model's own forward for one conversation (used by ``generate``)."""
        return {
            "input_ids": tokens.ids[None],
            "attention_mask": torch.ones_like(tokens.ids)[None],
            **encoded.pixels,
        }

    def text_embeddings(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
        """Embeddings of all tokens but the visual ones, whose are replaced."""
        return self.model.get_input_embeddings()(ids)

    def decoder_mask(self, mask: Bool[Tensor, "batch 1 tokens tokens"], positions: Int[Tensor, "axes batch tokens"]):
        """The attention mask in the form that the decoder takes."""
        return mask

    def decoder_positions(self, positions: Int[Tensor, "axes batch tokens"]) -> Tensor:
        """The position ids in the form that the decoder takes."""
        return positions[0]

    def added_inputs(
        self, batch: Batch, added: Sequence[Float[Tensor, "batch tokens width"]], first: int
    ) -> dict[str, Any]:
        """Inputs of the decoder that make it add further features (:meth:`image_features`) to its hidden states.

        Args:
            batch: packed sequences.
            added: what is added after the layers ``first``, ``first + 1``, ...; 0 where there is text. Never empty.
                By :meth:`added_from` it may be something else, that the decoder makes its layers' inputs of.
            first: the layers below are skipped, and nothing is added after them.
        """
        raise NotImplementedError(f"{type(self).__name__} has features of several depths: say how they are added.")

    def added_from(
        self, layer: int, added: Sequence[Float[Tensor, "batch tokens width"]]
    ) -> Sequence[Float[Tensor, "batch tokens width"]]:
        """What of ``added`` (:meth:`added_inputs` with ``first`` 0) the layers from ``layer`` on still need."""
        return added[layer:]

    # ---- common parts

    @property
    def resample(self) -> Image.Resampling:
        """The filter by which the image processor resizes; where its settings name none, it takes the bilinear one."""
        resample = self.image_processor.resample
        return Image.Resampling.BILINEAR if resample is None else Image.Resampling(resample)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def decoder(self) -> nn.Module:
        """The language model without its output projection."""
        return self.model.get_submodule(self.decoder_path)

    @property
    def template(self) -> str:
        """The chat template."""
        return self.chat.template

    @property
    def image_token_id(self) -> int:
        """Token id of one visual token's place."""
        return self.chat.image_token_id

    def coverages(
        self, masks: Sequence[Bool[np.ndarray, "_ _"]], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "objects tokens"]:
        """Covered share of what each visual token sees, in [0, 1], for pixel masks of one object at least; they go
        through the image's own geometry.

        Args:
            masks: height x width each.
            size: width and height of the image, over which masks of another size are stretched by their nearest
                pixels. None where all masks are of the image's size.
        """
        image = self.geometry(*(size or masks[0].shape[::-1]))
        return torch.from_numpy(np.stack([image.coverage(mask) for mask in masks]))

    def render(self, user: str, answer: str | None) -> str:
        """The conversation as text with the image's placeholder; up to the answer's start where it is None.

        Raises:
            InputError: the chat template cannot take a conversation about an image.
        """
        return self.chat.render(user, answer)

    def tokenize(self, conversation: Conversation, grid: TokenGrid) -> Tokens:
        """A whole conversation as tokens, with its answer and target (:meth:`ChatFormat.tokenize`).

        Raises:
            InputError: the template does not place the image or the answer, or the text contains an image token.
        """
        return self._with_positions(self.chat.tokenize(conversation, self.image_text(grid)), grid)

    def prompt(self, user: str, grid: TokenGrid) -> Tokens:
        """Tokenise a user turn, ready to be continued by the assistant; answer and target are empty.

        Raises:
            InputError: the template does not place the image, or the text contains an image token.
        """
        tokens = self.chat.texts.tokenize(self.render(user, None), self.image_text(grid))
        none = torch.empty(0, dtype=torch.long)
        return Tokens(tokens.ids, self.position_ids(tokens.ids, grid), tokens.visual, none, none)

    def _with_positions(self, tokens: TokenizedConversation, grid: TokenGrid) -> Tokens:
        return Tokens(tokens.ids, self.position_ids(tokens.ids, grid), tokens.visual, tokens.answer, tokens.target)

    def image_text(self, grid: TokenGrid) -> ImageText:
        """What stands for one image in a text."""
        return ImageText(self.expand_image(grid), grid.tokens, self.separators(grid))

    def question_tokens(
        self, options: Sequence[str], label: int, grid: TokenGrid
    ) -> tuple[Tokens, Int[Tensor, "options"]]:
        """Tokenise a question with the true label, and find each label's token in the same place: the one that the
        whole conversation has there with that label (:mod:`headimpact.vlm.options`).

        Raises:
            InputError: the labels are not one token each in this tokenizer.
        """
        variants = [self.question(options, name) for name in OPTION_LABELS[: len(options)]]
        tokens, labels = self._options.tokenize(variants, label, self.image_text(grid))
        return self._with_positions(tokens, grid), labels

    def embeddings(
        self, batch: Batch, features: Sequence[Float[Tensor, "_ columns"]]
    ) -> Float[Tensor, "batch tokens columns"]:
        """What the decoder's first layer gets: the embeddings of text, and ``features`` in the visual tokens' places.

        Args:
            batch: packed sequences.
            features: per sequence those of its image's visual tokens; of their further columns, text has 0.
        """
        embeddings = self.text_embeddings(batch.ids.to(self.device))
        rows = torch.cat([torch.full((len(index),), row) for row, index in enumerate(batch.visual)])
        places = (rows.to(self.device), torch.cat(batch.visual).to(self.device))
        visual = torch.cat([of_image.to(self.device) for of_image in features])
        embeddings = nn.functional.pad(embeddings, (0, visual.shape[1] - embeddings.shape[2]))
        return embeddings.index_put(places, visual.to(embeddings.dtype))

    def hidden_states(
        self,
        batch: Batch,
        states: Float[Tensor, "batch tokens columns"],
        capture: attention.RowCapture | None = None,
        first: int = 0,
    ) -> Float[Tensor, "batch tokens width"]:
        """The decoder's last hidden states of packed sequences.

        Args:
            batch: packed sequences.
            states: :meth:`embeddings`, or, where ``first`` is above 0, :meth:`states_entering` that layer.
            capture: reads attention rows layer by layer on the way.
            first: the layers below are skipped.
        """
        hidden, *added = states.split(self.text_config.hidden_size, dim=-1)
        inputs = self.added_inputs(batch, added, first) if added else {}
        if capture is not None:
            inputs["capture"] = capture
        if not first:
            return self._decode(batch, hidden, inputs)
        with decoder.starting_at(self._decoder_layers, first, hidden):
            return self._decode(batch, hidden, inputs)

    def states_entering(
        self, layer: int, batch: Batch, embeddings: Float[Tensor, "batch tokens columns"]
    ) -> Float[Tensor, "batch tokens _columns"]:
        """The hidden states that enter a layer, and, as further columns, what is added after it and those above; only
        the layers below it run."""
        if not layer:
            return embeddings
        hidden, *added = embeddings.split(self.text_config.hidden_size, dim=-1)
        with decoder.ending_before(self._decoder_layers, layer) as kept:
            self._decode(batch, hidden, self.added_inputs(batch, added, 0) if added else {})
        assert kept.entering is not None
        kept_on = self.added_from(layer, added)
        return torch.cat([kept.entering, *kept_on], dim=-1) if kept_on else kept.entering

    def checkpoint_gradients(self) -> None:
        """From now on a backward computes each decoder layer once more instead of keeping what is inside of it.

        transformers' own switch; it does so in modules that are in training mode, so the layers are put into it, and
        nothing within them: a dropout stays off.
        """
        self.model.activation_checkpointing_enable({"use_reentrant": False})
        for layer in self._decoder_layers:
            layer.training = True

    @property
    def _decoder_layers(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.decoder.get_submodule("layers"))

    def _decode(self, batch: Batch, states: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        batch = batch.to(self.device)
        mask = self.decoder_mask(batch.mask, batch.positions)
        if isinstance(mask, Tensor) and batch.causal >= attention.LONG:
            inputs = {**inputs, "causal": batch.causal}
        return self.decoder(
            attention_mask=mask,
            position_ids=self.decoder_positions(batch.positions),
            use_cache=False,
            **{"inputs_embeds": states, **inputs},
        ).last_hidden_state

    def logits(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens vocabulary"]:
        """Next-token logits of the given hidden states, in float32, with the family's final softcap if any."""
        logits = self.model.get_output_embeddings()(hidden).float()
        softcap = getattr(self.text_config, "final_logit_softcapping", None)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    def generate(self, image: Image.Image, prompt: str, **generation: Any) -> str:
        """The assistant's answer to a prompt about an image, by transformers' own ``generate``.

        Raises:
            InputError: the image processor takes no image of this size, the prompt holds control tokens, or with image
                and answer it exceeds the model's context.
        """
        if (reason := self.unfit(*image.size)) is not None:
            raise InputError(f"{reason[0].upper()}{reason[1:]}.")
        if self.chat.control_token(prompt) is not None:
            raise InputError("The prompt holds a control token of the model, as for the end of a turn or an image.")
        encoded = self.encode_image(image)
        tokens = self.prompt(prompt, encoded.grid)
        new, context = generation.get("max_new_tokens", 0), self.text_config.max_position_embeddings
        if len(tokens.ids) + new > context:
            raise InputError(
                f"Image and prompt have {len(tokens.ids)} tokens; with {new} of the answer that is more than the "
                f"{context} that the model takes."
            )
        (answer,) = self.generate_together([(tokens, encoded)], **generation)
        return answer

    @torch.inference_mode()
    def generate_together(self, prompts: Sequence[tuple[Tokens, EncodedImage]], **generation: Any) -> list[str]:
        """The same for several prompts, each about an image of its own; the shorter ones are padded on the left."""
        inputs = native.join([self.native_inputs(tokens, encoded) for tokens, encoded in prompts])
        output = self.model.generate(**{name: value.to(self.device) for name, value in inputs.items()}, **generation)
        answers = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]
