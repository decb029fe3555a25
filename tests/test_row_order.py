"""The order of rows by numbers against that of pandas."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pump_ml.errors import DataError
from pump_ml.row_order import RowOrder
from pump_ml.schema import KEYS

RNG = np.random.default_rng(3)
NAMES = RNG.choice(["pump-2", "pump-10", "b", "B", "ä"], 300)
COUNTS = RNG.integers(0, 40, 300)
WHEN = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(COUNTS, unit="min")
UNORDERED = {
    "strings and counts": (NAMES, NAMES, COUNTS),
    "timestamps in UTC": (NAMES, RNG.choice(["x", "y"], 300), WHEN),
    "timestamps without a zone": (NAMES, NAMES, WHEN.tz_localize(None)),
    "times that are missing": (NAMES, NAMES, WHEN.where(COUNTS > 5)),
    "times that are no numbers": (NAMES, NAMES, pd.array(COUNTS.astype(str), dtype="str")),
    "fractions": (NAMES, NAMES, np.where(COUNTS > 5, COUNTS / 7.0, np.nan)),
    "assets that are numbers": (COUNTS // 10, NAMES, COUNTS),
    "categories in an order of their own": (pd.Categorical(NAMES, ["b", "ä", "B", "pump-10", "pump-2"]), NAMES, COUNTS),
    "objects": (NAMES.astype(object), NAMES.astype(object), COUNTS),
    "one asset": (np.full(300, "a"), np.full(300, "a/0"), COUNTS),
    "no rows": (NAMES[:0], NAMES[:0], COUNTS[:0]),
}


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("keys", UNORDERED.values(), ids=UNORDERED)
def test_rows_are_in_the_order_that_pandas_gives_them(keys: tuple[Any, ...], ordered: bool) -> None:
    frame = pd.DataFrame(dict(zip(KEYS, keys, strict=True)))
    frame = frame.sort_values(list(KEYS), kind="stable", ignore_index=True) if ordered else frame
    some = np.arange(len(frame)) % 5 > 0
    order = RowOrder.of(frame)
    rows = order.sorted(some)
    expected = frame[some].sort_values(list(KEYS), kind="stable")
    np.testing.assert_array_equal(rows, expected.index)
    new = (expected[list(KEYS[:2])] != expected[list(KEYS[:2])].shift()).any(axis=1).to_numpy()
    np.testing.assert_array_equal(order.firsts(rows), np.flatnonzero(new))
    assert {name: at.stop - at.start for name, at in order.blocks(rows).items()} == {
        str(name): count for name, count in expected["asset_id"].value_counts().items() if count
    }
    for name, at in order.blocks(rows).items():
        assert (expected["asset_id"].iloc[at].astype(str) == name).all()


def test_readings_whose_run_is_unknown_are_runs_of_their_own() -> None:
    frame = pd.DataFrame({"asset_id": "a", "run_id": ["r", None, "r", None], "time": [1, 2, 3, 4]})
    order = RowOrder.of(frame)
    rows = order.sorted(np.ones(4, dtype=np.bool_))
    assert rows.tolist() == [0, 2, 1, 3]
    assert order.firsts(rows).tolist() == [0, 2, 3]


def test_readings_without_an_asset_are_refused() -> None:
    frame = pd.DataFrame({"asset_id": ["a", None, "a"], "run_id": "r", "time": [1, 2, 3]})
    with pytest.raises(DataError, match="1 readings have no asset_id"):
        RowOrder.of(frame)
