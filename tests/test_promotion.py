"""Who becomes champion, case by case."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pump_ml.problems import Problem, parse_problem
from pump_ml.promotion import Contender, decide

PREDICTS = [
    {"name": "mode", "kind": "classes", "classes": ["healthy", "worn"], "metric": "accuracy"},
    {"name": "rul_pct", "kind": "regression", "metric": "mae"},
]


def problem(targets: Any) -> Problem:
    split = {"train": 0.6, "validation": 0.2, "test": 0.2}
    content = {"name": "wear", "windows": {"length": 2, "stride": 1}, "predicts": PREDICTS, "split": split}
    return parse_problem(content | {"targets": targets}, where="test")


STRICT = problem({"mode": 0.9, "rul_pct": 5.0})
OPEN = problem("none")


def values(mode: float, rul: float) -> dict[str, float]:
    return {"mode": mode, "rul_pct": rul}


def contender(family: str, mode: float, rul: float, validation: dict[str, float] | None = None) -> Contender:
    """A contender of this run; its version is named after it."""
    test = values(mode, rul)
    return Contender(family, f"v-{family}", validation or test, test, test)


def champion(mode: float, rul: float) -> Contender:
    return Contender("gru", "v-old", {}, {}, values(mode, rul))


BASELINE = contender("baseline", 0.80, 8.0)
GOOD = contender("xgb", 0.95, 4.0)
NAN = math.nan


@dataclass(frozen=True)
class Case:
    contenders: list[Contender]
    champion: Contender | None
    promoted: bool
    challenger: str | None
    reason: str
    problem: Problem = STRICT


CASES = {
    "first champion": Case([BASELINE, GOOD], None, True, "v-xgb", "xgb is the first eligible model"),
    "better than the champion": Case([BASELINE, GOOD], champion(0.94, 4.5), True, "v-xgb", "xgb beats version v-old"),
    "worse than the champion": Case([BASELINE, GOOD], champion(0.99, 2.0), False, "v-xgb", "version v-old (gru) stays"),
    "equal to the champion": Case([BASELINE, GOOD], champion(0.95, 4.0), False, "v-xgb", "version v-old (gru) stays"),
    "better on one target, as much worse on the other": Case(
        [BASELINE, GOOD], champion(0.96, 4.5), False, "v-xgb", "version v-old (gru) stays"
    ),
    "none eligible": Case(
        [BASELINE, contender("xgb", 0.95, 6.0)], None, False, None, "no family meets all targets"
    ),
    "none eligible, and the champion is worse": Case(
        [BASELINE, contender("xgb", 0.89, 4.0)], champion(0.5, 20.0), False, None, "the champion stays as it is"
    ),
    "exactly at the thresholds": Case([BASELINE, contender("xgb", 0.9, 5.0)], None, True, "v-xgb", "first eligible"),
    "the baseline itself may be crowned": Case([contender("baseline", 0.9, 5.0)], None, True, "v-baseline", "first"),
    "validation chooses, not test": Case(
        [
            BASELINE,
            contender("xgb", 0.99, 1.0, validation=values(0.93, 4.5)),
            contender("cnn1d", 0.95, 4.0, validation=values(0.97, 3.0)),
        ],
        None, True, "v-cnn1d", "cnn1d is the first eligible model",
    ),
    "the best by validation is not eligible": Case(
        [BASELINE, contender("xgb", 0.8, 9.0, validation=values(1.0, 0.0)), GOOD], None, True, "v-xgb2", "first",
    ),
    "a test metric that is no number": Case(
        [BASELINE, contender("xgb", NAN, 1.0)], None, False, None, "no family meets all targets"
    ),
    "a validation metric that is no number does not choose": Case(
        [BASELINE, replace(GOOD, family="gru", version="v-gru", validation=values(NAN, 1.0)), GOOD],
        None, True, "v-xgb", "xgb is the first",
    ),
    "a contest metric that is no number": Case(
        [BASELINE, replace(GOOD, contest=values(0.95, NAN))], champion(0.5, 20.0), False, None, "no family meets"
    ),
    "without thresholds the baseline is the bar": Case(
        [BASELINE, contender("xgb", 0.81, 7.9)], None, True, "v-xgb", "first eligible", OPEN
    ),
    "without thresholds the baseline does not beat itself": Case(
        [BASELINE], None, False, None, "no family beats the baseline", OPEN
    ),
    "without thresholds each target has to be better": Case(
        [BASELINE, contender("xgb", 0.99, 8.0)], None, False, None, "no family beats the baseline", OPEN
    ),
    "without thresholds a metric that is no number": Case(
        [BASELINE, contender("xgb", 0.99, NAN)], None, False, None, "no family beats the baseline", OPEN
    ),
    "without thresholds, better than the champion": Case(
        [BASELINE, GOOD], champion(0.94, 4.5), True, "v-xgb", "xgb beats version v-old", OPEN
    ),
    "the champion has learnt from every test asset": Case(
        [BASELINE, replace(GOOD, contest=None)],
        replace(champion(0, 0), contest=None), False, "v-xgb", "it has learnt from every test asset",
    ),
    "the contest decides, where it differs from the test": Case(
        [BASELINE, replace(GOOD, contest=values(0.91, 4.9))], champion(0.92, 4.8), False, "v-xgb", "version v-old",
    ),
    "the contest decides, in favour": Case(
        [BASELINE, replace(GOOD, contest=values(0.99, 1.0))], champion(0.96, 3.0), True, "v-xgb", "xgb beats",
    ),
    "a champion without a number falls": Case(
        [BASELINE, GOOD], champion(NAN, 1.0), True, "v-xgb", "xgb beats version v-old"
    ),
}  # fmt: skip
CASES["the best by validation is not eligible"].contenders[2] = replace(GOOD, family="xgb2", version="v-xgb2")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_decision_is(case: Case) -> None:
    decision = decide(case.contenders, case.champion, case.problem)
    assert (decision.promoted, decision.challenger) == (case.promoted, case.challenger)
    assert case.reason in decision.reason
    # It goes into the ledger and through Airflow, which takes no NaN.
    json.dumps(decision.to_json(), allow_nan=False)


def test_a_decision_tells_who_was_eligible_and_how_far_each_was_from_the_targets() -> None:
    decision = decide([BASELINE, GOOD], champion(0.9, 5.0), STRICT)
    assert decision.eligible == {"baseline": False, "xgb": True}
    # Error over allowed error, averaged: (0.2 / 0.1 + 8 / 5) / 2, (0.05 / 0.1 + 4 / 5) / 2, and exactly allowed.
    assert decision.errors == pytest.approx({"baseline": 1.8, "xgb": 0.65, "champion": 1.0})


def test_a_champion_that_cannot_answer_the_problem_any_more_is_replaced_and_the_reason_is_told() -> None:
    old = Contender("gru", "3", {}, {}, None, unfit="it answers life")
    decision = decide([BASELINE, GOOD], old, STRICT)
    assert (decision.promoted, decision.challenger) == (True, GOOD.version)
    assert "version 3 (gru) cannot answer this problem any more, it answers life" in decision.reason


@pytest.mark.parametrize("test", [values(0.10, 8.0), values(0.94, 50.0)], ids=["weighs life", "weighs mode"])
def test_without_thresholds_the_test_rows_do_not_weigh_the_ranking(test: dict[str, float]) -> None:
    """Against the baseline's validation rows xgb is ahead; the baseline's test rows would turn it round in one case."""
    baseline = Contender("baseline", "1", values(0.80, 8.0), test, test)
    xgb = Contender("xgb", "2", values(0.95, 7.9), values(0.95, 4.0), values(0.95, 4.0))
    cnn1d = Contender("cnn1d", "3", values(0.82, 4.0), values(0.95, 4.0), values(0.95, 4.0))
    assert decide([baseline, xgb, cnn1d], None, OPEN).challenger == "2"
