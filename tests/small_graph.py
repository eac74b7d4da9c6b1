"""A direct run against DVC, for real: a small grid whose stages run a script that writes a few bytes."""

import os
import re
from pathlib import Path

import yaml

from headimpact.errors import InputError
from headimpact.files import digest_file, write_json
from headimpact.lifecycle import jobs, layout, pipeline
from headimpact.lifecycle.config import Config, Job
from headimpact.lifecycle.params import load
from headimpact.lifecycle.summary import Summary

MODEL = "tiny-smolvlm"
TOP = Job(MODEL, "top-4")
SOURCES = ["download", "ground", "segment"]
SCRIPT = """
import hashlib, json, os, pathlib, sys
step, _, model, _, setup = [*sys.argv[1:], *[""] * 4][:5]
alias = setup.replace(":", "-").replace(",", "-")
if os.path.exists("fail"):
    sys.exit(int(open("fail").read()))
with open("log.txt", "a") as log:
    log.write(f"{os.environ['DVC_STAGE']} run={os.environ.get('MLFLOW_RUN_ID')}\\n")
targets = {
    "download": ["data/download.json"],
    "ground": ["data/ground.json"],
    "segment": ["data/segment.json"],
    "data": ["data/dataset/content", "outputs/data/content"],
    "pretrain": [f"models/bases/{model}/content"],
    "score": [f"outputs/impact/{model}/{name}" for name in ("impact.csv", "objects.parquet", "summary.json")],
    "measure": [f"outputs/measures/{model}.csv"],
    "identify": [f"models/identities/{model}.json"],
    "examine": [f"outputs/examination/{model}/content"],
    "select": [f"outputs/selection/{model}/{alias}.json"],
    "finetune": [f"outputs/finetune/{model}/{alias}/content"],
    "evaluate": [f"outputs/evaluation/{model}/{alias}/content"],
    "tournament": ["outputs/tournament/content"],
    "answer": [f"outputs/answers/{model}/{alias}/content"],
    "report": ["reports/content"],
}
for target in map(pathlib.Path, targets[step]):
    target.parent.mkdir(parents=True, exist_ok=True)
    text = open("params.yaml").read()
    digest = {"table_digest": hashlib.sha256(text.encode()).hexdigest()}
    facts = {"summary.json": digest, f"{model}.json": {"source": ""}}
    target.write_text(json.dumps(facts[target.name]) if target.name in facts else text)
"""


def write_output(step: str, config: Config, job: Job) -> Summary:
    """A step that writes the values it was given; where there is a file ``fail``, one that raises what this names."""
    if Path("fail").exists():
        kinds: dict[str, type[BaseException]] = {
            kind.__name__: kind for kind in (InputError, KeyboardInterrupt, ZeroDivisionError)
        }
        raise kinds[Path("fail").read_text()]("it failed")
    with Path("log.txt").open("a") as log:
        log.write(f"{jobs.stage_name((step, job), config)} run={os.environ.get('MLFLOW_RUN_ID')}\n")
    target = jobs.output((step, job))
    if step == "score":
        layout.impact(job.model).mkdir(parents=True, exist_ok=True)
        layout.impact_table(job.model).write_text(yaml.safe_dump(config.model_dump(mode="json")))
        layout.impact_objects(job.model).write_text(layout.impact_table(job.model).read_text())
        write_json(layout.impact_summary(job.model), {"table_digest": digest_file(layout.impact_table(job.model))})
        return Summary(step, [])
    if step == "identify":
        write_json(layout.identity(job.model), {"source": ""})
        return Summary(step, [])
    if step == "data":
        layout.DATASET_LOOK.mkdir(parents=True, exist_ok=True)
    target = target if target.suffix in (".json", ".csv") else target / "content"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return Summary(step, [])


def run(step: str, job: Job = TOP, **overrides: str) -> list[Summary]:
    """A direct run, as from the command line."""
    config = load(layout.PARAMS, {key.replace("__", "."): text for key, text in overrides.items()})
    overridden = config != load(layout.PARAMS)
    return pipeline.run(step, config, job, overridden, lambda name: lambda c, j: write_output(name, c, j))


def run_grid(config: Config | None = None) -> int:
    """The whole grid, as ``headimpact main`` runs it; with the values of params.yaml unless others are given."""
    return pipeline.run_grid(config or load(layout.PARAMS), lambda name: lambda c, j: write_output(name, c, j))


def ran(sources: bool = False) -> list[str]:
    """The jobs that ran since the last call; ``sources``: also those that data is made from."""
    log = Path("log.txt")
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    jobs = [line.rpartition(" run=")[0] for line in lines]
    return [job for job in jobs if sources or job not in SOURCES]


def set_value(pattern: str, replacement: str) -> None:
    text = layout.PARAMS.read_text()
    changed = re.sub(pattern, replacement, text)
    assert changed != text
    layout.PARAMS.write_text(changed)
