"""What hyper-parameters of networks do to what is learnt."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_baseline import PROBLEM, SEEN, SENSORS, rig

from pump_ml import hyper
from pump_ml.models import keras_fit
from pump_ml.models.cnn1d import Cnn1d
from pump_ml.problems import load_problem
from pump_ml.windows import Windows

TINY = Cnn1d(filters=8, dense=8, pool=3, blocks=0, dropout=0.0, epochs=1, rate=0.01)


def answer(family: Cnn1d, asked: Windows) -> NDArray[np.float64]:
    train = rig(SEEN, 2)
    predictor = family.fit(train, rig(SEEN, 3), PROBLEM.about("wear"), seed=0, watch=lambda *_: None)
    return predictor.answer(asked)["wear"]


def test_a_slow_mean_of_the_weights_stays_near_where_learning_began() -> None:
    asked = rig(SEEN, 4)
    begun, learnt, mean = (
        answer(replace(TINY, **given), asked) for given in ({"rate": 1e-9}, {}, {"ema_momentum": 0.99})
    )
    moved = np.abs(learnt - begun).mean()
    assert moved > 0.01
    assert 0.0 < np.abs(mean - begun).mean() < 0.5 * moved


def test_a_quick_mean_of_the_weights_is_the_weights() -> None:
    asked = rig(SEEN, 4)
    np.testing.assert_allclose(answer(replace(TINY, ema_momentum=1e-9), asked), answer(TINY, asked), atol=1e-3)


def test_a_table_in_half_precision_teaches_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rig(SEEN, 4)
    begun, single = answer(replace(TINY, rate=1e-9), asked), answer(TINY, asked)
    monkeypatch.setattr(keras_fit, "LARGE", 0)
    half = answer(TINY, asked)
    assert np.abs(single - begun).mean() > 0.01
    assert 0.0 < np.abs(half - single).mean() < 0.02 * np.abs(single - begun).mean()


def test_a_reading_that_half_precision_cannot_hold_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_fit, "LARGE", 0)
    train, validation = rig(SEEN, 2), rig(SEEN, 3)
    validation.readings[0] *= 1e9
    losses: list[Any] = []
    predictor = TINY.fit(train, validation, PROBLEM.about("wear"), seed=0, watch=lambda _, logs: losses.append(logs))
    assert np.isfinite(predictor.answer(rig(SEEN, 4))["wear"]).all()
    assert all(np.isfinite(value) for logs in losses for value in logs.values())


@pytest.mark.parametrize(("readout", "same"), [("mean", True), ("steps", False)])
def test_the_order_of_steps_matters_where_each_is_read_out(readout: Any, same: bool) -> None:
    asked = rig(SEEN, 4)
    course = np.stack([asked.readings[start : start + 12] for start in asked.starts])
    turned = Windows.stacked(course[:, ::-1], SENSORS, asked.rows)
    family = replace(TINY, readout=readout, epochs=5)
    assert np.allclose(answer(family, asked), answer(family, turned), atol=1e-4) == same


def test_the_network_that_the_problem_of_c_mapss_asks_for_learns_and_is_exported() -> None:
    family = hyper.make("cnn1d", "quick", load_problem("rul").hyper, {"cnn1d": {"epochs": 2}})
    assert family.readout == "steps"
    assert np.isfinite(answer(family, rig(SEEN, 4))).all()
