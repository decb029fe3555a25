"""The baseline's rungs: what a linear model with shrinkage adds to a forest, and that the better one is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pump_ml.models import load_predictor
from pump_ml.models.baseline import Baseline, BaselinePredictor
from pump_ml.models.features import Intervals
from pump_ml.models.linear import LinearModel, fit_linear
from pump_ml.models.xgb import Xgb, XgbPredictor
from pump_ml.problems import parse_problem
from pump_ml.windows import Windows

SENSORS = tuple("abcdefgh")
PROBLEM = parse_problem(
    {
        "name": "rig",
        "windows": {"length": 12, "stride": 12},
        "predicts": [
            {"name": "valve", "kind": "classes", "classes": ["0", "1", "2"], "metric": "macro_f1"},
            {"name": "wear", "kind": "regression", "metric": "mae"},
        ],
        "split": {"train": 0.6, "validation": 0.2},
    },
    where="a test",
)


def rig(combinations: list[tuple[int, int]], seed: int) -> Windows:
    """Twenty windows of each combination of valve and cooler: the cooler moves everything, the valve a little."""
    effects = np.random.default_rng(1).normal(size=(2, 12, len(SENSORS)))
    rng = np.random.default_rng(seed)
    states = np.repeat(combinations, 20, axis=0)
    x = np.einsum("nf,fts->nts", states * [0.3, 3.0], effects) + rng.normal(0.0, 0.1, (len(states), 12, len(SENSORS)))
    names = [f"v{valve}c{cooler}" for valve, cooler in states]
    rows = pd.DataFrame({"asset_id": names, "run_id": names, "time": np.arange(len(states))})
    labels = pd.DataFrame({"valve": states[:, 0].astype(str), "wear": np.exp(-states[:, 0].astype(float))})
    return Windows.stacked(x, SENSORS, rows, labels=labels)


UNSEEN = [(0, 3), (1, 2), (2, 0)]
SEEN = [(valve, cooler) for valve in range(3) for cooler in range(5) if (valve, cooler) not in UNSEEN]


def test_combinations_that_training_lacks_are_answered_by_the_linear_rung_which_is_kept(tmp_path: Path) -> None:
    train, unseen = rig(SEEN, 2), rig(UNSEEN, 3)
    reports: dict[str, float] = {}
    predictor = Baseline(trees=20, members=5).fit(
        train, unseen, PROBLEM, seed=0, watch=lambda _, values: reports.update(values)
    )
    assert isinstance(predictor, BaselinePredictor)
    assert predictor.kept == {"valve": "linear", "wear": "linear"}
    errors = predictor.errors["valve"]
    assert errors["linear"] < 0.05 < errors["forest"]
    assert errors["linear"] < errors["naive"]
    assert reports["rungs/valve_forest_error"] == errors["forest"]
    predictor.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"predictor.json", "valve.npz", "wear.npz"}
    pd.testing.assert_frame_equal(load_predictor(tmp_path).table(unseen), predictor.table(unseen), check_exact=True)


def test_the_forest_is_kept_where_both_are_right() -> None:
    train = rig(SEEN, 2)
    train = train.where((train.labels["valve"] != "1").to_numpy())
    predictor = Baseline(trees=10, members=2).fit(train, train, PROBLEM, seed=0, watch=lambda *_: None)
    assert isinstance(predictor, BaselinePredictor)
    assert predictor.errors["valve"]["linear"] == predictor.errors["valve"]["forest"] == 0.0
    assert predictor.kept["valve"] == "forest"


def test_where_labels_are_noisy_the_forest_with_larger_leaves_is_kept() -> None:
    def noisy(seed: int, scale: float) -> Windows:
        windows = rig(SEEN, seed)
        noise = np.random.default_rng(seed).normal(0.0, scale, len(windows))
        wear = (
            windows.labels["valve"] == "1"
        ) + noise  # neither up nor down with the valve: nothing for the linear rung
        return replace(windows, labels=windows.labels.assign(wear=wear))

    def kept(scale: float) -> int:
        predictor = Baseline(trees=20, members=1, share=0.1).fit(
            noisy(2, scale), noisy(3, scale), PROBLEM.about("wear"), seed=0, watch=lambda *_: None
        )
        assert isinstance(predictor, BaselinePredictor)
        return int(predictor.models["wear"].min_samples_leaf)

    assert (kept(0.0), kept(2.0)) == (1, 10)


def test_a_single_strange_asset_neither_chooses_a_rung_nor_stops_boosting() -> None:
    train = rig(SEEN, 2)

    def kept(validation: list[tuple[int, int]]) -> tuple[str, int]:
        tune = rig(validation, 3)
        baseline = Baseline(trees=20, members=5).fit(train, tune, PROBLEM, seed=0, watch=lambda *_: None)
        boosted = Xgb(rounds=60, rate=0.5, patience=2, jobs=1).fit(train, tune, PROBLEM, seed=0, watch=lambda *_: None)
        assert isinstance(baseline, BaselinePredictor)
        assert isinstance(boosted, XgbPredictor)
        return baseline.kept["wear"], boosted.boosters["wear"].num_boosted_rounds()

    several, one, known = kept(UNSEEN), kept(UNSEEN[:1]), kept(SEEN[:1])
    assert several[0] == "linear"
    assert several[1] < 60
    assert one == ("forest", 60)
    assert known[1] < 60


@pytest.mark.parametrize(("count", "slopes"), [(1, 1), (5, 5), (12, 0), (60, 0)])
def test_intervals_are_means_and_slopes_of_the_window_in_order(count: int, slopes: int) -> None:
    windows = rig(SEEN, 2)
    windows = Windows.stacked(
        np.arange(12.0)[None, :, None] * np.arange(1.0, 1.0 + len(SENSORS)) + np.zeros((3, 1, 1)),
        SENSORS, windows.rows[:3],
    )  # fmt: skip
    table, owners = Intervals(None, count).transform(windows)
    parts = min(count, 12)
    assert table.shape == (3, (parts + slopes) * len(SENSORS))
    first = table[0, np.array(owners) == "a"]
    means = [float(part.mean()) for part in np.array_split(np.arange(12.0), parts)]
    assert set(np.round(first, 5)) == {round(value, 5) for value in np.float32([*means, *([1.0] if slopes else [])])}


def test_a_ridge_finds_the_line_and_constant_columns_weigh_nothing() -> None:
    rng = np.random.default_rng(0)
    columns = np.column_stack([rng.normal(size=(300, 2)), np.full(300, 5.0)])
    values = 2.0 + 3.0 * columns[:, 0] - columns[:, 1]

    def error(model: LinearModel) -> float:
        return float(np.abs(model.predict(columns) - values).mean())

    model = fit_linear(columns, values, ["a", "b", "c"], error, classes=False, members=3, share=1.0, seed=0)
    assert error(model) < 1e-3
    assert model.weights[2] == 0.0


def test_a_member_that_sees_constant_sensors_only_answers_the_mean() -> None:
    model = fit_linear(
        np.ones((4, 1)), np.array([1.0, 2.0, 3.0, 4.0]), ["a"], lambda _: 0.0,
        classes=False, members=1, share=1.0, seed=0,
    )  # fmt: skip
    assert model.predict(np.ones((2, 1))).tolist() == [2.5, 2.5]
