"""``params.yaml`` as frozen models: the type, range and meaning of every value, and the steps that use it.

The values have one home, ``params.yaml``; nothing here has a default. The keys that the stages of
``dvc.yaml`` depend on are held to :data:`USES` by a test.
"""

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, StringConstraints, ValidationError

from headimpact.errors import InputError
from headimpact.lifecycle import layout
from headimpact.selection.rules import CHAMPION, RULES
from headimpact.selection.setups import check_setup, needs_measures

Step = Literal[
    "download",
    "ground",
    "segment",
    "data",
    "pretrain",
    "score",
    "measure",
    "examine",
    "select",
    "finetune",
    "answer",
    "tournament",
    "report",
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Projection = Literal["q_proj", "k_proj", "v_proj"]


class Section(BaseModel):
    """A part of ``params.yaml``: frozen, every key needed, no other key allowed, no type converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Base(Section):
    """A checkpoint."""

    source: str = Field(min_length=1, description="folder (from the project root) or hub name")
    revision: str | None = Field(description="commit or branch on the hub; null for a folder")


class Grid(Section):
    """The cells of ``dvc repro``."""

    models: tuple[str, ...] = Field(strict=False, min_length=1, description="embedded models of the grid")
    setups: tuple[str, ...] = Field(strict=False, min_length=1, description="setups that train, for every model")


class Compute(Section):
    """How to compute, not what."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        description="device; auto: the best that is there, cuda, then mps, then cpu"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        description="precision of the base; auto: on a GPU bfloat16 (float16 where it lacks that), elsewhere float32"
    )
    threads: int = Field(ge=0, description="CPU threads; 0: torch's own choice")


class PartSizes(Section):
    """Images in each part of a dataset."""

    impact: int = Field(gt=1, description="images that HI is computed on")
    train: int = Field(gt=1, description="images to fine-tune on")
    val: int = Field(gt=1, description="images that decide when to stop")
    test: int = Field(gt=3, description="images that the results are measured on")


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
    batch_images: int = Field(gt=0, description="images in a forward")


class Measure(Section):
    """What layers are measured by beside Head Impact, for the rules that go by it."""

    images: int = Field(gt=0, description="images of the impact part to measure on; all where there are fewer")
    batch_images: int = Field(gt=0, description="images in a forward")


class Examine(Section):
    """Head Impact itself under test: under variations of its definition."""

    images: int = Field(gt=1, description="images of the impact part to vary HI on; all where there are fewer")
    batch_images: int = Field(gt=0, description="images in a forward")


class Lora(Section):
    """The adapter."""

    rank: int = Field(gt=0, le=256, description="rank of the update")
    alpha: int = Field(gt=0, description="the update is scaled by alpha / rank")
    targets: tuple[Projection, ...] = Field(
        strict=False, min_length=1, description="projections of the language model's attention to adapt"
    )


class Train(Section):
    """Training of an adapter."""

    seed: int = Field(ge=0, description="seed of the adapter's first weights and of the sample order")
    lr: float = Field(gt=0, le=1, description="peak learning rate")
    epochs: int = Field(gt=0, description="passes over the train part, at most")
    batch_images: int = Field(gt=0, description="images in a forward")
    accumulation: int = Field(gt=0, description="forwards in an optimiser step")
    warmup_share: float = Field(ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(ge=0, lt=1, description="weight decay of AdamW")
    max_grad_norm: float = Field(gt=0, description="gradients are clipped to this norm")
    evals_per_epoch: int = Field(gt=0, description="validations in an epoch")
    patience: int = Field(gt=0, description="validations without a better perplexity after which training stops")
    checkpoint_steps: int = Field(gt=0, description="optimiser steps between two checkpoints")


class Evaluate(Section):
    """Evaluation on the test part."""

    batch_images: int = Field(gt=0, description="images in a forward")


class Differences(Section):
    """The differences between two rules that matter, in the metrics' own units."""

    perplexity: float = Field(gt=0, description="difference of perplexity that the images needed are told for")
    accuracy: float = Field(gt=0, lt=1, description="difference of accuracy (0 to 1) that they are told for")
    ans_prob: float = Field(gt=0, lt=1, description="difference of AnsProb (0 to 1) that they are told for")


class Tournament(Section):
    """Rules for choosing layers, set against each other."""

    models: tuple[str, ...] = Field(strict=False, min_length=1, description="models that it is held on")
    rules: tuple[str, ...] = Field(
        strict=False,
        min_length=2,
        description="rules of setups, as top or knockout; draw: layers drawn from all; full: all layers, at the rank "
        "that has the budget of K; top is compared with all others",
    )
    ks: tuple[PositiveInt, ...] = Field(strict=False, min_length=1, description="numbers of layers, K")
    seeds: tuple[NonNegativeInt, ...] = Field(
        strict=False, min_length=2, description="training seeds, in the place of train.seed"
    )
    draws: int = Field(gt=1, description="draws of layers for the rule draw")
    differences: Differences
    workers: int = Field(gt=0, description="processes that train at once on a CPU; on a GPU it is one")


class Answer(Section):
    """Answers on the test part: questions in every order of their options, and what the model says of its own."""

    images: int = Field(gt=1, description="images of the test part to ask about; all where there are fewer")
    generated_images: int = Field(
        gt=1, description="those of them to generate answers about and to show in the gallery"
    )
    max_new_tokens: int = Field(gt=0, description="tokens of a generated answer, at most")
    batch_images: int = Field(gt=0, description="images in a forward")


class Serve(Section):
    """Limits of the served model; a change takes effect with the next registered version."""

    max_image_megapixels: float = Field(gt=0, description="larger images are refused before they are decoded")
    max_body_megabytes: float = Field(gt=0, description="larger encoded images are refused")
    max_prompt_characters: int = Field(gt=0, description="longer prompts are refused")
    max_new_tokens: int = Field(gt=0, description="upper limit of the parameter max_new_tokens")
    max_wait_seconds: float = Field(gt=0, description="a request that waits longer for the model is refused")


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
    split: PartSizes
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
    evaluate: Evaluate
    tournament: Tournament
    answer: Answer
    serve: Serve


@dataclass(frozen=True)
class Job:
    """What a step works on; a step that needs no model or no setup ignores them."""

    model: str
    setup: str


@dataclass(frozen=True)
class Use:
    """The steps that use a value, in order; ``tracked``: a change makes what they wrote stale; ``shared``: results that
    are compared with each other have it in common, so that none is made with another one."""

    steps: tuple[Step, ...]
    tracked: bool = True
    shared: bool = False


STEPS: tuple[Step, ...] = get_args(Step)
USES: dict[str, Use] = {
    "seed": Use(("data", "score", "measure", "examine", "select", "finetune", "answer", "tournament")),
    "dataset": Use(
        (
            "download",
            "ground",
            "segment",
            "data",
            "score",
            "measure",
            "examine",
            "finetune",
            "answer",
            "tournament",
            "report",
        )
    ),
    "model": Use(()),
    "setup": Use(()),
    "models": Use(("score", "measure", "examine", "finetune", "answer", "tournament")),
    "grid": Use(()),
    "compute.device": Use(
        ("ground", "segment", "pretrain", "score", "measure", "examine", "finetune", "answer", "tournament"),
        tracked=False,
    ),
    "compute.dtype": Use(("ground", "segment", "score", "measure", "examine", "finetune", "answer", "tournament")),
    "compute.threads": Use(
        ("ground", "segment", "pretrain", "score", "measure", "examine", "finetune", "answer", "tournament"),
        tracked=False,
    ),
    "scenes": Use(("data",)),
    "split": Use(("data",)),
    "min_score": Use(("data",)),
    "published": Use(("download", "data")),
    "coco": Use(("download",)),
    "download": Use(("download",), tracked=False),
    "ground.batch_images": Use(("ground",), tracked=False),
    "ground": Use(("ground",)),
    "segment.batch_images": Use(("segment",), tracked=False),
    "segment": Use(("segment",)),
    "pretrain": Use(("pretrain",)),
    "impact.mask_threshold": Use(("score", "examine")),
    "impact.chance_draws": Use(("score", "examine")),
    "impact.batch_images": Use(("score",), tracked=False),
    "measure.images": Use(("measure",)),
    "measure.batch_images": Use(("measure",), tracked=False),
    "examine.images": Use(("examine",)),
    "examine.batch_images": Use(("examine",), tracked=False),
    "lora": Use(("finetune", "tournament")),
    "train.seed": Use(("finetune",)),
    "train": Use(("finetune", "tournament")),
    "evaluate": Use(("finetune", "tournament"), tracked=False),
    "tournament.workers": Use(("tournament",), tracked=False),
    "tournament": Use(("tournament",)),
    "answer.batch_images": Use(("answer",), tracked=False),
    "answer": Use(("answer",), shared=True),
    "serve": Use(("finetune",), tracked=False),
}


def use_of(key: str) -> Use:
    """Which steps use the value ``key`` (dotted)."""
    parts = key.split(".")
    return next(USES[name] for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in USES)


def tracked_values(config: Config, step: Step, job: Job) -> dict[str, Any]:
    """The values that decide what ``step`` computes for ``job``, by dotted key."""
    used = config.tournament.models if step == "tournament" else (job.model,)
    unused = tuple(f"models.{name}." for name in config.models if name not in used)
    if job.setup == "original":
        unused += ("lora.", "train.")
    return {
        key: value
        for key, value in _leaves(config.model_dump(mode="json")).items()
        if (use := use_of(key)).tracked and step in use.steps and not key.startswith(unused)
    }


def check_override(key: str, step: str, text: str = "<value>") -> None:
    """Refuse to override, for one run of ``step`` (or of main), a value that is not the step's own.

    Raises:
        InputError: an earlier step uses the value (its files would not agree with it), or this one does not.
    """
    use = use_of(key)
    if step in use.steps and (use.steps[0] == step or not use.tracked) and not use.shared:
        return
    if key in ("model", "setup"):
        instead = (
            f", name models as in --tournament.models '[{text}]'" if (step, key) == ("tournament", "model") else ""
        )
        raise InputError(f"{step} works on no single {key}: leave --{key} out{instead}.")
    owner = f"the step {use.steps[0]}" if use.steps and not use.shared else "the whole grid"
    raise InputError(
        f"--{key}: this value belongs to {owner} and cannot be changed for one run of {step}: the files made "
        f"before would not agree with it. Change it in {layout.PARAMS}, or try it as an experiment:\n"
        f"    dvc exp run -S '{key}={text}'"
    )


def check_model(config: Config, model: str, where: str = "--model") -> None:
    """Refuse an unknown model.

    Raises:
        InputError: names the nearest and all known models.
    """
    if model not in config.models:
        known = ", ".join(config.models)
        raise InputError(f"{where}: unknown model {model!r}.{_did_you_mean(model, config.models)} Known: {known}.")


def load(path: Path, overrides: Mapping[str, str] | None = None) -> Config:
    """Read ``params.yaml``, replace the values named in ``overrides`` (dotted name to YAML text), check all.

    Raises:
        InputError: names each wrong key, its value, and what is allowed.
    """
    overrides = overrides or {}
    values = _read(path)
    for key, text in overrides.items():
        _replace(values, key, text)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        details = _most_precise(error.errors(include_url=False))
        raise InputError("\n".join(_explain(detail, path, overrides) for detail in details)) from None
    _check_names(config, path)
    return config


def _check_names(config: Config, path: Path) -> None:
    """Models and setups that are named elsewhere exist; the grid's are those that the DVC graph can hold."""
    check_model(config, config.model, f"{path}: model")
    _check_dataset(config.dataset, path)
    for setup in (config.setup, *config.grid.setups):
        _check_setup(setup, path)
    _check_tournament(config.tournament, path)
    for model in config.tournament.models:
        check_model(config, model, f"{path}: tournament.models")
    for model in config.grid.models:
        check_model(config, model, f"{path}: grid.models")
        if config.models[model].source != layout.base(model).as_posix():
            raise InputError(
                f"{path}: grid.models names {model}, whose source is not the folder {layout.base(model)}. "
                "Only embedded bases can be in the grid; run this one directly: "
                f"headimpact finetune --model {model}"
            )
    for setup in config.grid.setups:
        if setup == "original":
            raise InputError(f"{path}: grid.setups: leave out original, it always runs.")
        if setup.startswith(("layers:", "heads:")) or needs_measures(setup):
            raise InputError(
                f"{path}: grid.setups cannot hold {setup}. Run it directly: headimpact finetune --setup {setup}"
            )
    contests = config.tournament
    lists: dict[str, Sequence[object]] = {"grid.models": config.grid.models, "grid.setups": config.grid.setups}
    lists |= {f"tournament.{name}": getattr(contests, name) for name in ("models", "rules", "ks", "seeds")}
    for name, values in lists.items():
        if len(set(values)) < len(values):
            raise InputError(f"{path}: {name} names one of them twice: {', '.join(map(str, values))}.")


def _check_tournament(tournament: Tournament, path: Path) -> None:
    """Its rules exist, and the one that all others are compared with is among them."""
    for rule in tournament.rules:
        if rule not in RULES:
            near = _did_you_mean(rule, list(RULES))
            raise InputError(f"{path}: tournament.rules: unknown rule {rule!r}.{near}")
    if CHAMPION not in tournament.rules:
        raise InputError(f"{path}: tournament.rules lacks {CHAMPION}, which all others are compared with.")


def _check_dataset(dataset: str, path: Path) -> None:
    """Data of one's own lie where neither a step nor DVC, which clears a stage's outputs first, removes them."""
    if not is_own(dataset):
        return
    for made in (layout.DATASET, *layout.WRITTEN):
        if Path(dataset).resolve().is_relative_to(made.resolve()):
            raise InputError(
                f"{path}: dataset is {dataset}, but what lies in {made} is replaced by the steps. Move your data "
                "elsewhere, such as to data/mine, and name that folder."
            )


def is_own(dataset: str) -> bool:
    """Whether a dataset is named by the path of a folder."""
    return "/" in dataset or dataset == "."


def _check_setup(setup: str, path: Path) -> None:
    try:
        check_setup(setup)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, as DVC does and as ``dvc exp run -S`` writes it (plain PyYAML reads text), and refuses a
    key that comes twice (plain PyYAML takes the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(
                problem=f"the key {twice} comes twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run in the project root.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold keys and values, but holds {_say(values)}.")
    return values


def _replace(values: dict[str, Any], key: str, text: str) -> None:
    known = _leaves(values)
    if key not in known:
        inside = [name for name in known if name.startswith(f"{key}.")]
        hint = f" It is a section: name one value, as in {inside[0]}." if inside else _did_you_mean(key, known)
        raise InputError(f"--{key}: there is no value of this name in {layout.PARAMS}.{hint}")
    *sections, last = key.split(".")
    for section in sections:
        values = values[section]
    try:
        values[last] = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise InputError(f"--{key}: {text!r} is not a valid YAML value.") from None


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves


def _most_precise(details: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without the errors of a list that only follow from an error of one of its items."""
    places = [detail["loc"] for detail in details]
    return [d for d in details if not any(p != d["loc"] and p[: len(d["loc"])] == d["loc"] for p in places)]


def _explain(detail: Mapping[str, Any], path: Path, overrides: Mapping[str, str]) -> str:
    location = [str(part) for part in detail["loc"] if part != "[key]"]
    key = ".".join(location)
    where = "command line" if {key, ".".join(location[:-1])} & set(overrides) else path
    return f"{where}: {_complaint(detail, key, location)}"


def _complaint(detail: Mapping[str, Any], key: str, location: list[str]) -> str:
    if detail["type"] == "extra_forbidden":
        known = [parameter.key for parameter in documentation()]
        sections = {key.rpartition(".")[0] for key in known} - {""}
        return f"unknown key {key}.{_did_you_mean(key, [*known, *sections])} Correct it or remove it."
    if detail["type"] == "string_pattern_mismatch" and "[key]" in detail["loc"]:
        return f"{key} is not a name for a model: use lower-case letters, digits and single hyphens."
    described = _described(key) or _described(".".join(location[:-1]))  # an item of a list is described by the list
    needed = (
        f"{described.type}{described.allowed} ({described.meaning})" if described else "a section of keys and values"
    )
    if detail["type"] == "missing":
        return f"{key} is missing. Needed: {needed}."
    hint = _number_hint(detail["input"]) if described and "number" in described.type else ""
    return f"{key} is {_say(detail['input'])}. Needed: {needed}.{hint}"


def _say(value: object) -> str:
    if value is None or isinstance(value, dict):
        return "empty" if value is None else "a section of keys and values"
    kinds = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}
    return f"{value!r} ({kinds.get(type(value), type(value).__name__)})"


def _number_hint(value: object) -> str:
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return ""
    return "" if number is None else f" Quotes make it text: write {value} without them."


def _did_you_mean(name: str, known: Mapping[str, Any] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


@dataclass(frozen=True)
class Parameter:
    """One value of ``params.yaml`` in words."""

    key: str
    type: str
    allowed: str
    meaning: str


def documentation(step: Step | None = None) -> list[Parameter]:
    """Every value of ``params.yaml``, or those that a run of ``step`` can override."""
    parameters = list(_parameters(Config, ""))
    if step is None:
        return parameters
    return [parameter for parameter in parameters if _accepts(step, parameter.key)]


def _accepts(step: Step, key: str) -> bool:
    try:
        check_override(key, step)
    except InputError:
        return False
    return True


def _parameters(section: type[BaseModel], prefix: str) -> Iterator[Parameter]:
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if get_origin(annotation) is dict:
            yield from _parameters(get_args(annotation)[1], f"{prefix}{name}.<name>.")
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _parameters(annotation, f"{prefix}{name}.")
        else:
            yield Parameter(f"{prefix}{name}", _type(annotation), _limits(field.metadata), field.description or "")


def _described(key: str) -> Parameter | None:
    parts = key.split(".")
    if parts[0] == "models" and len(parts) == 3:
        parts[1] = "<name>"
    return next((parameter for parameter in documentation() if parameter.key == ".".join(parts)), None)


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(get_args(annotation))
    if get_origin(annotation) is Annotated:
        inner, *limits = get_args(annotation)
        return f"{_type(inner)}{_limits(limits)}"
    if get_origin(annotation) is tuple:
        return f"list of {_type(get_args(annotation)[0])}"
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type(option) for option in get_args(annotation))
    return {int: "whole number", float: "number", str: "text", type(None): "null"}[annotation]


def _limits(metadata: Sequence[Any]) -> str:
    words = {Gt: " above {.gt}", Ge: " from {.ge}", Lt: " below {.lt}", Le: " up to {.le}"}
    return ",".join(words[type(limit)].format(limit) for limit in metadata if type(limit) in words)
