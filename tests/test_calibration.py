"""Intervals hold what they promise on assets of the same kind; temperatures mend how sure a model thinks it is."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pump_ml.errors import DataError
from pump_ml.models import Answers, Predictor
from pump_ml.models.calibration import (
    COOLEST,
    Array,
    Calibration,
    Interval,
    at_temperature,
    fit_temperature,
    independent,
    least_assets,
)
from pump_ml.problems import Problem, parse_problem
from pump_ml.windows import Windows

NOISE = {"calm": 1.0, "rough": 5.0}
"""Standard deviation of a label about its answer, by mode; half of the variance belongs to the asset."""


def fleet(assets: int, seed: int, windows: int = 12) -> dict[str, Any]:
    """Answers and labels of assets whose windows are alike, half of each mode; noise doubles over the range."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"a{number:04d}" for number in range(assets)], windows)
    modes = np.repeat(np.resize(["calm", "rough"], assets), windows)
    value = rng.uniform(0.0, 100.0, len(names))
    shared = np.repeat(rng.normal(0.0, 0.5**0.5, assets), windows)
    error = shared + rng.normal(0.0, 0.5**0.5, len(names))
    spread = np.array([NOISE[mode] for mode in modes]) * (1.0 + value / 100.0)
    return {"value": value, "true": value + spread * error, "assets": names, "modes": modes}


def covered(interval: Interval, asked: dict[str, Any]) -> Array:
    inside: Array = np.abs(asked["true"] - asked["value"]) <= interval.half_width(asked["value"], asked["modes"])
    return inside


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_new_assets_lie_inside_as_often_as_promised_in_every_mode_and_at_every_value(level: float) -> None:
    asked = fleet(2000, seed=99)
    hits = np.mean([covered(Interval.fit(**fleet(112, seed), level=level), asked) for seed in range(20)], axis=0)
    assert hits.mean() == pytest.approx(level, abs=0.02)
    for mode in NOISE:
        assert hits[asked["modes"] == mode].mean() == pytest.approx(level, abs=0.025)
    for low in (0.0, 75.0):
        here = (asked["value"] >= low) & (asked["value"] <= low + 25.0)
        assert hits[here].mean() == pytest.approx(level, abs=0.04)


def test_a_mode_is_as_wide_as_its_own_errors() -> None:
    interval = Interval.fit(**fleet(400, seed=1), level=0.9)
    calm, rough = interval.half_width(np.array([50.0, 50.0]), np.array(["calm", "rough"]))
    assert rough / calm == pytest.approx(5.0, rel=0.2)
    assert calm == pytest.approx(1.5 * 1.645, rel=0.2)


def test_a_mode_of_too_few_assets_and_one_never_seen_take_the_pooled_factor() -> None:
    held_out = fleet(40, seed=2)
    held_out["modes"][held_out["assets"] == "a0000"] = "rare"
    interval = Interval.fit(**held_out, level=0.9)
    assert set(interval.by_mode) == {"calm", "rough"}
    widths = interval.half_width(np.full(2, 50.0), np.array(["rare", "unheard of"]))
    assert widths.tolist() == [interval.half_width(np.array([50.0]), None)[0]] * 2


def test_too_few_assets_give_the_largest_score_and_never_an_infinite_interval() -> None:
    held_out = fleet(least_assets(0.9) - 1, seed=3)
    interval = Interval.fit(**held_out, level=0.9)
    assert interval.by_mode == {}
    assert np.isfinite(interval.pooled)
    assert covered(interval, held_out).mean() == pytest.approx(1.0, abs=0.01)  # all but what a rounding leaves out


@pytest.mark.parametrize("windows", [1, 2, 7])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_the_least_number_of_assets_gives_a_finite_interval(level: float, windows: int) -> None:
    for seed in range(20):
        held_out = fleet(least_assets(level), seed, windows)
        held_out["modes"] = np.full(len(held_out["modes"]), "calm")
        interval = Interval.fit(**held_out, level=level)
        assert np.isfinite([interval.pooled, interval.by_mode["calm"]]).all()


def test_answers_without_an_error_or_of_one_value_give_finite_intervals() -> None:
    value = np.full(240, 100.0)
    assets, modes = np.repeat(np.arange(20).astype(str), 12), np.full(240, "calm")
    exact = Interval.fit(value, value, assets, modes, 0.9)
    assert exact.half_width(np.array([100.0, 3.0]), np.array(["calm", "x"])) == pytest.approx(0.0)
    off = Interval.fit(value, value - 2.0, assets, None, 0.9)
    assert off.half_width(np.array([100.0, 3.0]), None) == pytest.approx(2.0)


def test_windows_of_one_asset_count_as_one_when_they_miss_together() -> None:
    assets = np.repeat(np.arange(20), 10)
    together = np.repeat(np.arange(20) < 2, 10)
    assert independent(together, assets) == pytest.approx(20.0)
    spread = np.random.default_rng(4).random(200) < 0.1
    assert 100.0 < independent(spread, assets) <= 200.0
    assert independent(np.arange(20) < 2, np.arange(20)) == 20
    assert independent(np.zeros(200, dtype=np.bool_), assets) == 200.0


# Probabilities


def too_sure(windows: int, seed: int, factor: float) -> tuple[Array, Any]:
    """Probabilities of a model whose logits are `factor` times those that made the labels, and the labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 2.0, (windows, 4))
    codes = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    given = np.exp(factor * logits)
    return given / given.sum(axis=1, keepdims=True), codes


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0], ids=["too doubtful", "right", "too sure"])
def test_the_temperature_finds_how_much_too_sure_a_model_is(factor: float) -> None:
    probabilities, codes = too_sure(20_000, 5, factor)
    assert fit_temperature(probabilities, codes) == pytest.approx(factor, rel=0.05)


def test_a_temperature_is_the_softmax_of_scaled_logs_changes_no_order_and_can_be_undone() -> None:
    probabilities, _ = too_sure(500, 6, 3.0)
    scaled = at_temperature(probabilities, 2.5)
    by_hand = np.exp(np.log(probabilities) / 2.5)
    assert scaled == pytest.approx(by_hand / by_hand.sum(axis=1, keepdims=True))
    assert scaled.sum(axis=1) == pytest.approx(1.0)
    assert (scaled.argsort(axis=1) == probabilities.argsort(axis=1)).all()
    assert at_temperature(scaled, 1.0 / 2.5) == pytest.approx(probabilities)
    assert at_temperature(np.array([[0.0, 1.0]]), 0.5).tolist() == [[0.0, 1.0]]


def test_held_out_windows_without_a_mistake_do_not_make_a_model_sure_of_everything() -> None:
    probabilities = np.tile([0.9, 0.1], (100, 1))
    temperature = fit_temperature(probabilities, np.zeros(100, dtype=np.int64))
    assert temperature == pytest.approx(COOLEST, rel=1e-3)
    assert at_temperature(probabilities, temperature)[0, 1] > 1e-4


# The seam


class Echo(Predictor):
    """Answers with the mean of the first sensor, and with a mode by its sign."""

    family = "echo"

    def answer(self, windows: Windows) -> Answers:
        mean = windows.x[:, :, 0].mean(axis=1)
        rough = 1.0 / (1.0 + np.exp(-mean))
        return {"left": mean, "mode": np.stack([1.0 - rough, rough], axis=1)}

    def save_state(self, folder: Any) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def load_state(cls, *_: Any) -> Any:
        raise NotImplementedError


def problem(**changes: Any) -> Problem:
    return parse_problem(
        {
            "name": "wear",
            "windows": {"length": 2, "stride": 2},
            "predicts": [
                {"name": "left", "kind": "regression", "metric": "mae", "low": 0, "high": 10, **changes},
                {"name": "mode", "kind": "classes", "classes": ["calm", "rough"], "metric": "accuracy"},
            ],
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "mode": "mode",
        },
        where="test",
    )


def windows(assets: int, seed: int) -> Windows:
    """Windows whose label lies in 0 to 10 about the mean of their sensor."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.0, 11.0, (assets * 6, 1, 1)) * np.ones((1, 2, 1))
    left = np.clip(x[:, 0, 0] + rng.normal(0.0, 1.0, len(x)), 0.0, 10.0)
    names = np.repeat([f"b{number:03d}" for number in range(assets)], 6)
    rows = pd.DataFrame({"asset_id": names, "run_id": names, "time": np.arange(len(x))})
    labels = pd.DataFrame({"left": left, "mode": np.where(rng.random(len(x)) < 0.5, "calm", "rough")})
    return Windows.stacked(x, ("p",), rows, labels=labels)


def test_an_interval_is_cut_at_the_range_of_its_target_without_losing_a_true_value() -> None:
    predictor = Echo(problem(), ("p",), ("z",))
    predictor.calibrate(windows(60, 7))
    asked = windows(300, 8)
    table = predictor.table(asked)
    assert table["left_low"].min() == 0.0
    assert table["left_high"].max() == 10.0
    assert (table["left_low"] <= table["left"]).all()
    assert (table["left"] <= table["left_high"]).all()
    half = predictor.calibration.intervals["left"].half_width(table["left"].to_numpy(), table["mode"].to_numpy())
    uncut = (asked.labels["left"] - table["left"]).abs() <= half
    assert (asked.labels["left"].between(table["left_low"], table["left_high"]) == uncut).all()
    assert uncut.mean() == pytest.approx(0.9, abs=0.03)


def test_calibrated_assets_are_on_record_and_twice_is_the_same() -> None:
    predictor = Echo(problem(), ("p",), ("z",))
    assert "left_low" not in predictor.table(windows(2, 9))
    predictor.calibrate(windows(20, 9))
    once = predictor.calibration
    predictor.calibrate(windows(20, 9))
    assert predictor.calibration == once
    assert predictor.assets == (*(f"b{number:03d}" for number in range(20)), "z")
    assert Calibration.from_json(json.loads(json.dumps(once.to_json(), allow_nan=False))) == once


def test_probabilities_get_a_temperature_from_enough_assets_only_and_values_an_interval_from_few() -> None:
    few, enough = Echo(problem(), ("p",), ()), Echo(problem(), ("p",), ())
    asked = windows(30, 12)
    before = few.table(asked)
    few.calibrate(windows(9, 11))
    enough.calibrate(windows(10, 11))
    columns = ["mode_p_calm", "mode_p_rough"]
    assert few.calibration.temperatures == {}
    pd.testing.assert_frame_equal(few.table(asked)[columns], before[columns], check_exact=True)
    assert enough.calibration.temperatures["mode"] > 2.0, "its labels have nothing to do with what it says"
    assert enough.table(asked)[columns].max(axis=None) < before[columns].max(axis=None)
    assert set(few.calibration.intervals) == set(enough.calibration.intervals) == {"left"}
    held_out = windows(9, 11)
    table = few.table(held_out)
    inside = held_out.labels["left"].between(table["left_low"] - 1e-9, table["left_high"] + 1e-9)
    assert inside.all(), "wide enough to hold every error that they showed"


def test_an_interval_is_about_the_label_as_it_is_learnt_cut_at_its_cap() -> None:
    held_out = windows(60, 10)
    free, capped = (Echo(problem(**changes), ("p",), ()) for changes in ({}, {"train_cap": 5}))
    cut = Echo(problem(), ("p",), ())
    free.calibrate(held_out)
    capped.calibrate(held_out)
    held_out.labels["left"] = held_out.labels["left"].clip(upper=5)
    cut.calibrate(held_out)
    assert capped.calibration == cut.calibration != free.calibration


def test_few_assets_are_warned_of_and_none_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    predictor = Echo(problem(), ("p",), ())
    with caplog.at_level("WARNING"):
        predictor.calibrate(windows(9, 11))
    assert "9 held-out assets are too few for an interval of 0.9, which takes 10" in caplog.text
    assert "wide enough to hold every error that they showed, and probabilities get no temperature" in caplog.text
    caplog.clear()
    predictor.calibrate(windows(10, 11))
    assert caplog.text == ""
    none = windows(10, 11).where(np.zeros(60, dtype=np.bool_))
    with pytest.raises(DataError, match="no held-out windows to calibrate on; expected windows of 10 or more"):
        predictor.calibrate(none)
