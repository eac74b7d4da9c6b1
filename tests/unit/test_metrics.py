"""The registry of metrics: its figures are those of ``statistics``, and what they cannot be computed from is told."""

import numpy as np
import pandas as pd
import pytest

from headimpact import statistics
from headimpact.errors import InputError
from headimpact.evaluation import metrics
from headimpact.evaluation.metrics import COMPARED, METRICS, Metric


def objects(seed: int, images: int = 30) -> pd.DataFrame:
    """One to four objects an image."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(images), np.random.default_rng(0).integers(1, 5, images))
    n = len(ids)
    return pd.DataFrame(
        {
            "image_id": ids,
            "object_id": np.arange(n) + 100,
            "tokens": rng.integers(2, 9, n),
            "nll": rng.gamma(2.0, 0.5, n),
            "correct": rng.random(n) < 0.7,
            "ans_prob": rng.random(n),
        }
    )


def test_every_estimate_is_that_of_its_formula():
    table = objects(1)
    nll, images = table["nll"].to_numpy(), table["image_id"].to_numpy()
    assert metrics.estimates(table) == {
        "accuracy": statistics.clustered_mean(table["correct"].to_numpy(), images),
        "ans_prob": statistics.clustered_mean(table["ans_prob"].to_numpy(), images),
        "perplexity": statistics.perplexity(nll, images),
        "token_nll": statistics.token_nll(nll, table["tokens"].to_numpy(), images),
    }


def test_every_difference_is_adapter_minus_original_on_the_same_objects():
    adapted, original = objects(1), objects(2)
    images = adapted["image_id"].to_numpy()
    compared = metrics.differences(adapted, original)
    assert list(compared) == ["accuracy", "ans_prob", "perplexity"]
    for name, column in (("accuracy", "correct"), ("ans_prob", "ans_prob")):
        a, b = adapted[column].to_numpy(), original[column].to_numpy()
        assert compared[name] == statistics.paired_difference(a, b, images)
    a, b = adapted["nll"].to_numpy(), original["nll"].to_numpy()
    assert compared["perplexity"] == statistics.paired_perplexity_difference(a, b, images)
    assert compared["perplexity"].value == pytest.approx(np.exp(a.mean()) - np.exp(b.mean()))


def test_other_objects_are_no_pair():
    table = objects(1)
    with pytest.raises(InputError, match=r"on other objects than the setup: evaluate both again"):
        metrics.differences(table, table.iloc[::-1])


def test_results_from_before_a_metric_existed_are_to_be_evaluated_again():
    old = objects(1).drop(columns=["ans_prob", "tokens"])
    assert METRICS["perplexity"].estimate(old).n == len(old)
    message = r"{} was made before there was the metric {}: it lacks {}\. Evaluate again: headimpact evaluate\."
    with pytest.raises(InputError, match=message.format("The evaluation", "ans_prob", "ans_prob")):
        metrics.estimates(old)
    with pytest.raises(InputError, match=message.format("The evaluation", "ans_prob", "ans_prob")):
        metrics.differences(objects(1), old)
    with pytest.raises(InputError, match=message.format("tiny top-4", "token_nll", "tokens")):
        metrics.require([METRICS["token_nll"]], old, "tiny top-4")


def test_the_registry_is_ordered_and_told():
    assert all(name == metric.name for name, metric in METRICS.items())
    assert list(COMPARED) == [name for name, metric in METRICS.items() if metric.aspect]
    assert list(metrics.gain_first()) == ["perplexity", "accuracy", "ans_prob"]
    assert metrics.compared_columns() == ["nll", "correct", "ans_prob"]
    assert [metric.arrow for metric in METRICS.values()] == [
        *("accuracy \N{UPWARDS ARROW}", "AnsProb \N{UPWARDS ARROW}"),
        *("perplexity \N{DOWNWARDS ARROW}", "NLL per token \N{DOWNWARDS ARROW}"),
    ]


def test_a_metric_with_weights_is_not_compared():
    with pytest.raises(ValueError, match=r"The metric x has weights: it can be neither compared nor exponential"):
        Metric("x", "x", "nll", False, "gain", weights="tokens")
    with pytest.raises(ValueError, match=r"The metric x has weights: it can be neither compared nor exponential"):
        Metric("x", "x", "nll", False, None, exponential=True, weights="tokens")
    with pytest.raises(ValueError, match=r"The metric token_nll has weights: its differences"):
        METRICS["token_nll"].difference(objects(1), objects(2))
