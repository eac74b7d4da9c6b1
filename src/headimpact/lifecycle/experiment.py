"""How the runs stand in MLflow's pages: their names, the experiment's kind, its saved view, what it says of itself.

What the pages read was found in the sources of MLflow 3.17.2. The columns that the runs table opens with are fixed
there (source, models, dataset), and each browser remembers its own: metrics are columns in a saved view, which stands
in the menu *Views* and behind a link in the experiment's description.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from headimpact.evaluation.metrics import COMPARED
from headimpact.selection.grammar import alias

NAME = "head-impact"
NOTE = "mlflow.note.content"
KIND = "mlflow.experimentKind"
_TRAINING = "custom_model_development"  # opens on runs and models; without it MLflow guesses, often GenAI
_VIEW = "adapters"
_VIEW_TAG = f"mlflow.sharedViewState.{_VIEW}"
_EVALUATED = "metrics.`test/perplexity` > 0 and tags.step != 'tournament run'"
# The run of an adapter holds its training, its evaluation and its registration.
_OF_ADAPTERS = ("finetune", "evaluate", "register")
# Short, so that a name that is cut after 20 characters still tells the model.
_WORDS = {"answer": "ask", "select": "pick"}


def run_name(step: str, model: str | None, setup: str | None) -> str:
    """The name of a run: what tells it apart stands first, since MLflow's charts cut names after 20 characters."""
    if setup is None:
        return " ".join(part for part in (step, model) if part)
    words = (setup, model) if step in _OF_ADAPTERS else (setup, _WORDS.get(step, step), model)
    return " ".join(part for part in words if part)


def model_name(model: str, setup: str) -> str:
    """The name of an adapter among MLflow's logged models, which takes no dots, colons, slashes, percents or quotes."""
    return re.sub(r"[/:.%\"']", "-", f"{model}-{alias(setup)}")


def tags(experiment_id: str) -> dict[str, str]:
    """The tags of the experiment."""
    return {KIND: _TRAINING, _VIEW_TAG: _saved_view(), NOTE: _note(experiment_id)}


def result_name(metric: str, of: str = "") -> str:
    """The name of a final figure: of a metric on the test part, or of what ``of`` says about it."""
    return f"test/{metric}{f'_{of}' if of else ''}"


def _saved_view() -> str:
    """A view of the runs table: whatever was evaluated, the newest first, with figures as columns."""
    figures = [result_name(name, of) for name in COMPARED for of in ("", "difference")]
    columns = [f"metrics.`{name}`" for name in (*figures, "parameters/trainable")]
    state = {"selectedColumns": columns, "searchFilter": _EVALUATED}
    return json.dumps({"name": "Adapters", "createdAt": 0, "state": json.dumps(state)})


def _note(experiment_id: str) -> str:
    link = f"#/experiments/{experiment_id}/runs?viewStateShareKey={_VIEW}&workflowType=machine_learning"
    return (
        f"Which layers of a vision-language model to fine-tune. [Adapters, with their figures as columns]({link}); the "
        "tab *Models* compares them. A run named by a setup and a model trained that adapter, evaluated and registered "
        "it. `test/..._difference` is adapter minus original on the same test objects; `_difference_low` and "
        "`_difference_high` are the bounds of its 95 % interval."
    )


def registered_note(model: str, header: Mapping[str, Any]) -> str:
    """What a registered model says of itself, in Markdown.

    Args:
        model: as params.yaml names it.
        header: of one of its adapters.
    """
    revision = f", revision `{header['revision']}`" if header["revision"] else ""
    return (
        f"LoRA adapters of `{model}` (`{header['source']}`{revision}), each trained on the layers that a setup "
        "selects. A version is one trained adapter; its alias is its setup, and stands at the newest version that was "
        "made with the values of params.yaml and is better than the original on the validation part. Input: an image "
        f"and a prompt; output: text.\n\n    mlflow models serve -m models:/{NAME}-{model}@{alias(header['setup'])} "
        "--env-manager local -p 5001"
    )


def failure_note(error: BaseException, before: str) -> str:
    """The note of a run that failed: why, above what it said before."""
    why = " ".join(str(error).split()) or type(error).__name__
    return "\n\n".join(part for part in (f"{_FAILED}{why}", without_failure(before)) if part)


def without_failure(note: str) -> str:
    """A run's note without why an earlier try failed."""
    return note.partition("\n\n")[2] if note.startswith(_FAILED) else note


_FAILED = "**Failed:** "


def move_alias(name: str, setup: str, version: int) -> str:
    """The command that gives a setup's alias to a version."""
    call = f"set_registered_model_alias('{name}', '{alias(setup)}', {version})"
    return f'python -c "import mlflow; mlflow.MlflowClient().{call}"'


def why_no_alias(
    header: Mapping[str, Any], history: Sequence[Mapping[str, Any]], trial: str | None = None
) -> str | None:
    """Why a version is registered without the alias of its setup; None: it gets it.

    Args:
        header: of the adapter.
        history: of its training, with ``step``, ``metric`` and ``value``.
        trial: the experiment of DVC that it was made in.
    """
    reasons = [f"made in the experiment {trial} of DVC"] if trial else []
    if overrides := header.get("overrides"):
        given = ", ".join(f"{name} {value}" for name, value in sorted(overrides.items()))
        reasons.append(f"made with other values than params.yaml has ({given})")
    if worse := worse_than_original(history):
        reasons.append(worse)
    return "; ".join(reasons) or None


def worse_than_original(history: Sequence[Mapping[str, Any]]) -> str | None:
    """That an adapter is no better than the original on the validation part; None: it is better, or it is not known.

    Before the first step an adapter changes nothing: what is measured then is the original.
    """
    measured = [(row["step"], row["value"]) for row in history if row["metric"] == "val/perplexity"]
    before = [value for step, value in measured if step == 0]
    after = [value for step, value in measured if step > 0]
    if not before or not after or min(after) < before[0]:
        return None
    return f"no better than the original on the validation part (perplexity {before[0]:.3f}, adapter {min(after):.3f})"
