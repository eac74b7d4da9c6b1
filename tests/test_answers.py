"""Open-ended answers: what is asked, what is heard, and the scores, by hand; generation against serving."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from engines import captions_of, engine_of
from mlflow.pyfunc.model import PythonModelContext
from PIL import Image

from headimpact.data import coco
from headimpact.data.samples import Sample, key_object
from headimpact.data.scene_dataset import write_scenes
from headimpact.engine.forward import Engine, EngineSettings
from headimpact.engine.phrases import phrase_nll
from headimpact.evaluation import answers
from headimpact.evaluation.beside_original import KINDS, SCORES
from headimpact.lifecycle import serving
from headimpact.tiny import bases
from headimpact.vlm.base import Vlm

LIMITS = serving.Limits(
    max_image_megapixels=1.0, max_body_megabytes=1.0, max_prompt_tokens=100, max_new_tokens=8, max_wait_seconds=1.0
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, {"impact": 1, "train": 1, "val": 1, "test": 6}, seed=0)
    return sorted(coco.read_part(folder, "test"), key=lambda sample: len(sample.objects))


@pytest.fixture(scope="module", params=bases.TINY)
def vlm(request, project_root: Path) -> Vlm:
    from headimpact.vlm import loading

    return loading.load(str(project_root / "models/bases" / request.param), device="cpu")


@pytest.mark.parametrize(
    ("answer", "phrase", "exact", "f1", "rouge"),
    [
        ("a red star", "A red star.", 1, 1, 1),
        ("red star", "the red star", 1, 1, 4 / 5),
        ("a red star", "solid red star middle center", 0, 4 / 7, 1 / 2),
        ("star red", "red star", 0, 1, 1 / 2),
        ("a blue ring", "red star", 0, 0, 0),
        ("", "red star", 0, 0, 0),
        ("красный мяч", "Красный мяч.", 1, 1, 1),
        ("кот 7", "собака 7", 0, 1 / 2, 1 / 2),
        ("红的球", "红色的球", 0, 6 / 7, 6 / 7),
        ("C++", "C#", 0, 2 / 5, 2 / 5),
        ("🐶", "🐶", 1, 1, 1),
    ],
)
def test_scores_by_hand(answer: str, phrase: str, exact: float, f1: float, rouge: float):
    """SQuAD's words are without articles, ROUGE's with them."""
    found = answers.score(answer, phrase)
    assert (found.exact_match, found.f1, found.rouge_l) == pytest.approx((exact, f1, rouge))


def test_prompts_and_frames_are_the_family_s(vlm: Vlm):
    paligemma = "paligemma" in vlm.source
    assert answers.caption_prompt(vlm) == ("describe en" if paligemma else "What is this photo?")
    question = "What is shown in this photo?"
    assert answers.open_question(vlm) == (f"answer en {question}" if paligemma else question)
    assert answers.without_frame(vlm, vlm.caption("a red star").answer) == "a red star"
    assert answers.without_frame(vlm, "This is a red star") == "This is a red star"


def test_a_cutout_is_the_box_and_never_too_small():
    image = Image.fromarray(np.arange(200 * 300 * 3, dtype=np.uint32).astype(np.uint8).reshape(200, 300, 3))
    large, small, thin = (np.zeros((200, 300), dtype=bool) for _ in range(3))
    large[20:80, 100:180] = True
    small[0, 299] = True
    thin[0:200, 5] = True
    boxes = [key_object(i, "thing", mask, 1.0) for i, mask in enumerate((large, small, thin))]
    cut = [answers.cutout(image, obj) for obj in boxes]
    assert cut[0].size == (80, 60)
    np.testing.assert_array_equal(np.asarray(cut[0]), np.asarray(image)[20:80, 100:180])
    assert min(cut[1].size) >= 14  # half of the least side lies beyond the corner
    assert cut[2].size[1] == 200
    assert cut[2].size[0] >= 14


def test_answers_are_what_would_be_served(vlm: Vlm, samples: list[Sample]):
    sample = samples[0]
    captioner = serving.Captioner()
    captioner.start(vlm, LIMITS)

    def served(image: Image.Image, prompt: str) -> str:
        data = io.BytesIO()
        image.save(data, "PNG")
        asked = pd.DataFrame([{"image": base64.b64encode(data.getvalue()).decode(), "prompt": prompt}])
        return captioner.predict(PythonModelContext({}, {}), asked, {"max_new_tokens": 8})["text"][0]

    rows = answers.answer_images(engine_of(vlm), [sample], 8)
    assert rows["kind"].tolist() == list(KINDS) * len(sample.objects)
    assert rows["object_id"].tolist() == [obj.id for obj in sample.objects for _ in KINDS]
    whole = {kind: rows.loc[rows["kind"] == kind, ["prompt", "text"]].drop_duplicates() for kind in KINDS[:2]}
    for told in whole.values():
        (prompt, text), *rest = told.to_numpy().tolist()
        assert not rest
        assert text == served(sample.image(), prompt)
    cut = rows[rows["kind"] == "cutout"].iloc[0]
    assert cut["text"] == served(answers.cutout(sample.image(), sample.objects[0]), cut["prompt"])
    assert rows["answer"].tolist() == [answers.without_frame(vlm, text) for text in rows["text"]]
    assert [vars(answers.score(row.answer, row.phrase)) for row in rows.itertuples()] == rows[list(SCORES)].to_dict(
        "records"
    )


def test_answers_do_not_depend_on_their_company(vlm: Vlm, samples: list[Sample]):
    alone = [answers.answer_images(engine_of(vlm), [sample], 8) for sample in samples]
    together = answers.answer_images(Engine(vlm, EngineSettings(batch_tokens=100_000)), samples, 8)
    pd.testing.assert_frame_equal(together, pd.concat(alone, ignore_index=True))


def test_the_reference_is_the_phrase_of_the_caption(vlm: Vlm, samples: list[Sample]):
    engine = engine_of(vlm)
    found = answers.reference_log_prob(engine, samples[:2])
    assert found.to_dict() == {obj.id: -nll for _, obj, nll, _ in phrase_nll(engine, captions_of(engine, samples[:2]))}
    assert (found < 0).all()
