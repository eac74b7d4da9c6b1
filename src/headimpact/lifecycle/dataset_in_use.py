"""Whether what lies in a project is of the dataset in use: a project keeps its outputs when its dataset is changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from headimpact.data import manifest
from headimpact.files import read_json_object
from headimpact.lifecycle import layout

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is built in


@dataclass(frozen=True)
class InUse:
    """The dataset in ``data/dataset``; what is not known of it is None.

    Attributes:
        digest: of its files.
        phrases: by id, of every object of its test part.
        made_from: what params.yaml named when it was made.
        held_on_other: the tournament was held on another dataset.
    """

    digest: str | None
    phrases: Mapping[int, str] | None
    made_from: str | None
    held_on_other: bool

    def instead_of(self, dataset: str | None) -> str | None:
        """What ``data/dataset`` was made from, where that is not ``dataset`` of params.yaml; None: it is, or nobody
        knows."""
        return self.made_from if dataset not in (None, self.made_from) else None

    def is_other(self, facts: Mapping[str, Any]) -> bool:
        """Whether a summary or header is about another dataset."""
        return None not in (self.digest, facts.get("dataset_digest")) and facts["dataset_digest"] != self.digest

    def has_other(self, objects: pd.DataFrame) -> bool:
        """Whether results are of objects of another test part."""
        if self.phrases is None or "phrase" not in objects:
            return False
        pairs = zip(objects["object_id"].tolist(), objects["phrase"].tolist(), strict=True)
        return any(self.phrases.get(number) != phrase for number, phrase in pairs)


def in_use(root: Path = Path()) -> InUse:
    """What is known of the dataset in use, from its files and from what DVC recorded.

    Raises:
        InputError: a file of it is damaged.
    """
    folder, test = root / layout.DATASET, root / layout.DATASET / "annotations/test.json"
    content = read_json_object(test, "annotations")["annotations"] if test.is_file() else None
    stages = _recorded(root)
    made, held = stages.get("data", {}), stages.get("tournament", {})
    digests = [_md5(made.get("outs", [])), _md5(held.get("deps", []))]
    return InUse(
        digest=manifest.dataset_digest(folder) if manifest.manifest_path(folder).is_file() else None,
        phrases=None if content is None else {entry["id"]: entry.get("phrase") for entry in content},
        made_from=made.get("params", {}).get(layout.PARAMS.name, {}).get("dataset"),
        held_on_other=None not in digests and digests[0] != digests[1],
    )


def _recorded(root: Path) -> dict[str, Any]:
    path = (root / layout.GRAPH).with_suffix(".lock")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _LOADER)["stages"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):  # DVC says what is wrong with it
        return {}


def _md5(entries: list[dict[str, Any]]) -> str | None:
    return next((entry.get("md5") for entry in entries if entry.get("path") == layout.DATASET.as_posix()), None)
