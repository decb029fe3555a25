"""Scorecards: rows, targets, groups; what is refused; the naive predictor and the relative error."""

import json

import numpy as np
import pandas as pd
import pytest

from pump_ml import evaluation, figures
from pump_ml.errors import DataError, LeakError
from pump_ml.evaluation import as_learnt, judge, naive_answers, refuse_seen, relative_error
from pump_ml.models.calibration import Calibration, at_temperature
from pump_ml.models.features import Statistics
from pump_ml.models.xgb import XgbPredictor
from pump_ml.problems import Problem, parse_problem
from pump_ml.windows import Windows

PROBLEM = parse_problem(
    {
        "name": "wear",
        "windows": {"length": 2, "stride": 1},
        "predicts": [
            {"name": "mode", "kind": "classes", "classes": ["healthy", "worn"], "metric": "accuracy"},
            {"name": "rul", "kind": "regression", "metric": "mae", "more_metrics": ["rmse"], "train_cap": 30},
        ],
        "targets": {"mode": 0.75, "rul": 2.0},
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "mode": "mode",
    },
    where="test",
)
TRUTH = pd.DataFrame(
    {
        "asset_id": ["a", "a", "b", "b"],
        "run_id": ["a/0", "a/1", "b/0", "b/1"],
        "time": [1, 2, 3, 4],
        "mode": ["healthy", "worn", "healthy", "worn"],
        "rul": [40.0, 10.0, 20.0, 5.0],
    }
)
ANSWERS = TRUTH.assign(mode=["healthy", "worn", "worn", "worn"], rul=[41.0, 10.0, 22.0, 10.0])


def test_a_scorecard_measures_each_target_over_all_by_asset_and_by_mode() -> None:
    card = judge("xgb", ANSWERS, TRUTH, PROBLEM)
    assert (card.family, card.rows) == ("xgb", 4)
    assert card.values == {"mode": {"accuracy": 0.75}, "rul": {"mae": 2.0, "rmse": pytest.approx(30**0.5 / 2)}}
    assert card.by_asset == {"a": {"mode": 1.0, "rul": 0.5}, "b": {"mode": 0.5, "rul": 3.5}}
    assert card.by_mode == {"healthy": {"mode": 0.5, "rul": 1.5}, "worn": {"mode": 1.0, "rul": 2.5}}
    assert card.coverage == {}
    assert card.passed == {"mode": True, "rul": True}
    assert card.headline(PROBLEM) == {"mode": 0.75, "rul": 2.0}
    assert json.loads(json.dumps(card.to_json()))["by_mode"]["worn"] == {"mode": 1.0, "rul": 2.5}


SURE = ANSWERS.assign(
    rul_low=[40.0, 8.0, 20.5, 9.0], rul_high=[42.0, 12.0, 23.5, 11.0],
    mode_p_healthy=[0.9, 0.2, 0.4, 0.1], mode_p_worn=[0.1, 0.8, 0.6, 0.9],
)  # fmt: skip
"""The true values of the third and the fourth row lie outside, and the third mode is wrong."""


def test_a_scorecard_says_how_far_intervals_and_probabilities_may_be_trusted() -> None:
    card = judge("xgb", SURE, TRUTH, PROBLEM, Calibration(temperatures={"mode": 2.0}))
    assert card.values["rul"] == judge("xgb", ANSWERS, TRUTH, PROBLEM).values["rul"] | {"coverage": 0.5, "width": 2.75}
    assert card.coverage["rul"].by_mode == {"healthy": 0.5, "worn": 0.5}
    assert card.coverage["rul"].by_asset == {"0.05": pytest.approx(0.05), "0.25": 0.25, "0.5": 0.5}
    gaps = [0.1 * 2, 0.2, 0.6]  # 0.9 and 0.9 share a bin
    assert card.values["mode"]["ece"] == pytest.approx(sum(gaps) / 4)
    before = at_temperature(SURE[["mode_p_healthy", "mode_p_worn"]].to_numpy(), 0.5).max(axis=1)
    gaps = [2 * (1 - before[0]), 1 - before[1], before[2]]
    assert card.values["mode"]["ece_before"] == pytest.approx(sum(gaps) / 4)
    assert json.loads(json.dumps(card.to_json()))["coverage"]["rul"]["by_mode"]["worn"] == 0.5


def test_the_coverage_by_mode_is_drawn_where_there_are_intervals() -> None:
    assert "coverage_by_mode.png" in dict(figures.of_answers(SURE, TRUTH, PROBLEM))
    assert "coverage_by_mode.png" not in dict(figures.of_answers(ANSWERS, TRUTH, PROBLEM))


def test_answers_are_found_by_asset_run_and_time_whatever_their_order() -> None:
    more = pd.concat([ANSWERS, ANSWERS.assign(asset_id="c")])
    assert judge("xgb", more.iloc[::-1], TRUTH, PROBLEM) == judge("xgb", ANSWERS, TRUTH, PROBLEM)


def test_a_target_without_a_threshold_neither_passes_nor_fails() -> None:
    open_problem = PROBLEM.model_copy(
        update={"targets": tuple(t.model_copy(update={"threshold": None}) for t in PROBLEM.targets)}
    )
    assert judge("xgb", ANSWERS, TRUTH, open_problem).passed == {"mode": None, "rul": None}


@pytest.mark.parametrize(
    ("answers", "truth", "message"),
    [
        pytest.param(ANSWERS[1:], TRUTH, "xgb left 1 of 4 rows without an answer", id="a row without an answer"),
        pytest.param(ANSWERS.assign(rul=float("nan")), TRUTH, "left 4 of 4 rows", id="answers that are no number"),
        pytest.param(ANSWERS, TRUTH[:0], "no rows to judge", id="no rows"),
        pytest.param(pd.concat([ANSWERS, ANSWERS]), TRUTH, "more than one answer", id="two answers to a row"),
    ],
)
def test_what_cannot_be_judged_is_refused(answers: pd.DataFrame, truth: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        judge("xgb", answers, truth, PROBLEM)


def test_a_model_is_not_judged_by_assets_it_was_fitted_on() -> None:
    windows = Windows.stacked(np.zeros((4, 2, 1)), ("p",), TRUTH[["asset_id", "run_id", "time"]])
    known, strange = (
        XgbPredictor(PROBLEM, ("p",), assets, Statistics(None), {}) for assets in (("b", "z"), ("y", "z"))
    )
    with pytest.raises(LeakError, match=r"fitted on 1 of the assets .* \(b\); fit"):
        refuse_seen(known, windows)
    refuse_seen(strange, windows)


def test_the_naive_predictor_answers_the_commonest_class_and_the_median_or_mean_of_training() -> None:
    train = pd.DataFrame({"mode": ["worn", "worn", "healthy"], "rul": [10.0, 20.0, 90.0]})
    naive = naive_answers(train, TRUTH, PROBLEM)
    assert naive["mode"].unique().tolist() == ["worn"]
    assert naive["rul"].unique().tolist() == [20.0]  # the median, for MAE
    by_rmse = naive_answers(train, TRUTH, _with_metric(PROBLEM, "rmse"))
    assert by_rmse["rul"].unique().tolist() == [20.0]  # the mean of 10, 20 and 30, at which training is cut
    assert list(naive) == ["asset_id", "run_id", "time", "mode", "rul"]


def _with_metric(problem: Problem, metric: str) -> Problem:
    mode, rul = problem.targets
    return problem.model_copy(update={"targets": (mode, rul.model_copy(update={"metric": metric}))})


def test_labels_are_cut_at_the_cap_where_they_are_learnt_from_and_nowhere_else() -> None:
    assert as_learnt(TRUTH, PROBLEM)["rul"].tolist() == [30.0, 10.0, 20.0, 5.0]
    assert TRUTH["rul"].max() == 40.0


def test_the_relative_error_is_one_exactly_at_the_thresholds() -> None:
    allowed = {"mode": 0.75, "rul": 2.0}
    assert relative_error(allowed, allowed, PROBLEM) == pytest.approx(1.0)
    assert relative_error({"mode": 1.0, "rul": 0.0}, allowed, PROBLEM) == 0.0
    assert relative_error({"mode": 0.5, "rul": 1.0}, allowed, PROBLEM) == pytest.approx((2.0 + 0.5) / 2)


def test_a_threshold_of_perfection_can_be_compared_with() -> None:
    assert evaluation.relative_error({"mode": 1.0, "rul": 0.0}, {"mode": 1.0, "rul": 0.0}, PROBLEM) == 0.0
