"""Where the paper's tables contradict themselves, found from the printed numbers alone."""

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pandas as pd
from scipy import stats

from headimpact.report.paper import METRICS, Tables, cell, rows
from headimpact.report.prose import contradictions as prose

_MOST_DF = 1000


@dataclass(frozen=True)
class Check:
    """A contradiction that was looked for: was it found, what was found in words, and the rows that show it."""

    title: str
    found: bool
    words: str
    table: pd.DataFrame


def checks(tables: Tables) -> list[Check]:
    """Every check, in the order of the tables; ``tables`` as :func:`headimpact.report.paper.read` gives them."""
    return [
        _check_columns(table2_columns(tables)),
        _check_equal(tables, equal_to_original(tables)),
        _check_full(tables, full_moves_less(tables)),
        _check_shares(shares(tables)),
    ]


def implied_df(statistic: float, p_value: float) -> int:
    """The degrees of freedom at which a Kruskal-Wallis ``statistic`` has this printed p-value.

    The statistic is chi-squared distributed: the whole number whose tail is nearest to ``p_value``, by ratio.
    A p-value that was rounded to 1 fixes nothing.
    """
    df = np.arange(1, _MOST_DF + 1)
    return int(df[np.abs(stats.chi2.logsf(statistic, df) - np.log(p_value)).argmin()])


def table2_columns(tables: Tables) -> pd.DataFrame:
    """Each column of table 2 with the degrees of freedom of its tests, and the model of table 1 that has them.

    A test across layers has (layers - 1), one across heads (heads - 1). ``model`` is "none" where no model has both.
    """
    models = {(int(row["layers"]) - 1, int(row["heads"]) - 1): row["model"] for row in rows(tables["table1"])}
    columns = []
    for column, tests in tables["table2"].groupby("column_as_printed", sort=False):
        df = {row["groups"]: implied_df(float(row["statistic"]), float(row["p_value"])) for row in rows(tests)}
        model = models.get((df["layers"], df["heads"]), "none")
        columns.append(
            {"printed under": column, "df of layers": df["layers"], "df of heads": df["heads"], "model": model}
        )
    return pd.DataFrame(columns)


def equal_to_original(tables: Tables) -> pd.DataFrame:
    """The cells of table 4 that equal those of the original in every digit, standard error included."""
    equal = [
        {"model": row["model"], "setup": row["setup"], "metric": metric, "as the original": cell(row, metric)}
        for original, row in _against_original(tables)
        for metric in METRICS
        if cell(row, metric) == cell(original, metric)
    ]
    return pd.DataFrame(equal, columns=["model", "setup", "metric", "as the original"])


def full_moves_less(tables: Tables) -> pd.DataFrame:
    """Where ``full``, which trains every layer, moved less than a setup that trains some of them."""
    moved = {
        (row["model"], row["setup"], metric): abs(Decimal(row[metric]) - Decimal(original[metric]))
        for original, row in _against_original(tables)
        for metric in METRICS
    }
    less = [
        {"model": model, "metric": metric, "setup": setup, "setup moved": str(size), "full moved": str(full)}
        for (model, setup, metric), size in moved.items()
        if (full := moved[model, "full", metric]) < size
    ]
    return pd.DataFrame(less, columns=["model", "metric", "setup", "setup moved", "full moved"])


def shares(tables: Tables) -> pd.DataFrame:
    """The shares of table 5, and those that its counts give at the printed number of digits."""
    counted = []
    for row in rows(tables["table5"]):
        exact = 100 * Decimal(row["trainable"]) / Decimal(row["total"])
        share = str(exact.quantize(Decimal(row["percent"])))
        counted.append({"model": row["model"], "printed %": row["percent"], "from the counts %": share})
    return pd.DataFrame(counted)


def _against_original(tables: Tables) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Every adapted row of table 4 with the row of its original."""
    printed = rows(tables["table4"])
    originals = {row["model"]: row for row in printed if row["setup"] == "original"}
    return [(originals[row["model"]], row) for row in printed if row["setup"] != "original"]


def _check_columns(columns: pd.DataFrame) -> Check:
    wrong = columns[columns["model"] != columns["printed under"]]
    verdict = prose.NOT_PERMUTED
    if len(wrong):
        moved = [prose.PERMUTED_COLUMN.format(name=row["printed under"], model=row["model"]) for row in rows(wrong)]
        verdict = prose.PERMUTED.format(columns=", ".join(moved))
    return Check(prose.COLUMNS_TITLE, len(wrong) > 0, prose.COLUMNS.format(verdict=verdict), columns)


def _check_equal(tables: Tables, equal: pd.DataFrame) -> Check:
    adapted = len(_against_original(tables))
    setups = [f"{row['model']} {row['setup']}" for row in rows(equal)]
    whole = [setup for setup in dict.fromkeys(setups) if setups.count(setup) == len(METRICS)]
    counts = {"equal": len(equal), "cells": adapted * len(METRICS), "whole": len(whole), "adapted": adapted}
    words = prose.EQUAL.format(**counts, setups=", ".join(whole) or "none") if len(equal) else prose.NOT_EQUAL
    return Check(prose.EQUAL_TITLE, len(equal) > 0, words, equal)


def _check_full(tables: Tables, less: pd.DataFrame) -> Check:
    cells = tables["table4"]["model"].nunique() * len(METRICS)
    counts = Counter(less["setup"])
    setups = [prose.FULL_SETUP.format(setup=setup, count=count, cells=cells) for setup, count in counts.items()]
    words = prose.FULL.format(setups=" and ".join(setups)) if setups else prose.FULL_MOST
    return Check(prose.FULL_TITLE, bool(setups), words, less)


def _check_shares(counted: pd.DataFrame) -> Check:
    wrong = counted[counted["printed %"] != counted["from the counts %"]]
    words = prose.SHARES.format(models=", ".join(wrong["model"])) if len(wrong) else prose.SHARES_RIGHT
    return Check(prose.SHARES_TITLE, len(wrong) > 0, words, counted)
