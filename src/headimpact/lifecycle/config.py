"""``params.yaml`` as frozen models: the type, range and meaning of every value.

The values have one home, ``params.yaml``; nothing here has a default. ``params`` reads it; ``registry`` and
``values`` say which step uses which value.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Section(BaseModel):
    """A part of ``params.yaml``: frozen, every key needed, no other key allowed, no type converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Base(Section):
    """A checkpoint."""

    source: str = Field(min_length=1, description="folder (from the project root) or hub name")
    revision: str | None = Field(description="commit or branch on the hub; null for a folder")


class Grid(Section):
    """The cells of ``dvc repro``."""

    models: tuple[str, ...] = Field(strict=False, min_length=1, description="models of the grid")
    setups: tuple[str, ...] = Field(
        strict=False, min_length=1, description="setups for every model, original among them"
    )


class Compute(Section):
    """How to compute, not what."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        description="device; auto: the best that is there, cuda, then mps, then cpu"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        description="precision of the base; auto: on a GPU bfloat16 (float16 where it lacks that), elsewhere float32"
    )
    threads: int = Field(ge=0, description="CPU threads; 0: torch's own choice")
    batch_tokens: int = Field(
        gt=0, description="tokens in a forward, padding included; halved where the device's memory is too small"
    )
    workers: int = Field(ge=0, le=128, description="processes that prepare images ahead of the device; 0: none")
    prefetch: int = Field(gt=0, description="images that each of them is ahead")
    memory_mb: int = Field(
        ge=0, description="memory for what of a base does not change while an adapter trains or is evaluated, in MiB"
    )
    disk_mb: int = Field(ge=0, description="disk space for the same, kept from run to run, in MiB; 0: none")
    cluster: str | None = Field(
        pattern=r"^(local|[^\s/@]+:[0-9]{1,5})$",
        description="Ray cluster that independent runs are spread over: null, local (this machine), or its "
        "address, as 10.0.0.1:6379",
    )


class PartSizes(Section):
    """Images in each part of a dataset."""

    impact: int = Field(gt=1, description="images that HI is computed on")
    train: int = Field(gt=1, description="images to fine-tune on")
    val: int = Field(gt=1, description="images that decide when to stop")
    test: int = Field(gt=3, description="images that the results are measured on")


class Split(Section):
    """Images in each part of a dataset that is split, or the shares of all its images."""

    impact: int | float = Field(gt=0, description="images that HI is computed on, or their share (below 1)")
    train: int | float = Field(gt=0, description="images to fine-tune on, or their share")
    val: int | float = Field(gt=0, description="images that decide when to stop, or their share")
    test: int | float = Field(gt=0, description="images that the results are measured on, or their share")


class Scenes(Section):
    """The generated dataset."""

    sizes: PartSizes


class Published(Section):
    """The authors' published dataset."""

    source: str = Field(min_length=1, description="folder of the release, or its repository on GitHub (owner/name)")
    index_revision: str = Field(min_length=1, description="commit of the repository to take dataset_masks.json from")
    index_sha256: str | None = Field(description="SHA-256 of dataset_masks.json; null: not known")
    masks_revision: str = Field(min_length=1, description="commit of the repository to take the masks from")


class Coco(Section):
    """The paper's dataset, built anew from COCO captions and images."""

    captions: str = Field(min_length=1, description="captions file, or an archive that holds it: address or path")
    member: str = Field(min_length=1, description="captions file within the archive")
    images: int = Field(gt=0, description="images to draw; not every one ends with a usable object")
    seed: int = Field(ge=0, description="seed of the images and of the caption of each")


class Download(Section):
    """How to fetch."""

    mirror: str | None = Field(
        description="address in the place of http://images.cocodataset.org for images; null: none"
    )
    workers: int = Field(gt=0, le=32, description="files at a time")
    attempts: int = Field(gt=0, description="attempts for a file")
    timeout_seconds: float = Field(gt=0, description="seconds without an answer after which an attempt has failed")


class Ground(Base):
    """Florence-2: the phrases of a caption and their boxes."""

    batch_images: int = Field(gt=0, description="images in a forward")
    beams: int = Field(gt=0, description="beams of the generation")


class Segment(Base):
    """SAM 2: the mask of what is in a box."""

    batch_images: int = Field(gt=0, description="images in a forward")


class Pretrain(Section):
    """The recipe of the embedded bases: language alone, then vision alone, then all together."""

    models: tuple[str, ...] = Field(strict=False, description="embedded bases, which are pretrained here")
    seed: int = Field(ge=0, description="seed of weights, scenes and questions")
    held_out: int = Field(gt=0, description="scenes that the learning curve is measured on")
    batch_images: int = Field(gt=0, description="scenes in a step of language and of all together")
    vision_batch_images: int = Field(gt=0, description="scenes in a step of vision")
    questions: int = Field(gt=0, description="questions about a scene in a step")
    language_steps: int = Field(ge=0, description="steps of the phase that learns language from scenes in words")
    vision_steps: int = Field(ge=0, description="steps of the phase that learns what each visual token shows")
    joint_steps: int = Field(ge=0, description="steps of the phase that learns all together")
    language_lr: float = Field(gt=0, le=1, description="peak learning rate of the language phase")
    vision_lr: float = Field(gt=0, le=1, description="peak learning rate of the vision phase")
    joint_lr: float = Field(gt=0, le=1, description="peak learning rate of the joint phase")
    checkpoint_steps: int = Field(gt=0, description="steps between two checkpoints")
    evaluation_steps: int = Field(gt=0, description="steps between two points of the learning curve")


class ImpactSettings(Section):
    """Head Impact."""

    mask_threshold: float = Field(
        gt=0, le=1, description="covered share of its pixels from which a visual token belongs to the object"
    )
    chance_draws: int = Field(gt=0, description="masks of other images drawn for each object's chance level")


class Measure(Section):
    """What Head Impact does not say about a layer: gradient, knockout, attention share, localisation."""

    images: int = Field(gt=0, description="images of the impact part to measure on; all where there are fewer")


class Examine(Section):
    """Head Impact itself under test: under variations of its definition."""

    images: int = Field(gt=1, description="images of the impact part to vary HI on; all where there are fewer")


class Lora(Section):
    """The adapter."""

    rank: int = Field(gt=0, le=256, description="rank of the update")
    alpha: int = Field(gt=0, description="the update is scaled by alpha / rank")
    targets: tuple[Projection, ...] = Field(
        strict=False, min_length=1, description="projections of a layer's attention and MLP to adapt"
    )
    method: Literal["lora", "dora", "rslora"] = Field(
        description="lora; dora learns the length of each row beside it; rslora scales by alpha / sqrt(rank)"
    )


class Train(Section):
    """Training of an adapter."""

    seed: int = Field(ge=0, description="seed of the adapter's first weights and of the sample order")
    lr: float = Field(gt=0, le=1, description="peak learning rate")
    epochs: int = Field(gt=0, description="passes over the train part, at most")
    batch_images: int = Field(gt=0, description="images in an optimiser step")
    gradient_checkpointing: bool = Field(
        description="whether a backward computes layers again instead of keeping what is in them"
    )
    warmup_share: float = Field(ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(ge=0, lt=1, description="weight decay of AdamW")
    max_grad_norm: float = Field(gt=0, description="gradients are clipped to this norm")
    evals_per_epoch: int = Field(gt=0, description="validations in an epoch")
    patience: int = Field(gt=0, description="validations without a better perplexity after which training stops")
    checkpoint_steps: int = Field(gt=0, description="optimiser steps between two checkpoints")
    kl: float = Field(
        ge=0,
        description="weight of the adapter's divergence from the base (KL) in the loss, against forgetting; 0: none",
    )


class Tournament(Section):
    """Rules for choosing layers, set against each other."""

    models: tuple[str, ...] = Field(strict=False, min_length=1, description="models that it is held on")
    rules: tuple[str, ...] = Field(
        strict=False,
        min_length=2,
        description="rules of setups, as top or knockout; draw: layers drawn from all; full: all layers, at the rank "
        "that has the budget of K; whole-top: its layers with all projections adapted, at ranks of as many parameters; "
        "top is compared with all others",
    )
    ks: tuple[PositiveInt, ...] = Field(strict=False, min_length=1, description="numbers of layers, K")
    seeds: tuple[NonNegativeInt, ...] = Field(
        strict=False, min_length=2, description="training seeds, in the place of train.seed"
    )
    draws: int = Field(gt=1, description="draws of layers for the rule draw")
    differences: dict[str, Annotated[float, Field(gt=0)]] = Field(
        description="by metric, in its own unit: the difference between two rules that the images needed are told for"
    )
    workers: int = Field(gt=0, description="processes that train at once on a CPU; on a GPU it is one")


class Forgetting(Section):
    """How much of what the base knew may be lost."""

    bound: float = Field(ge=0, lt=1, description="fall of accuracy against the original that is still accepted")


class Answer(Section):
    """Answers on the test part: questions in every order of their options, and what the model says of its own."""

    images: int = Field(gt=1, description="images of the test part to ask about; all where there are fewer")
    generated_images: int = Field(
        gt=1, description="those of them to generate answers about and to show in the gallery"
    )
    max_new_tokens: int = Field(gt=0, description="tokens of a generated answer, at most")


class Serve(Section):
    """Limits of the served model; a change takes effect with the next registered version."""

    max_image_megapixels: float = Field(gt=0, description="larger images are refused before they are decoded")
    max_body_megabytes: float = Field(
        gt=0, description="larger requests are refused, before anything of them is parsed"
    )
    max_prompt_tokens: int = Field(gt=0, description="longer prompts are refused")
    max_new_tokens: int = Field(gt=0, description="upper limit of the parameter max_new_tokens")
    max_wait_seconds: float = Field(
        gt=0, description="a request that takes longer to come, or waits longer for the model, is refused"
    )


class Config(Section):
    """All of ``params.yaml``."""

    seed: int = Field(ge=0, description="seed of data, chance draws, random setups and answer order")
    dataset: str = Field(
        pattern=r"^(scenes|published|coco|\.|[^\x00-\x1f]*/[^\x00-\x1f]*)$",
        description="scenes, published, coco, or the path of a folder with data of your own (with a / in it)",
    )
    model: str = Field(description="model that a command works on when it is given no --model")
    setup: str = Field(description="setup that a command works on when it is given no --setup")
    models: dict[Name, Base] = Field(min_length=1)
    grid: Grid
    compute: Compute
    scenes: Scenes
    split: Split
    min_score: float = Field(ge=0, le=1, description="published and coco: masks of lower confidence are dropped")
    published: Published
    coco: Coco
    download: Download
    ground: Ground
    segment: Segment
    pretrain: Pretrain
    impact: ImpactSettings
    measure: Measure
    examine: Examine
    lora: Lora
    train: Train
    tournament: Tournament
    forgetting: Forgetting
    answer: Answer
    serve: Serve


@dataclass(frozen=True)
class Job:
    """What a step works on; a step that needs no model or no setup ignores them."""

    model: str
    setup: str
