"""The library, for a notebook: what ``import headimpact`` gives. No MLflow, no DVC, no params.yaml, no project folder.

``docs/python.md`` shows it at work. The defaults are those of params.yaml.
"""

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from peft import LoraConfig
from PIL import Image
from transformers import PreTrainedModel

from headimpact.adapters import cell, lora
from headimpact.data.coco import read_part
from headimpact.data.memory import make_samples, rgb
from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine, EngineSettings
from headimpact.engine.watch import Watch, unwatched
from headimpact.errors import InputError
from headimpact.files import write_text
from headimpact.impact.attention_map import AttentionMap, attention_map
from headimpact.impact.head_impact import Impact
from headimpact.impact.scoring import ChanceSettings, score_images
from headimpact.report import figures
from headimpact.report.look.making import of_picture, of_samples
from headimpact.selection import choice
from headimpact.selection.grammar import read_setup
from headimpact.selection.measured import measured_layers
from headimpact.selection.selection import Selection
from headimpact.vlm import loading
from headimpact.vlm.attention import NAME as OWN_ATTENTION
from headimpact.vlm.base import Vlm

__all__ = [
    "InputError",
    "attention",
    "heatmap",
    "load_base",
    "look",
    "lora_config",
    "make_samples",
    "read_samples",
    "score",
    "select",
]


def load_base(
    source: str | Path | PreTrainedModel,
    processor: Any = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Vlm:
    """A base: a vision-language model with its tokenizer and its image processor.

    Args:
        source: a folder; a name on the hub; or a transformers model that is in memory, which stays where it is and as
            precise as it is. That model is changed: it is in evaluation mode, and its decoder's attention is this
            project's, which gives the same outputs. ``model.set_attn_implementation({"text_config": "sdpa"})``
            undoes the latter (``"eager"`` for PaliGemma 2).
        processor: of a model in memory, its transformers processor. An image processor of torchvision is replaced by
            the PIL one of the same settings.
        revision: branch, tag or commit on the hub.
        device: auto, cpu, cuda, ...; auto takes a GPU where there is one.
        dtype: auto, float32, bfloat16, float16; auto is bfloat16 on a GPU (float16 on one without), else float32.

    Raises:
        InputError: absent, gated, not reachable, of an unsupported family, incomplete, or made of parts that do not
            fit each other; or an argument has no meaning for such a source.
    """
    if isinstance(source, (str, Path)):
        if processor is not None:
            raise InputError(f"{source} brings its own processor: a processor is given with a model in memory alone.")
        return loading.load(str(source), revision, device, dtype)
    if (revision, device, dtype) != (None, "auto", "auto"):
        raise InputError(
            "A model in memory is taken as it is: revision, device and dtype are for a folder or a hub name. Move it "
            "first, as with model.to('cuda')."
        )
    return loading.adopt(source, processor)


def read_samples(folder: str | Path, part: str = "impact") -> list[Sample]:
    """The samples of one part of a dataset folder (COCO JSON with masks and phrases); ``make_samples`` makes them of
    images in memory.

    Raises:
        InputError: the part is missing, or something is wrong with it.
    """
    return list(read_part(Path(folder), part))


def score(
    base: Vlm,
    samples: Sequence[Sample],
    mask_threshold: float = 0.5,
    chance_draws: int = 4,
    batch_tokens: int = EngineSettings.batch_tokens,
    seed: int = 0,
    watch: Watch = unwatched,
) -> Impact:
    """Head Impact of every attention head: how well it looks at the objects while the model reads their phrases.

    Args:
        base: the model.
        samples: two images with objects at least: the chance level takes the masks of other images.
        mask_threshold: covered share from which a visual token belongs to an object.
        chance_draws: masks of other images an object is compared with.
        batch_tokens: tokens in one forward.
        seed: of the draws.
        watch: shows the images: gets them, their number and what is done, and passes them on.

    Warns:
        UserWarning: objects were left out, with the reasons.

    Raises:
        InputError: fewer than two images have objects, two images have the same id, no object could be scored, or the
            model's attention was set to another after it was loaded.
    """
    if repeated := [image_id for image_id, count in Counter(sample.id for sample in samples).items() if count > 1]:
        raise InputError(
            f"Two samples have the id {repeated[0]}: make all samples in one call, or read one part alone."
        )
    _check_attention(base)
    engine = Engine(base, EngineSettings(batch_tokens))
    impact, skipped = score_images(engine, samples, ChanceSettings(mask_threshold, chance_draws, seed), watch)
    if skipped:
        reasons = Counter(one.reason for one in skipped)
        listed = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
        warnings.warn(f"{len(skipped)} objects were left out: {listed}.", stacklevel=2)
    return impact


class NotebookFigure(Figure):
    """A matplotlib figure that a notebook shows, without pyplot."""

    def _repr_png_(self) -> bytes:
        """What IPython asks for."""
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def heatmap(impact: Impact, title: str = "") -> Figure:
    """Head Impact of every head, layers down, heads across: a matplotlib figure, which a notebook shows."""
    figure = figures.heatmap(impact.table(), title)
    figure.__class__ = NotebookFigure
    return figure


def select(setup: str, impact: Impact, seed: int = 0) -> Selection:
    """The layers of a setup, with the reason of each.

    Args:
        setup: as in ``top-4``, ``bottom-4``, ``random-4``, ``excess-4``, ``layers:6,8,9,11``, ``full``.
        impact: what the rule goes by.
        seed: of the setups that draw.

    Raises:
        InputError: no such setup, the model has not as many layers, or the setup goes by what the impact does not hold
            (what ``headimpact measure`` measures).
    """
    table = impact.table()
    return choice.select(setup, measured_layers(table), seed)


def lora_config(
    base: Vlm,
    selection: Selection,
    rank: int = 8,
    alpha: int = 16,
    targets: Sequence[str] = ("q_proj", "k_proj", "v_proj"),
    method: str = "lora",
) -> LoraConfig:
    """A plain PEFT configuration that adapts the selected layers and nothing else, for ``peft.get_peft_model``.

    The modules have their full names, so that the vision tower's projections of the same name are left alone.

    Args:
        base: the model that the layers were selected for.
        selection: of layers; single heads are no matter of a configuration.
        rank: rank of the adapters (of ``full-K``: what K layers would have, spread over all of them).
        alpha: the adapters are scaled by alpha / rank.
        targets: the projections to adapt within a layer: of its attention, or of its MLP (``up_proj``, ...).
        method: lora, dora or rslora.

    Raises:
        InputError: there is nothing to adapt, no such projection, single heads were selected, or the selection is of
            another model.
    """
    if len(selection.scores) != base.layers:
        raise InputError(
            f"The selection is for a model of {len(selection.scores)} layers, and {base.source} has {base.layers}: "
            "select from this model's own impact."
        )
    if selection.heads:
        raise InputError(
            f"Setup {selection.setup!r} adapts single heads, which a LoRA configuration cannot say: select layers, or "
            f"train it with `headimpact finetune --setup {selection.setup}`."
        )
    if not selection.layers:
        raise InputError(f"Setup {selection.setup!r} adapts no layer: there is nothing to configure.")
    chosen = cell.placement(selection.layers, (), read_setup(selection.setup).budget, rank)
    return lora.peft_config(base, chosen.layers, lora.LoraSettings(rank, alpha, targets, method), chosen.ranks)


def attention(base: Vlm, image: Image.Image, phrase: str, layer: int, head: int) -> AttentionMap:
    """Where one head looks in an image while the model reads a phrase.

    Args:
        base: the model.
        image: of any size.
        phrase: what the model says to be in the image.
        layer: from 0.
        head: from 0.

    Returns:
        The attention to each visual token with the grid of these tokens. ``whole`` is laid over the image as a whole;
        ``crops`` over its crops, where the model makes some (SmolVLM), else None.

    Raises:
        InputError: the phrase is empty, there is no such layer or head, the image has more than 8 bits a channel, or
            the model's attention was set to another after it was loaded.
    """
    if not phrase.strip():
        raise InputError("The phrase is empty: say in words what to look for.")
    _check_attention(base)
    return attention_map(base, rgb(image, "The image"), phrase, layer, head)


@dataclass(frozen=True)
class LookPage:
    """A page that shows where every head looks; a notebook shows it in place.

    Attributes:
        html: all of it.
    """

    html: str

    def save(self, path: str | Path) -> Path:
        """Write it to a file, which a browser opens without a server."""
        path = Path(path)
        write_text(path, self.html)
        return path

    def _repr_html_(self) -> str:
        """What IPython asks for."""
        source = escape(self.html, quote=True)
        return f'<iframe srcdoc="{source}" sandbox="allow-scripts" style="width:100%;height:60rem;border:0"></iframe>'


def look(
    base: Vlm,
    images: Sequence[Sample] | Image.Image,
    phrase: str | Sequence[str] | None = None,
    question: str | None = None,
    mask_threshold: float = 0.5,
    max_new_tokens: int = 32,
    batch_tokens: int = EngineSettings.batch_tokens,
    watch: Watch = unwatched,
) -> LookPage:
    """A page that shows where every head, layer and token of a phrase looks, with the IoU where there are masks.

    An adapter that ``peft.get_peft_model`` put on ``base.model`` is shown beside the original.

    Args:
        base: the model.
        images: samples with objects, a dozen or two; or one image of any size, of which nobody knows where anything
            is, with either
        phrase: what the model says to be in it, or several such phrases, or
        question: what it is asked, and answers itself.
        mask_threshold: as of :func:`score`.
        max_new_tokens: of the answer.
        batch_tokens: tokens in one forward.
        watch: shows the images.

    Raises:
        InputError: there is nothing to look at; an image alone comes without words, or samples with them; a phrase or
            an answer is empty; the image has more than 8 bits a channel; or the model's attention was set to another
            after it was loaded.
    """
    _check_attention(base)
    engine, title = Engine(base, EngineSettings(batch_tokens)), f"Where {Path(base.source).name} looks"
    if isinstance(images, Image.Image):
        phrases = (phrase,) if isinstance(phrase, str) else phrase or ()
        looked = of_picture(engine, rgb(images, "The image"), phrases, question, max_new_tokens)
    elif phrase is not None or question is not None:
        raise InputError("Samples have phrases of their own: give a phrase or a question with a single image.")
    else:
        looked = of_samples(engine, images, mask_threshold, watch=watch)
    return LookPage(looked.html(title, [("model", base.source)]))


def _check_attention(base: Vlm) -> None:
    """Nothing is captured by another attention, and nothing would say so."""
    if (other := base.text_config._attn_implementation) != OWN_ATTENTION:
        raise InputError(
            f"The attention of {base.source} was set to {other} after it was loaded: give the model to load_base again."
        )
