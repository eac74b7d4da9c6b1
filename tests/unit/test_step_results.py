"""What steps write alike."""

from pathlib import Path

import pandas as pd
from test_head_impact import small_impact

from headimpact.lifecycle.steps.results import MOST_ROWS, flat, write_frames


def test_the_metrics_of_a_result_by_flat_names() -> None:
    results = {
        "metrics": {"perplexity": {"value": 2.5, "se": 0.1, "n": 8}},
        "parameters": {"trainable": 12, "total": 100, "percent": 12.0},
    }
    assert flat(results) == {"perplexity": 2.5, "perplexity_se": 0.1, "trainable": 12}


def test_a_table_in_pieces_is_the_one_that_pandas_writes(tmp_path: Path) -> None:
    impact = small_impact(objects=7, layers=2, heads=3)
    impact.objects_frame().to_parquet(tmp_path / "whole.parquet", index=False)
    for rows in (MOST_ROWS, 13, 1):
        pieces = [piece.objects_frame() for piece in impact.portions(rows)]
        assert max(map(len, pieces)) <= max(rows, 6)
        write_frames(tmp_path / "pieces.parquet", iter(pieces))
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "pieces.parquet"), impact.objects_frame())
        if rows == MOST_ROWS:
            assert (tmp_path / "pieces.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
