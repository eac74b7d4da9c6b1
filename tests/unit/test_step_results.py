"""What steps write alike."""

from headimpact.lifecycle.steps.results import flat


def test_the_metrics_of_a_result_by_flat_names() -> None:
    results = {
        "metrics": {"perplexity": {"value": 2.5, "se": 0.1, "n": 8}},
        "parameters": {"trainable": 12, "total": 100, "percent": 12.0},
    }
    assert flat(results) == {"perplexity": 2.5, "perplexity_se": 0.1, "trainable": 12}
