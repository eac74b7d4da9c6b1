"""Few phrases and few images: fewer options, or no question, and everything that reads them goes on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from engines import engine_of
from family_facts import fresh
from small_datasets import save_image

from headimpact.data.images import open_image
from headimpact.data.packed import packed
from headimpact.data.samples import Sample, key_object
from headimpact.engine.watch import unwatched
from headimpact.evaluation import beside_original, metrics, orders
from headimpact.evaluation.objects import evaluate
from headimpact.evaluation.questions import NOT_MEASURED, QUESTIONS, asked, draw_questions
from headimpact.lifecycle.outlook import outlook, split_as_data_would
from headimpact.lifecycle.steps.results import figures, questions, rows
from headimpact.tournament import contest
from headimpact.tournament.comparison import analyse
from headimpact.tournament.contest import ORIGINAL
from headimpact.tournament.runs import from_tables
from headimpact.vlm.base import Vlm
from headimpact.vlm.suited import Unsuited, suited

SIDE = 32
MASK = np.zeros((SIDE, SIDE), dtype=bool)
MASK[4:20, 6:24] = True


@pytest.fixture(scope="module")
def vlm() -> Vlm:
    return fresh("qwen2_vl")


def samples_of(folder: Path, *images: tuple[str, ...]) -> list[Sample]:
    """An image for each group of phrases."""
    samples = []
    for number, phrases in enumerate(images, start=1):
        path = save_image(folder / f"{number}.png", (SIDE, SIDE))
        objects = tuple(key_object(10 * number + i, phrase, MASK, 1.0) for i, phrase in enumerate(phrases))
        samples.append(Sample(number, path, SIDE, SIDE, objects))
    return samples


def test_questions_of_two_and_three_options_and_none(vlm: Vlm, tmp_path: Path) -> None:
    samples = samples_of(tmp_path, ("red cat",), ("blue dog", "red cat"), ("green owl",), ("blue dog", "green owl"))
    samples += samples_of(tmp_path, ("red cat", "blue dog", "green owl"))[:1]
    samples[-1] = Sample(
        5, samples[0].path, SIDE, SIDE, [key_object(50 + o.id, o.phrase, MASK, 1.0) for o in samples[-1].objects]
    )
    drawn = draw_questions(samples, 0)
    told = asked(samples, drawn)
    assert told.options == {3: 2, 2: 4}
    assert told.chance == pytest.approx((2 / 3 + 4 / 2) / 6)
    engine = engine_of(vlm)
    table = evaluate(engine, samples, 0, unwatched)
    assert table["answer"].isna().tolist() == [False] * 6 + [True] * 3
    assert table["nll"].notna().all()
    known = table[table["answer"].notna()]
    assert known["correct"].tolist() == (known["answer"] == known["chosen"]).tolist()
    assert all(0 <= row.chosen < len(drawn[row.object_id].options) for row in known.itertuples())
    estimates = metrics.estimates(table)
    assert (estimates["accuracy"].n, estimates["accuracy"].clusters, estimates["perplexity"].n) == (6, 4, 9)
    difference = metrics.differences(table, table.assign(nll=table["nll"] + 1))
    assert difference["accuracy"].value == 0
    results = {"metrics": figures(estimates), **questions(told)}
    shown = dict(rows({"accuracy": "accuracy"}, results, {}))
    assert shown["questions"].startswith("4 of 2 options and 2 of 3 options, 3 objects without (guessing")

    answered = orders.answer_questions(engine, samples, drawn)
    assert answered["object_id"].tolist() == known["object_id"].tolist()
    np.testing.assert_allclose(answered["ans_prob_one"], known["ans_prob"].astype(float), atol=1e-4)
    answered_figures = beside_original.order_figures(answered)
    assert "label_A" not in answered_figures
    of_two = answered[answered["object_id"].isin([20, 21, 40, 41])]
    np.testing.assert_allclose(of_two[["label_A", "label_B"]].sum(axis=1), 1)
    assert of_two["label_C"].isna().all()


def test_without_a_question_perplexity_alone_is_measured(vlm: Vlm, tmp_path: Path) -> None:
    samples = samples_of(tmp_path, ("red cat",), ("a red cat",))
    table = evaluate(engine_of(vlm), samples, 0, unwatched)
    table.to_parquet(tmp_path / "objects.parquet", index=False)
    table = pd.read_parquet(tmp_path / "objects.parquet")
    assert list(metrics.estimates(table)) == ["perplexity", "token_nll"]
    assert list(metrics.differences(table, table)) == ["perplexity"]
    results = {"metrics": figures(metrics.estimates(table)), **questions(asked(samples, {}))}
    assert results[QUESTIONS]["chance"] is None
    assert ("accuracy", NOT_MEASURED) in rows({"accuracy": "accuracy"}, results, {})
    answered = orders.answer_questions(engine_of(vlm), samples, {})
    assert answered.empty
    answers = beside_original.Answers(answered, pd.DataFrame())
    assert all(values.empty for values in beside_original.order_figures(answers.orders).values())


def runs(asked_of: list[bool]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two rules with two seeds on four objects of four images, and their original."""
    rng = np.random.default_rng(0)

    def one() -> pd.DataFrame:
        table = pd.DataFrame({"image_id": [1, 2, 3, 4], "object_id": [10, 20, 30, 40], "nll": rng.random(4)})
        table["correct"] = pd.array([bool(rng.random() < 0.5) if a else None for a in asked_of], dtype="boolean")
        table["ans_prob"] = [rng.random() if a else np.nan for a in asked_of]
        return table

    entered = [(rule, seed) for rule in ("top", "last") for seed in (0, 1)]
    return pd.concat([one().assign(rule=rule, k=1, seed=seed, draw=0) for rule, seed in entered]), one()


def test_a_tournament_compares_what_there_is() -> None:
    contestants, original = runs([True, True, True, False])
    tournament = analyse(from_tables(contestants, original))
    images = {change.metric: change.images for change in tournament.changes}
    assert images == {"perplexity": 4, "accuracy": 3, "ans_prob": 3}
    top = contestants[(contestants["rule"] == "top") & contestants["correct"].notna()]
    expected = top["correct"].mean() - original["correct"].mean()
    found = next(c.value for c in tournament.changes if (c.metric, c.rule) == ("accuracy", "top"))
    assert found == pytest.approx(expected)
    contestants, original = runs([False] * 4)
    assert {change.metric for change in analyse(from_tables(contestants, original)).changes} == {"perplexity"}


def test_runs_without_questions_are_finished(tmp_path: Path) -> None:
    path, (contestants, original) = tmp_path / "runs.parquet", runs([False] * 4)
    columns = list(original)
    contest.keep(path, "now", ORIGINAL, 0, original)
    run = contest.Run(contest.Placement((0,)), 0)
    contest.keep(path, "now", run, 5, contestants[columns].head(4))
    assert contest.finished(contest.read_runs(path, "now")) == {ORIGINAL.key, run.key}
    assert contest.outdated(path, "now") is None


def test_what_will_be_measured_is_told_before(tmp_path: Path) -> None:
    twelve = packed(samples_of(tmp_path, *[(phrase,) for phrase in ("cat", "dog", "owl") * 4]))
    parts = split_as_data_would({"coco": twelve}, {"impact": 1000, "train": 1200, "val": 300, "test": 500}, 0)
    assert parts is not None
    told = dict(outlook(parts, 0))
    assert told["parts"] == "impact 4, train 5, val 1, test 2 images"
    assert told["questions"].startswith("2 of 2 options")
    assert "too few images to claim anything of it" in told["measured"]
    assert told["few images"].startswith("4 in impact")
    assert told["soften"].startswith("cannot choose a scale: 0 of 1 val images have a question, and it takes 2")
    assert split_as_data_would({"coco": twelve[:5]}, {"impact": 2, "train": 2, "val": 2, "test": 2}, 0) is None
    many = packed(samples_of(tmp_path, *[(f"thing {i}",) for i in range(100)]))
    told = dict(outlook({"impact": many, "val": many, "test": many}, 0))
    assert "soften" not in told
    assert told["questions"] == "100 of 4 options (guessing is right in 0.250)"
    assert told["measured"].endswith("(to ± 0.10 at worst, from 100 test images with a question)")
    one = packed(samples_of(tmp_path, ("cat",), ("a cat",)))
    assert dict(outlook({"impact": one, "val": one, "test": one}, 0))["measured"].startswith("perplexity alone")


def test_what_a_base_cannot_take_is_left_out_with_the_reason(vlm: Vlm, tmp_path: Path) -> None:
    plain, control = samples_of(tmp_path, ("a cat",), ("a dog", "an <|im_end|> owl"))
    narrow = Sample(3, save_image(tmp_path / "3.png", (420, 2)), 420, 2, [key_object(30, "a", MASK[:2, :1], 1.0)])
    found: list[Unsuited] = []
    kept = suited(packed([plain, control, narrow]), vlm, found.append)
    assert [(sample.id, [obj.phrase for obj in sample.objects]) for sample in kept] == [(1, ["a cat"]), (2, ["a dog"])]
    assert [what.record for what in found] == ["annotation 21 of image 2", "image 3"]
    assert "'<|im_end|>', which the tokenizer of" in found[0].reason
    assert "takes no image of 420x2 pixels (absolute aspect ratio must be smaller than 200" in found[1].reason
    with pytest.raises(ValueError, match="takes no image of 420x2 pixels"):
        vlm.generate(open_image(narrow.path, (420, 2)), "What is this?")
    everything = packed([plain])
    assert suited(everything, vlm, found.append) is everything


def test_a_control_token_is_what_is_written_like_one_and_not_what_is_unknown(vlm: Vlm) -> None:
    for name in ("<|im_end|>", "<|image_pad|>", vlm.image_placeholder):
        assert vlm.chat.control_token(f"an {name}owl") == name
    for text in ("", "a cat", "<|im_end", "\u732b \U0001f989 \ue000", "a < b | c > d"):
        assert vlm.chat.control_token(text) is None
