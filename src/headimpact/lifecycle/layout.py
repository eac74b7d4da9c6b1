"""Every path of the project, named once. All are relative to the project root, where every command runs."""

from pathlib import Path

from headimpact.errors import InputError
from headimpact.selection.grammar import alias, softened, trained

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")
"""The stages of the grid."""
JOBS = Path("jobs/dvc.yaml")
"""The stages of models and setups outside of the grid that a person asked for by name."""
ENTRY_POINTS = Path("MLproject")
FINGERPRINTS = Path("fingerprints.json")
"""What the code of every step and family does, as digests."""
CODE_NOTE = Path("outputs/code.txt")
"""For which code fingerprints.json was found to be right; not an output."""
COMMANDS = Path("docs/commands.md")
REPORTS = Path("reports")
DATASET = Path("data/dataset")
"""The dataset in use, whatever it was made from."""
BASES = Path("models/bases")
"""The embedded bases."""
IDENTITIES = Path("models/identities")
IMPACT = Path("outputs/impact")
MEASURES = Path("outputs/measures")
EXAMINATIONS = Path("outputs/examination")
SELECTIONS = Path("outputs/selection")
FINETUNED = Path("outputs/finetune")
EVALUATIONS = Path("outputs/evaluation")
ANSWERS = Path("outputs/answers")
DELIVERED = Path("outputs/delivered")
REHEARSALS = Path("outputs/rehearsal")
LOOKS = Path("outputs/look")
"""Pages to look at; no outputs."""
CAMPAIGN = Path("benchmarks/campaign.json")
"""What the campaign against kills, full disks, outages and damaged input found."""
SPEED = Path("benchmarks/speed.json")
CONTRACT = Path("benchmarks/contract.json")
"""What the benchmark of speed measured."""
FORGETTING = Path("benchmarks/forgetting.csv")
"""What the benchmark of remedies against forgetting measured."""
FROZEN = Path("outputs/frozen")
"""What the frozen part of bases makes of images (engine.frozen), from run to run."""
CHECKPOINTS = Path("outputs/checkpoints")
"""What killed work goes on from; no outputs."""
WRITTEN = (Path("outputs"), Path("reports"), BASES, IDENTITIES, Path("data/download"))
"""Folders whose content is the steps' own."""
DATASET_LOOK = Path("outputs/data")
"""Contact sheet and histograms of the dataset in use."""
CAPTIONS = Path("data/download/coco/captions.jsonl")
PHRASES = Path("data/ground/phrases.jsonl")
OBJECTS = Path("data/segment/objects.jsonl")


def find_root(start: Path) -> Path:
    """The project root: ``start`` or the nearest folder above it that holds params.yaml and dvc.yaml.

    Raises:
        InputError: there is none.
    """
    for folder in (start, *start.parents):
        if (folder / PARAMS).is_file() and (folder / GRAPH).is_file():
            return folder
    raise InputError(f"{start} is not in the project: neither it nor a folder above holds {PARAMS} and {GRAPH}.")


def download(dataset: str) -> Path:
    """What download fetched for a dataset; kept between runs."""
    return Path("data/download") / dataset


def downloaded_images(dataset: str) -> Path:
    """The images that download fetched for a dataset."""
    return download(dataset) / "images"


def made(step: str) -> Path:
    """The digest of what download, ground or segment made, which DVC looks at; it is in git."""
    return Path("data") / f"{step}.json"


def base(model: str) -> Path:
    """An embedded base."""
    return BASES / model


def identity(model: str) -> Path:
    """Which base a model is: source, commit, family, digests."""
    return IDENTITIES / f"{model}.json"


def impact(model: str) -> Path:
    """What score writes."""
    return IMPACT / model


def heatmap(model: str) -> Path:
    """The picture of every head's HI."""
    return impact(model) / "heatmap.png"


def impact_table(model: str) -> Path:
    """The HI table, one row a head."""
    return impact(model) / "impact.csv"


def impact_summary(model: str) -> Path:
    """What was scored, with the digests of what it came from and of the HI table."""
    return impact(model) / "summary.json"


def impact_objects(model: str) -> Path:
    """The scores of every object and head."""
    return impact(model) / "objects.parquet"


def examination(model: str) -> Path:
    """What examine writes."""
    return EXAMINATIONS / model


def measures(model: str) -> Path:
    """What measure writes: one row a layer."""
    return MEASURES / f"{model}.csv"


def selection(model: str, setup: str) -> Path:
    """The selected layers; a softened setup has those of the one that was trained."""
    return SELECTIONS / model / f"{alias(trained(setup))}.json"


def finetune(model: str, setup: str) -> Path:
    """What finetune writes; of a softened setup, what soften writes."""
    return FINETUNED / model / alias(setup)


def softening(model: str, setup: str) -> Path:
    """What soften writes for a trained setup: the folder of the softened one."""
    return finetune(model, softened(setup))


def adapter(model: str, setup: str) -> Path:
    """The adapter in PEFT's own format, with its header; there is none for the setup original."""
    return finetune(model, setup) / "adapter"


def delivered(model: str, setup: str) -> Path:
    """What export writes: the folders adapter and merged."""
    return DELIVERED / model / alias(setup)


def adapter_weights(model: str, setup: str) -> Path:
    """The weights of the adapter."""
    return adapter(model, setup) / "adapter_model.safetensors"


def scales(model: str, setup: str) -> Path:
    """Gain and forgetting at every scale of a trained setup's adapter, on the validation part."""
    return softening(model, setup) / "scales.csv"


def scaled_objects(model: str, setup: str) -> Path:
    """The results of every validation object at every scale."""
    return softening(model, setup) / "scales.parquet"


def history(model: str, setup: str) -> Path:
    """The training curves."""
    return finetune(model, setup) / "history.csv"


def evaluation(model: str, setup: str) -> Path:
    """What evaluate writes."""
    return EVALUATIONS / model / alias(setup)


def results(model: str, setup: str) -> Path:
    """The metrics on the test part."""
    return evaluation(model, setup) / "results.json"


def metrics(model: str, setup: str) -> Path:
    """The metrics as flat names and numbers, which ``dvc metrics`` shows."""
    return evaluation(model, setup) / "metrics.json"


def evaluated_objects(model: str, setup: str) -> Path:
    """The results of every test object."""
    return evaluation(model, setup) / "objects.parquet"


def look_page(model: str, setup: str, picture: str = "") -> Path:
    """Where the heads of a model look, on images of the dataset or on a picture of this name; not an output."""
    return LOOKS / model / f"{'-'.join(part for part in (alias(setup), picture) if part)}.html"


def rehearsal(model: str, device: str) -> Path:
    """What rehearse found for a model on a kind of device; in git, since pages are written from it."""
    return REHEARSALS / f"{model}-{device}.json"


def tournament() -> Path:
    """What tournament writes; kept between runs and in git."""
    return Path("outputs/tournament")


def tournament_runs(model: str) -> Path:
    """Every run of a model: what it adapted, and its results of every test object."""
    return tournament() / "runs" / f"{model}.parquet"


def tournament_selections(model: str) -> Path:
    """The layers of every setup in the tournament, with the reasons."""
    return tournament() / "selections" / f"{model}.json"


def tournament_table(name: str) -> Path:
    """A table of the tournament: cells, changes or comparisons."""
    return tournament() / f"{name}.csv"


def tournament_verdicts() -> Path:
    """What may be claimed, a few sentences a model."""
    return tournament() / "verdicts.json"


def tournament_figure() -> Path:
    """Gain against forgetting."""
    return tournament() / "tournament.png"


def tournament_state(model: str, name: str) -> Path:
    """The state that a killed run of the tournament goes on from; not an output."""
    return CHECKPOINTS / "tournament" / model / f"{name}.safetensors"


def answers(model: str, setup: str) -> Path:
    """What answer writes."""
    return ANSWERS / model / alias(setup)


def answer_results(model: str, setup: str) -> Path:
    """The figures of a setup's answers."""
    return answers(model, setup) / "results.json"


def order_answers(model: str, setup: str) -> Path:
    """What every test object's question was answered with, over the orders of its options."""
    return answers(model, setup) / "orders.parquet"


def generated(model: str, setup: str) -> Path:
    """The answers in the model's own words, with their scores."""
    return answers(model, setup) / "generated.parquet"


def training_state(model: str, setup: str) -> Path:
    """The state that a killed finetune goes on from; not an output."""
    return CHECKPOINTS / model / f"{alias(setup)}.safetensors"


def kept_portions(model: str, step: str) -> Path:
    """What a killed score, measure or examine goes on from (engine.portions); not an output."""
    return CHECKPOINTS / model / step


def unrecorded(model: str, step: str, setup: str) -> Path:
    """What evaluate or answer wrote and is not recorded yet (lifecycle.unrecorded); not an output."""
    return CHECKPOINTS / model / f"{step}-{alias(setup)}"


def unrecorded_step(step: str) -> Path:
    """What data or report wrote and is not recorded yet; not an output."""
    return CHECKPOINTS / "project" / step


def pretraining_state(model: str) -> Path:
    """The state that a killed pretrain goes on from; not an output."""
    return CHECKPOINTS / model / "pretrain.safetensors"
