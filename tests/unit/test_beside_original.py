"""Figures of answers, by hand, and their differences against the original."""

import numpy as np
import pandas as pd
import pytest
from report_outputs import generated, orders

from headimpact import statistics
from headimpact.errors import InputError
from headimpact.evaluation import beside_original
from headimpact.evaluation.beside_original import Answers

IDS = [(image, 10 * image + i) for image in (1, 2, 3) for i in range(2)]


@pytest.fixture
def original() -> Answers:
    return Answers(orders("original", IDS), generated("original", IDS))


@pytest.fixture
def answered(original: Answers) -> Answers:
    """It is right in fewer orders, the more the later the object, and its cut-outs are nearer to the phrases."""
    share = np.linspace(1.0, 0.5, len(IDS))
    cutout = original.generated["kind"] == "cutout"
    nearer = original.generated["f1"].where(~cutout, np.linspace(0.6, 0.9, len(cutout)))
    return Answers(original.orders.assign(correct_all=share), original.generated.assign(f1=nearer))


def test_estimates_are_clustered_by_image(answered: Answers):
    values, images = answered.orders["correct_all"].to_numpy(), answered.orders["image_id"].to_numpy()
    assert beside_original.estimates(answered)["accuracy_24_orders"] == statistics.clustered_mean(values, images)


def test_differences_are_paired(answered: Answers, original: Answers):
    differences = beside_original.differences(answered, original)
    images = answered.orders["image_id"].to_numpy()
    assert differences["accuracy_24_orders"] == statistics.paired_difference(
        answered.orders["correct_all"].to_numpy(), np.ones(len(IDS)), images
    )
    assert differences["cutout_f1"].value == pytest.approx((answered.figures["cutout_f1"] - 0.5).mean())
    assert differences["accuracy_1_order"].value == differences["caption_f1"].value == 0
    assert set(differences) == set(beside_original.estimates(answered))


def test_answers_about_other_objects_are_not_compared(original: Answers):
    fewer = Answers(orders("top-4", IDS[:4]), generated("top-4", IDS[:4]))
    half = Answers(original.orders, fewer.generated)
    assert not beside_original.comparable(fewer, original)
    assert not beside_original.comparable(half, original)
    with pytest.raises(InputError, match="asked about other objects than the setup"):
        beside_original.differences(half, original)


def test_figures_of_generated_answers_by_hand():
    """Image 1 has two objects, image 2 has one."""
    f1 = {"caption": (0.2, 0.6, 0.5), "question": (0.0, 0.1, 1.0), "cutout": (0.3, 0.4, 0.8)}
    rows = [
        {
            "image_id": image,
            "object_id": obj,
            "kind": kind,
            "f1": f1[kind][obj],
            "exact_match": float(f1[kind][obj] == 1),
        }
        for image, obj in ((1, 0), (1, 1), (2, 2))
        for kind in beside_original.KINDS
    ]
    generated = pd.DataFrame(rows).assign(rouge_l=0.0, reference_log_prob=lambda t: -1.0 - t["object_id"])
    found = beside_original.generated_figures(generated)
    assert found["caption_f1"].to_list() == [0.2, 0.6, 0.5]
    assert found["caption_f1"].index.to_list() == [1, 1, 2]
    assert found["caption_f1_best"].to_dict() == {1: 0.6, 2: 0.5}
    assert found["question_exact_match_best"].to_dict() == {1: 0.0, 2: 1.0}
    assert found["cutout_f1"].to_list() == [0.3, 0.4, 0.8]
    assert found["reference_log_prob"].to_list() == [-1.0, -2.0, -3.0]
    assert "cutout_f1_best" not in found
