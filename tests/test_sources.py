"""The steps that a dataset is made by, one after the other, for every source, over a local web server."""

import io
import json
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pytest
import scipy.sparse
import toy_models
import web

from headimpact.data.coco import PARTS, images_path, read_part
from headimpact.errors import InputError
from headimpact.lifecycle import config, layout, params, registry
from headimpact.lifecycle.steps import data, download, ground, model_pass, segment, sources
from headimpact.lifecycle.summary import Summary
from headimpact.processes import Processes

STEPS = {"download": download.run, "ground": ground.run, "segment": segment.run, "data": data.run}


@pytest.fixture
def project(tracked: Path, project_root: Path) -> Path:
    """An empty project with the tiny bases, as the working directory."""
    (tracked / "models").symlink_to(project_root / "models")
    return tracked


def run(project_root: Path, step: str, **overrides: object) -> Summary:
    values = {key.replace("__", "."): json.dumps(value) for key, value in overrides.items()}
    # One model on the contact sheet.
    settings = params.load(project_root / layout.PARAMS, {"grid.models": "[tiny-smolvlm]"} | values)
    if not registry.STEPS[step].needed_for(settings.dataset):
        return sources.nothing_to_do(step, settings)
    return STEPS[step](settings, config.Job(settings.model, settings.setup))


def png(number: int) -> bytes:
    stream = io.BytesIO()
    toy_models.image(number).save(stream, format="png")
    return stream.getvalue()


def archive(count: int) -> bytes:
    """COCO's archive of annotations for that many images, two captions each."""
    images, captions = [], []
    for number in range(1, count + 1):
        picture = toy_models.image(number)
        name = f"{number:012}.png"
        url = f"http://images.cocodataset.org/val2017/{name}"
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": number, "file_name": name, "coco_url": url, **size})
        captions += [
            {"id": 10 * number + k, "image_id": number, "caption": toy_models.caption(number + k)} for k in (0, 1)
        ]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as content:
        member = json.dumps({"info": {}, "licenses": [], "images": images, "annotations": captions})
        content.writestr("annotations/captions_val2017.json", member)
    return stream.getvalue()


def test_coco_from_captions_to_parts(project: Path, project_root: Path, florence: Path, sam: Path) -> None:
    files = {f"/val2017/{n:012}.png": png(n) for n in range(1, 15)} | {"/annotations.zip": archive(14)}
    with web.serve(files) as site:
        values = {
            "dataset": "coco",
            "coco__captions": f"{site.url}/annotations.zip",
            "coco__images": 20,
            "download__mirror": site.url,
            "download__attempts": 1,
            "ground__source": str(florence),
            "ground__revision": None,
            "segment__source": str(sam),
            "segment__revision": None,
        }
        lost = "/val2017/000000000003.png"
        site.fail(lost, web.status(404))
        with pytest.raises(InputError, match=r"(?s)000000000003\.png.*404.*again"):
            run(project_root, "download", **values)
        assert not layout.made("download").exists()
        site.mend()
        asked = site.requests.total()
        run(project_root, "download", **values)
        assert site.requests.total() == asked + 1  # only what was missing
    for step in ("ground", "segment", "data"):
        summary = run(project_root, step, **values)
    assert all(layout.made(step).is_file() for step in ("download", "ground", "segment"))
    dropped = {why: what for what, why in summary.skipped}
    assert any("confidence" in why for why in dropped)
    parts = {part: read_part(layout.DATASET, part) for part in PARTS}
    assert sum(map(len, parts.values())) <= 14
    assert all(obj.score >= 0.85 for samples in parts.values() for s in samples for obj in s.objects)
    for samples in parts.values():
        for sample in samples:
            assert np.array_equal(np.asarray(sample.image()), np.asarray(toy_models.image(sample.id)))
    assert (layout.DATASET_LOOK / "contact_sheet.png").is_file()
    assert (layout.DATASET_LOOK / "histograms.png").is_file()
    (last,) = mlflow.search_runs(search_all_experiments=True, filter_string="tags.step = 'data'", output_format="list")
    logged = {file.path for file in mlflow.MlflowClient().list_artifacts(last.info.run_id, "data")}
    assert {"data/contact_sheet.png", "data/histograms.png"} <= logged


def test_of_several_processes_the_first_alone_tracks_and_writes(
    project: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch, florence: Path
) -> None:
    toy_models.write_captions(layout.CAPTIONS.parent, 4)
    values = {
        "dataset": "coco",
        "ground__source": str(florence),
        "ground__revision": None,
        "ground__batch_images": 1,
    }
    monkeypatch.setattr(model_pass, "launched", lambda device: Processes(1, 2))
    assert run(project_root, "ground", **values).rows == [("process", "2 of 2: its share is done")]
    assert not layout.PHRASES.exists()
    assert not layout.made("ground").exists()
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []
    monkeypatch.setattr(model_pass, "launched", lambda device: Processes(0, 2))
    assert dict(run(project_root, "ground", **values).rows)["images"] == "4"
    assert layout.PHRASES.exists()
    assert layout.made("ground").exists()
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == 1


def write_release(folder: Path) -> None:
    """Six images with an object each, one below the smallest confidence, and one without any mask."""
    records = []
    for number in range(1, 9):
        name = f"e{number}o0m0.npz"
        mask = np.zeros(np.asarray(toy_models.image(number)).shape[:2], dtype=bool)
        mask[5:20, 5:30] = True
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        scipy.sparse.save_npz(folder / "masks" / name, scipy.sparse.csr_matrix(mask.astype(np.float32)))
        grounding = {
            "bboxes": [[5.0, 5.0, 30.0, 20.0]],
            "labels": [f"thing {number}"],
            "masks_scores": [] if number == 8 else [[0.5 if number == 7 else 0.9]],
            "masks_file_name": [] if number == 8 else [[name]],
        }
        image = f"{number:012}.jpg"
        url = f"http://images.cocodataset.org/val2017/{image}"
        records.append({"image_id": number, "image_file_name": image, "image_coco_url": url, "grounding": grounding})
    (folder / "dataset_masks.json").write_text(json.dumps(records))


def test_the_published_release(project: Path, project_root: Path) -> None:
    write_release(project / "release")
    with web.serve({f"/val2017/{n:012}.jpg": png(n) for n in range(1, 9)}) as site:
        values = {"dataset": "published", "published__source": "release", "download__mirror": site.url}
        told = dict(run(project_root, "download", **values).rows)
    assert told["the release holds"] == "8 records, 8 phrases, 7 masks"
    assert told["of confidence 0.85 or more"] == "6 masks on 6 images"
    for step in ("ground", "segment"):
        assert run(project_root, step, **values).rows[0][0] == "nothing to do"
    summary = run(project_root, "data", **values)
    assert ("1 object", "confidence below 0.85 (7)") in summary.skipped
    assert any(what == "1 image" and "(8)" in why for what, why in summary.skipped)
    sizes = {part: len(read_part(layout.DATASET, part)) for part in PARTS}
    assert sizes == {"impact": 2, "train": 1, "val": 1, "test": 2}  # of 6, the least that each can be


def test_data_of_ones_own(project: Path, project_root: Path) -> None:
    own = project / "my" / "photos"
    own.mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, 7):
        picture = toy_models.image(number)
        picture.save(own / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": picture.width, "height": picture.height})
        polygon = [[5.0, 5.0, 30.0, 5.0, 30.0, 20.0, 5.0, 20.0]]
        annotations.append({"id": number, "image_id": number, "segmentation": polygon, "phrase": f"thing {number}"})
    (own / "things.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    for step in ("download", "ground", "segment"):
        assert run(project_root, step, dataset="my/photos").rows[0][0] == "nothing to do"
    run(project_root, "data", dataset="my/photos")
    samples = [sample for part in PARTS for sample in read_part(layout.DATASET, part)]
    assert sorted(obj.phrase for s in samples for obj in s.objects) == [f"thing {n}" for n in range(1, 7)]
    assert all(obj.score == 1 for s in samples for obj in s.objects)
    assert {path.name for path in images_path(layout.DATASET).iterdir()} == {f"{n}.png" for n in range(1, 7)}
    assert {path.name for path in own.iterdir()} == {"things.json", *(f"{n}.png" for n in range(1, 7))}


def test_a_model_that_cannot_be_had_is_left_out_of_the_contact_sheet(project: Path, project_root: Path) -> None:
    sizes = {f"scenes__sizes__{part}": n for part, n in {"impact": 2, "train": 2, "val": 2, "test": 4}.items()}
    summary = run(project_root, "data", model="smolvlm", **sizes)
    ((what, why),) = summary.skipped
    assert what == "smolvlm in the contact sheet"
    assert "cache" in why
