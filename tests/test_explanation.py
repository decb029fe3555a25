"""Why a model answers as it does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Trained, windows_of

from pump_ml import registry
from pump_ml.errors import DataError
from pump_ml.explanation import contributions, explain, importance
from pump_ml.models import Answers, Predictor, load_predictor
from pump_ml.models.normal_behaviour import NormalBehaviour
from pump_ml.problems import Problem, parse_problem
from pump_ml.schema import Telemetry
from pump_ml.work import Work

UNITS = {"vibration_mm_s": "mm/s", "pressure_bar": "bar", "current_a": "A"}


class Sum(Predictor):
    """Two of the means over a window, weighed, and the product of two; the third says nothing."""

    family = "sum"

    def answer(self, windows: Any) -> Answers:
        a, b, _ = windows.x.mean(axis=1).T
        odds = 1.0 / (1.0 + np.exp(-a))
        return {"rul_h": 50.0 + 3.0 * a - 2.0 * b + a * b, "worn": np.stack([1.0 - odds, odds], axis=1)}

    def save_state(self, folder: Path) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def load_state(cls, *_: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def additive() -> tuple[Predictor, pd.DataFrame]:
    """A predictor of three sensors, which remembers training readings of median 1, 2 and 3; and readings."""
    problem = parse_problem(
        {
            "name": "toy",
            "windows": {"length": 4, "stride": 4},
            "predicts": [
                {"name": "rul_h", "kind": "regression", "metric": "mae", "unit": "hour"},
                {"name": "worn", "kind": "classes", "classes": ["no", "yes"], "metric": "accuracy"},
            ],
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
        },
        where="toy",
    )
    made = Sum(problem, tuple(UNITS), ())
    frame = _readings(made, [[1.0, 2.0, 3.0]] * 8)
    made.remember(made.last_windows(frame), UNITS)
    return made, _readings(made, [[5.0, 2.0, 9.0]] * 4 + [[1.0, 6.0, 3.0]] * 4)


def _readings(predictor: Predictor, rows: list[list[float]]) -> pd.DataFrame:
    place = np.arange(len(rows))
    keys = {"asset_id": [f"p{n // 4}" for n in place], "run_id": "r", "time": place}
    return pd.DataFrame(rows, columns=list(predictor.sensors)).assign(**keys)


def test_contributions_are_the_exact_shapley_values_of_a_sum_with_a_product(
    additive: tuple[Predictor, pd.DataFrame],
) -> None:
    predictor, readings = additive
    found = contributions(predictor, predictor.last_windows(readings), permutations=2, seed=3)
    # The product of two is shared out evenly: half of what it adds before and after the other has moved.
    assert found.moved["rul_h"] == pytest.approx(np.array([[3.0 * 4.0 + 4.0 * 2.0, 0.0, 0.0], [0.0, -8.0 + 4.0, 0.0]]))
    odds = 1.0 / (1.0 + np.exp(-np.array([5.0, 1.0])))
    assert found.moved["worn"][:, 0] == pytest.approx([odds[0] - odds[1], 0.0])
    assert found.moved["worn"][:, 1:] == pytest.approx(0.0)


def test_an_explanation_names_sensor_value_reference_and_units_in_words(
    additive: tuple[Predictor, pd.DataFrame],
) -> None:
    told = explain(*additive, top=1)
    assert told["text"].tolist() == [
        "rul_h 71: vibration_mm_s shows 5 mm/s where 1 is usual: +20",
        "worn yes (probability 0.99): vibration_mm_s shows 5 mm/s where 1 is usual: +0.262",
        "rul_h 47: pressure_bar shows 6 bar where 2 is usual: -4",
        "worn yes (probability 0.73): vibration_mm_s shows 1 mm/s where 1 is usual: +0",
    ]
    assert told["asset_id"].tolist() == ["p0", "p0", "p1", "p1"]
    assert told["unit"].tolist() == ["mm/s", "mm/s", "bar", "mm/s"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2388.04, "shows 2388.04 mm/s where 2388.02 is usual"),
        (2389.0, "shows 2389 mm/s where 2388 is usual"),
        (2388.02, "shows 2388 mm/s where 2388 is usual"),
    ],
    ids=["close", "apart", "the same"],
)
def test_a_value_and_its_reference_are_told_with_the_digits_in_which_they_differ(
    additive: tuple[Predictor, pd.DataFrame], value: float, words: str
) -> None:
    predictor, _ = additive
    predictor.usual = {"vibration_mm_s": 2388.02, "pressure_bar": 1.0, "current_a": 1.0}
    told = explain(predictor, _readings(predictor, [[value, 1.0, 1.0]] * 4), top=1)
    assert words in told["text"].iloc[0]


def test_a_model_that_remembers_no_usual_reading_says_so(additive: tuple[Predictor, pd.DataFrame]) -> None:
    predictor, readings = additive
    predictor.usual = {}
    with pytest.raises(DataError, match="keeps no usual reading of vibration_mm_s, pressure_bar, current_a; train"):
        explain(predictor, readings)


def test_an_asset_as_new_shows_what_its_record_showed(fleet: Telemetry, diagnosis: Problem) -> None:
    windows = windows_of(fleet, diagnosis, slice(0, 20))
    assert windows.commissioning is not None
    normal = NormalBehaviour.fit(windows.commissioning, windows.sensors, diagnosis.conditions)
    new = normal.as_new(windows)
    kept = [windows.sensors.index(name) for name in diagnosis.conditions.names]
    assert (new[:, kept] == windows.readings[:, kept]).all()
    place = windows.sensors.index("motor_temperature_c")
    for asset, here in windows.blocks.items():
        record = windows.commissioning[asset][:, place]
        assert new[here, place].mean() == pytest.approx(record.mean(), rel=0.1)
        assert new[here, place].std() < 3.0 * record.std() + 0.5


@pytest.fixture(scope="module", params=["baseline", "xgb"])
def predictor(request: pytest.FixtureRequest, trained: Trained) -> Predictor:
    """What a family of the training run learnt."""
    place = next(place for place, each in enumerate(trained.candidates) if each["family"] == request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUMP_ML_VAR", str(trained.home))
        registry.connect()
        return registry.predictor_of(registry.load_model("pump-diagnosis", trained.candidates[place]["version"]))


@pytest.fixture
def healthy(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """The commissioning record of a test pump, and a window of it without a fault."""
    monkeypatch.setenv("PUMP_ML_VAR", str(trained.home))
    rows = Work(trained.plan).rows("test")
    sound = rows[~rows["commissioning"] & (rows["mode"] == "healthy") & (rows["severity"].astype(str) == "0")]
    run = sound.iloc[0]
    chosen: pd.DataFrame = rows[
        (rows["asset_id"] == run["asset_id"]) & (rows["commissioning"] | (rows["run_id"] == run["run_id"]))
    ].reset_index(drop=True)
    return chosen


def test_contributions_add_up_to_the_answer_less_that_at_the_reference(
    predictor: Predictor, healthy: pd.DataFrame
) -> None:
    windows = predictor.last_windows(healthy)
    found = contributions(predictor, windows, permutations=4, seed=1)
    assert predictor.normal is not None
    assert windows.commissioning is not None
    new = predictor.normal.as_new(windows)
    measured = [name for name in windows.sensors if name not in predictor.problem.derived]
    new = predictor.problem.with_derived(windows.sensors, new[:, : len(measured)])
    at_reference = predictor.table(type(windows).stacked(
        new[None], windows.sensors, windows.rows, commissioning=windows.commissioning
    ))  # fmt: skip
    answer = predictor.table(windows)
    assert set(found.sensors) == set(measured) - set(predictor.problem.conditions.names)
    for target in predictor.problem.targets:
        name = target.name
        if target.kind == "classes":
            name = f"{name}_p_{answer[name].iloc[0]}"
        assert found.moved[target.name].sum() == pytest.approx(answer[name].iloc[0] - at_reference[name].iloc[0])


def test_the_sensor_that_a_fault_is_planted_in_matters_most(predictor: Predictor, healthy: pd.DataFrame) -> None:
    vibration = next(name for name in predictor.sensors if name.startswith("vibration"))
    faulty = healthy.copy()
    faulty[vibration] = faulty[vibration].where(faulty["commissioning"], 4.0 * faulty[vibration])
    told = explain(predictor, faulty, top=1).set_index("target")
    assert told.loc["health_pct", "sensor"] == vibration
    assert told.loc["health_pct", "contribution"] < 0.0
    assert told.loc["health_pct", "value"] > 2.0 * told.loc["health_pct", "reference"]
    assert told.loc["health_pct", "unit"] == "mm/s"
    assert f"{vibration} shows" in told.loc["health_pct", "text"]


def test_an_instrument_of_coarse_steps_does_not_look_stuck_for_being_copied(
    predictor: Predictor, healthy: pd.DataFrame
) -> None:
    coarse = healthy.copy()
    place = np.arange(len(coarse)) // 12 % 2
    coarse["discharge_pressure_bar"] = np.where(coarse["commissioning"], 6.0 + 0.1 * place, 3.0)
    windows = predictor.last_windows(coarse)
    assert predictor.normal is not None
    assert predictor.normal.residuals(windows).known.all(), "it is not stuck in the window itself"
    found = contributions(predictor, windows, permutations=2, seed=1)
    pd.testing.assert_frame_equal(found.answers, predictor.table(windows))


def test_the_same_seed_gives_the_same_numbers_and_they_survive_storing(
    predictor: Predictor, healthy: pd.DataFrame, tmp_path: Path
) -> None:
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path)
    assert (loaded.usual, loaded.units) == (predictor.usual, predictor.units)
    once, again = (explain(each, healthy, permutations=2, seed=5) for each in (predictor, loaded))
    pd.testing.assert_frame_equal(once, again, check_exact=True)
    windows = predictor.last_windows(healthy)
    assert importance(predictor, windows, seed=1) == importance(loaded, windows, seed=1)


def test_a_training_run_keeps_what_matters_to_each_family(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUMP_ML_VAR", str(trained.home))
    client = registry.connect()
    for candidate in trained.candidates:
        stored = json.loads(Path(client.download_artifacts(candidate["run"], "importance.json")).read_text())
        assert set(stored) == {"severity", "mode", "rul_pct", "health_pct"}
        for of_sensors in stored.values():
            assert list(of_sensors.values()) == sorted(of_sensors.values(), reverse=True)
            assert max(of_sensors.values()) > 0.0
            assert "speed_rpm" not in of_sensors
        assert "plots/importance.png" in [each.path for each in client.list_artifacts(candidate["run"], "plots")]
