"""Metrics against scikit-learn and against values worked out by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as reference

from pump_ml.errors import ConfigurationError, UnknownNameError
from pump_ml.metrics import METRICS, calibration_error, get

RNG = np.random.default_rng(0)
CLASSES = (RNG.choice(list("abcd"), 200), RNG.choice(list("abcd"), 200))
VALUES = (RNG.normal(50, 20, 200), RNG.normal(50, 20, 200))


@pytest.mark.parametrize(
    ("name", "rows", "theirs"),
    [
        pytest.param("accuracy", CLASSES, reference.accuracy_score, id="accuracy"),
        pytest.param("macro_f1", CLASSES, lambda t, p: reference.f1_score(t, p, average="macro"), id="macro_f1"),
        pytest.param("mae", VALUES, reference.mean_absolute_error, id="mae"),
        pytest.param("rmse", VALUES, reference.root_mean_squared_error, id="rmse"),
        pytest.param("r2", VALUES, reference.r2_score, id="r2"),
    ],
)
def test_metrics_agree_with_scikit_learn(
    name: str, rows: tuple[np.ndarray, np.ndarray], theirs: Callable[..., float]
) -> None:
    assert get(name)(*rows) == pytest.approx(theirs(*rows), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "true", "predicted", "expected"),
    [
        pytest.param("accuracy", ["a", "b", "b", "c"], ["a", "b", "c", "c"], 0.75, id="accuracy"),
        pytest.param("macro_f1", ["a", "a", "b"], ["a", "b", "b"], 2 / 3, id="macro_f1"),
        pytest.param("mae", [1.0, 2.0, 4.0], [2.0, 2.0, 1.0], 4 / 3, id="mae"),
        pytest.param("rmse", [0.0, 0.0], [3.0, 4.0], math.sqrt(12.5), id="rmse"),
        pytest.param("r2", [1.0, 2.0, 3.0], [1.0, 2.0, 4.0], 0.5, id="r2"),
        # Ten cycles late cost e - 1, thirteen cycles early cost as much; they are summed.
        pytest.param("cmapss_score", [50.0, 50.0, 50.0], [60.0, 37.0, 50.0], 2 * (math.e - 1), id="cmapss_score"),
    ],
)
def test_metrics_have_the_values_that_were_worked_out_by_hand(
    name: str, true: list[object], predicted: list[object], expected: float
) -> None:
    assert get(name)(true, predicted) == pytest.approx(expected, rel=1e-12)


def test_every_metric_is_compared_with_a_known_value() -> None:
    assert set(METRICS) == {"accuracy", "macro_f1", "mae", "rmse", "r2", "cmapss_score"}


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_answer_falls_short_of_nothing(name: str) -> None:
    rows = CLASSES if name in ("accuracy", "macro_f1") else VALUES
    metric = get(name)
    assert metric.shortfall(metric(rows[0], rows[0])) == pytest.approx(0.0)
    assert metric.shortfall(metric(*rows)) > 0.0


@pytest.mark.parametrize(
    ("name", "value", "passes"),
    [
        pytest.param("accuracy", 0.95, True, id="accuracy at the threshold"),
        pytest.param("accuracy", 0.949, False, id="accuracy below it"),
        pytest.param("mae", 0.95, True, id="error at the threshold"),
        pytest.param("mae", 0.951, False, id="error above it"),
        pytest.param("accuracy", math.nan, False, id="no number, higher is better"),
        pytest.param("mae", math.nan, False, id="no number, lower is better"),
    ],
)
def test_a_threshold_counts_as_reached_and_no_number_never_does(name: str, value: float, passes: bool) -> None:
    assert get(name).passes(value, 0.95) is passes


@pytest.mark.parametrize(
    ("true", "predicted"),
    [
        pytest.param([1.0], [1.0, 2.0], id="other lengths"),
        pytest.param([], [], id="empty"),
        pytest.param([[1.0]], [[1.0]], id="a table"),
        pytest.param([1.0], [math.nan], id="an answer that is no number"),
        pytest.param([math.inf], [1.0], id="an infinite truth"),
    ],
)
def test_what_cannot_be_measured_is_refused(true: list[object], predicted: list[object]) -> None:
    with pytest.raises(ConfigurationError, match="metric mae"):
        get("mae")(true, predicted)


def test_an_unknown_metric_names_its_neighbour() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'rmse'"):
        get("rsme")


def test_the_calibration_error_weighs_the_gap_of_each_bin_by_its_rows() -> None:
    # Bins of a fifteenth: 0.6 is the upper edge of the ninth and lies in it, with 0.55; 0.95 and 1.0 lie in the last.
    confidence, right = [0.6, 0.55, 0.95, 1.0], [True, False, True, True]
    by_hand = 2 / 4 * abs(1 / 2 - (0.6 + 0.55) / 2) + 2 / 4 * abs(1.0 - (0.95 + 1.0) / 2)
    assert calibration_error(confidence, right) == pytest.approx(by_hand)
    assert calibration_error(confidence, right, bins=1) == pytest.approx(abs(3 / 4 - 3.1 / 4))
    assert calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert calibration_error([0.0, 1.0], [True, False]) == 1.0
