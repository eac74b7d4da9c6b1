"""A dataset is held to its manifest."""

import json
from pathlib import Path

import pytest
from small_datasets import HEIGHT, WIDTH, edit, save_image, write_small_dataset

from headimpact.data.checking import verify
from headimpact.data.coco import PARTS, images_path
from headimpact.data.manifest import dataset_digest, manifest_path, write_manifest
from headimpact.errors import InputError


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_small_dataset(tmp_path / "mine")


def test_an_untouched_dataset_is_verified(folder):
    verify(folder)
    assert set(json.loads(manifest_path(folder).read_text())) == {
        *(f"annotations/{part}.json" for part in PARTS),
        *(f"images/{image_id}.png" for image_id in range(1, 5)),
    }


def unverified(folder: Path, name: str, message: str) -> None:
    """The advice saves data of one's own: of a copy that somebody edits, the manifest is in the way, not the data."""
    with pytest.raises(InputError, match=message) as caught:
        verify(folder)
    assert str(folder / name) in str(caught.value)
    advice = f"delete it and run that again; if it holds data of your own, delete {folder}/manifest.json."
    assert str(caught.value).endswith(f"If `headimpact data` made {folder}, {advice}")


def test_an_edited_annotation_file_is_noticed(folder):
    edit(folder, lambda content: content["annotations"][0].update(phrase="another"))
    unverified(folder, "annotations/test.json", "was changed after it was written")


def test_an_edited_image_is_noticed(folder):
    save_image(images_path(folder) / "2.png", (WIDTH, HEIGHT + 1))
    unverified(folder, "images/2.png", "was changed after it was written")


def test_removed_and_added_files_are_noticed(folder):
    (images_path(folder) / "3.png").rename(images_path(folder) / "5.png")
    unverified(folder, "images/3.png", "is missing")
    save_image(images_path(folder) / "3.png")
    unverified(folder, "images/5.png", "was added after the dataset was written. Remove it")


def test_a_dataset_without_manifest(folder):
    manifest_path(folder).write_text("[]")
    with pytest.raises(InputError, match=r"manifest\.json is JSON, but no dictionary. If `headimpact data` made"):
        verify(folder)
    manifest_path(folder).unlink()
    with pytest.raises(InputError, match=r"manifest\.json does not exist. Delete .* keep data of your own elsewhere"):
        verify(folder)
    with pytest.raises(InputError, match=r"manifest\.json does not exist. Run `headimpact data`"):
        dataset_digest(folder)


def test_the_digest_follows_the_content(folder):
    before = dataset_digest(folder)
    write_manifest(folder)
    assert dataset_digest(folder) == before
    edit(folder, lambda content: content["annotations"][0].update(phrase="another"))
    write_manifest(folder)
    assert dataset_digest(folder) != before
