"""Every source, and every family on every problem, keeps what its protocol promises. Being listed means being here."""

import copy
import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from conftest import whole_rows, windows_of
from made_up import MADE_UP
from sqlalchemy import create_engine

from pump_ml import catalog, hyper, tuning, ways
from pump_ml.errors import DataError
from pump_ml.explanation import contributions
from pump_ml.models import Family, Predictor, load_predictor
from pump_ml.models.network import MAX_DIFFERENCE, NetworkPredictor, feed
from pump_ml.models.onnx_export import export
from pump_ml.problems import Problem, load_problem
from pump_ml.schema import KEYS, Sensor, Telemetry, Waveforms
from pump_ml.settings import Settings
from pump_ml.sources import Source, telemetry_table
from pump_ml.twin import sets
from pump_ml.twin.datasets import LABELS
from pump_ml.windows import Windows

QUICK: dict[str, dict[str, Any]] = {
    "baseline": {"trees": 10, "members": 3},
    "xgb": {"rounds": 8, "rate": 0.3, "patience": 3, "jobs": 1},
    "cnn1d": {"filters": 8, "dense": 8, "epochs": 2, "patience": 2},
    "cnn2d": {"filters": 2, "blocks": 2, "width": 8, "dense": 8, "bands": 8, "frame": 128, "hop": 64, "epochs": 2},
    "gru": {"units": 8, "dense": 8, "epochs": 2, "patience": 2},
}
"""Hyper-parameters with which a family learns little, fast."""
SAME = {"baseline": 0.0, "xgb": 0.0}
"""How far two fits with one seed may lie apart; networks add up in parallel, in no fixed order."""


# Sources


def _simulated(folder: Path) -> dict[str, Any]:
    del folder
    return {"pumps": 2, "samples": 2, "seed": 3}


def _files(folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    (folder / "a.csv").write_text("unit,cycle,p\n1,1,1.5\n1,2,\n2,1,2.5\n")
    mapping = {
        "name": "small",
        "format": {"kind": "csv"},
        "files": [{"pattern": "*.csv"}],
        "asset_id": "{unit}",
        "time": {"column": "cycle", "kind": "cycle"},
        "sensors": {"p_bar": {"column": "p", "unit": "bar"}},
        "labels": {"rul_cycles": {"derive": "cycles_to_last_row"}},
    }
    (folder / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    return {"mapping": folder / "mapping.yaml", "path": folder / "a.csv"}


def _sql(folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    url = f"sqlite:///{folder / 'telemetry.db'}"
    engine = create_engine(url)
    telemetry_table.create(engine)
    for machine in sets.fleet(3, 3):
        telemetry_table.append(engine, sets.simulate(machine, datetime(2026, 1, 1, tzinfo=UTC), 0.1, 3))
    return {"machines": ["MP-003", "MP-001"], "url": url}


OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {"simulated": _simulated, "files": _files, "sql": _sql}


@pytest.mark.parametrize("name", catalog.SOURCES)
def test_a_source_is_repeatable_and_gives_the_frame_that_everybody_passes(name: str, tmp_path: Path) -> None:
    made = catalog.load("source", catalog.SOURCES, name)
    source, again = (made(**OPTIONS[name](tmp_path / "source")) for _ in range(2))
    assert isinstance(source, Source)
    first, second = source.fetch(), again.fetch()
    pd.testing.assert_frame_equal(first.readings, second.readings)
    pd.testing.assert_frame_equal(first.readings, source.fetch().readings)
    assert first.origin == second.origin == source.origin()
    names = [sensor.name for sensor in first.sensors]
    assert set(first.readings) == {*KEYS, "commissioning", *names, *first.labels}
    assert {str(first.readings[sensor].dtype) for sensor in names} == {"float64"}
    assert not set(names) & set(first.labels)


# Families


def run_to_failure(problem: Problem) -> Telemetry:
    """Twelve machines of 40 to 62 cycles; some of the problem's sensors drift as they wear, the rest is noise."""
    rng = np.random.default_rng(5)
    assert problem.features is not None
    frames = []
    for number in range(12):
        length = 40 + 2 * number
        left = np.arange(length - 1, -1, -1.0)
        wear = np.exp(-left / 15.0)
        frame = {"asset_id": f"m{number:02d}", "run_id": f"m{number:02d}", "time": np.arange(1, length + 1)}
        for place, sensor in enumerate(problem.features):
            frame[sensor] = 100.0 + rng.normal(0.0, 1.0) + (place % 2) * 5.0 * wear + rng.normal(0.0, 0.2, length)
        frames.append(pd.DataFrame(frame | {"rul_cycles": left}))
    sensors = tuple(Sensor(name) for name in problem.features)
    readings = pd.concat(frames, ignore_index=True)
    # A tone that grows with wear, taken at each reading.
    wear = np.exp(-readings["rul_cycles"].to_numpy() / 15.0)[:, None, None]
    values = rng.normal(0.0, 1.0, (len(readings), 1, 512)) + 3.0 * wear * np.sin(0.7 * np.arange(512))
    waveforms = Waveforms(readings[list(KEYS)], values.astype(np.float32), (Sensor("end_g", "g_0"),), 1000.0)
    return Telemetry(readings, sensors, ("rul_cycles",), "telemetry", waveforms=waveforms)


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A family that has learnt a problem, and other machines to ask about."""

    family: Family
    problem: Problem
    train: Windows
    validation: Windows
    test: Windows
    readings: pd.DataFrame
    predictor: Predictor
    reports: list[tuple[int, dict[str, float]]]

    def fit(self, **changes: Any) -> Predictor:
        given = {"train": self.train, "validation": self.validation, **changes}
        return self.family.fit(
            given["train"], given["validation"], self.problem, seed=given.get("seed", 7), watch=lambda *_: None
        )


@pytest.fixture(scope="module", params=catalog.PROBLEMS)
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Problem, Telemetry]:
    problem = load_problem(request.param, Settings())
    if request.param == "rul":
        return problem, run_to_failure(problem)
    if request.param == "lives":
        return problem, whole_rows(tmp_path_factory.mktemp("lives"), dataset="v3", pumps=28, days=20, waveforms_h=24)
    if request.param in MADE_UP:
        made = MADE_UP[request.param](tmp_path_factory.mktemp(request.param))
        return ways.choose(problem, made.readings, [sensor.name for sensor in made.sensors]), made
    assert request.param == "diagnosis", "bring readings for the new problem"
    return problem, whole_rows(tmp_path_factory.mktemp("samples"), pumps=28, samples=8, waveforms_h=1)


@pytest.fixture(scope="module", params=catalog.FAMILIES)
def fitted(request: pytest.FixtureRequest, data: tuple[Problem, Telemetry]) -> Fitted:
    problem, telemetry = data
    family = catalog.load("family", catalog.FAMILIES, request.param)(**QUICK[request.param])
    assets = sorted(telemetry.readings["asset_id"].unique())
    cut = [0, len(assets) * 6 // 10, len(assets) * 8 // 10, len(assets)]
    train, validation, test = (windows_of(telemetry, problem, slice(a, b)) for a, b in pairwise(cut))
    reports: list[tuple[int, dict[str, float]]] = []
    predictor = family.fit(
        train, validation, problem, seed=7, watch=lambda step, values: reports.append((step, dict(values)))
    )
    readings = telemetry.readings[telemetry.readings["asset_id"].isin(assets[cut[2] :])]
    if family.inputs == "waveform":
        assert telemetry.waveforms is not None
        readings = telemetry.waveforms.in_cells(readings)
    return Fitted(family, problem, train, validation, test, readings, predictor, reports)


def test_a_family_is_its_frozen_hyper_parameters_and_names_what_it_needs(fitted: Fitted) -> None:
    assert isinstance(fitted.family, Family)
    assert catalog.FAMILIES[fitted.family.name].endswith(f":{type(fitted.family).__name__}")
    assert fitted.predictor.family == fitted.family.name
    assert isinstance(fitted.predictor, fitted.family.predictor)
    assert fitted.family.requires
    field = dataclasses.fields(fitted.family)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(fitted.family, field, 1)


@pytest.mark.parametrize("name", catalog.FAMILIES)
def test_the_space_of_a_family_bounds_its_own_values_and_those_of_the_presets(name: str) -> None:
    family = catalog.load("family", catalog.FAMILIES, name)
    assert set(family.space) <= {field.name for field in dataclasses.fields(family)}
    assert any(space.tuned for space in family.space.values())
    for preset in catalog.PRESETS:
        made = hyper.make(name, preset, {})
        assert {n: getattr(made, n) for n, space in family.space.items() if getattr(made, n) not in space} == {}


def test_a_family_fits_with_values_drawn_from_its_space(fitted: Fitted) -> None:
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3)).ask(
        {name: tuning.distribution(space) for name, space in fitted.family.space.items() if space.tuned}
    )
    assert {name for name, value in drawn.params.items() if value not in fitted.family.space[name]} == set()
    family = dataclasses.replace(fitted.family, **drawn.params)
    made = family.fit(fitted.train, fitted.validation, fitted.problem, seed=7, watch=lambda *_: None)
    assert len(made.predict(fitted.readings))


def test_every_target_is_answered_within_its_range(fitted: Fitted) -> None:
    answers = fitted.predictor.predict(fitted.readings)
    asked = fitted.readings.loc[~_recorded(fitted.readings)]
    if fitted.predictor.recording:  # a run whose last window has no usable waveform has no answer
        heard = asked.loc[asked[fitted.predictor.recording.channels[0].name].map(np.size) > 1, "run_id"]
        assert len(answers) > 0
        assert set(answers["run_id"]) <= set(heard)
        assert answers["run_id"].is_unique
    else:
        assert len(answers) == asked["run_id"].nunique()
    for target in fitted.problem.targets:
        if target.kind == "classes":
            probabilities = answers[[f"{target.name}_p_{name}" for name in target.classes]].to_numpy()
            assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
            assert (probabilities >= 0.0).all()
            chosen = probabilities[
                np.arange(len(answers)), [target.classes.index(each) for each in answers[target.name]]
            ]
            assert chosen == pytest.approx(probabilities.max(axis=1), abs=1e-9)
        else:
            values = answers[target.name].to_numpy()
            assert np.isfinite(values).all()
            assert (values >= (-np.inf if target.low is None else target.low)).all()
            assert (values <= (np.inf if target.high is None else target.high)).all()
            every = fitted.predictor.table(fitted.test)[target.name]  # at the ends of lives all may be alike
            assert np.ptp(every) > 0.0, "a constant is no answer"


def _recorded(readings: pd.DataFrame) -> Any:
    return readings["commissioning"] if "commissioning" in readings else pd.Series(False, index=readings.index)


def test_a_saved_predictor_comes_back_with_the_same_answers(fitted: Fitted, tmp_path: Path) -> None:
    fitted.predictor.save(tmp_path)
    loaded = load_predictor(tmp_path)
    assert (loaded.family, loaded.sensors, loaded.assets) == (
        fitted.predictor.family, fitted.predictor.sensors, fitted.predictor.assets,
    )  # fmt: skip
    assert loaded.problem == fitted.problem
    pd.testing.assert_frame_equal(loaded.table(fitted.test), fitted.predictor.table(fitted.test), check_exact=True)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pkl", ".pickle", ".joblib")]


def test_once_calibrated_it_says_how_sure_it_is_and_answers_the_same(fitted: Fitted, tmp_path: Path) -> None:
    predictor = copy.copy(fitted.predictor)
    before = predictor.table(fitted.test)
    predictor.calibrate(fitted.validation)
    after = predictor.table(fitted.test)
    once = predictor.calibration
    predictor.calibrate(fitted.validation)
    assert predictor.calibration == once
    for target in fitted.problem.targets:
        assert after[target.name].tolist() == before[target.name].tolist()
        if target.kind == "classes":
            probabilities = after[[f"{target.name}_p_{name}" for name in target.classes]].to_numpy()
            assert probabilities.sum(axis=1) == pytest.approx(1.0)
            assert after[target.name].tolist() == [target.classes[best] for best in probabilities.argmax(axis=1)]
        else:
            low, high = after[f"{target.name}_low"], after[f"{target.name}_high"]
            assert np.isfinite([low, high]).all()
            assert ((low <= after[target.name]) & (after[target.name] <= high)).all()
            assert (low >= (-np.inf if target.low is None else target.low)).all()
            assert (high <= (np.inf if target.high is None else target.high)).all()
            assert (high > low).all()
    assert set(fitted.validation.rows["asset_id"]) <= set(predictor.assets)
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path)
    assert loaded.calibration == once
    pd.testing.assert_frame_equal(loaded.table(fitted.test), after, check_exact=True)


def test_what_moved_an_answer_adds_up_to_it_and_names_no_condition(fitted: Fitted) -> None:
    predictor = copy.copy(fitted.predictor)
    predictor.remember(fitted.train, {})
    few = fitted.test.where(np.arange(len(fitted.test)) < 3)
    found, other = (contributions(predictor, few, permutations=2, seed=seed) for seed in (1, 2))
    measured = [name for name in predictor.sensors if name not in fitted.problem.derived]
    assert set(found.sensors) == set(measured) - set(fitted.problem.conditions.names)
    pd.testing.assert_frame_equal(found.answers, predictor.table(few), check_exact=False, atol=1e-5)
    at_reference = predictor.table(_at_reference(predictor, few))
    for target in fitted.problem.targets:
        if target.kind == "classes":
            columns = [f"{target.name}_p_{name}" for name in found.answers[target.name]]
        else:
            columns = [target.name] * len(few)
        answered, new = (
            np.array([table[column].iloc[row] for row, column in enumerate(columns)])
            for table in (found.answers, at_reference)
        )
        for moved in (found.moved[target.name], other.moved[target.name]):
            assert moved.sum(axis=1) == pytest.approx(answered - new, abs=1e-5)


def _at_reference(predictor: Predictor, windows: Windows) -> Windows:
    """The same windows, each of an asset of its own, where all sensors but the conditions show their reference."""
    names = [str(place) for place in range(len(windows))]
    records = windows.commissioning and {
        name: windows.commissioning[asset] for name, asset in zip(names, windows.rows["asset_id"], strict=True)
    }
    cut = Windows.stacked(windows.x, windows.sensors, windows.rows, commissioning=windows.commissioning)
    measured = [name for name in windows.sensors if name not in predictor.problem.derived]
    if predictor.normal:
        new = predictor.normal.as_new(cut)[:, : len(measured)]
    else:
        new = np.tile([predictor.usual[name] for name in measured], (len(cut.readings), 1))
    whole = predictor.problem.with_derived(windows.sensors, new).reshape(len(windows), windows.length, -1)
    asked = Windows.stacked(whole, windows.sensors, windows.rows.assign(asset_id=names), commissioning=records)
    return dataclasses.replace(asked, waveforms=windows.waveforms, taken=windows.taken)


def test_a_network_answers_test_windows_through_onnx_as_it_does_in_keras(fitted: Fitted, tmp_path: Path) -> None:
    predictor = fitted.predictor
    if not isinstance(predictor, NetworkPredictor):
        return
    import keras

    predictor.save(tmp_path)
    told = json.loads((tmp_path / "predictor.json").read_text())["state"]["onnx_difference"]
    assert 0.0 <= told == predictor.difference <= MAX_DIFFERENCE
    network = keras.saving.load_model(tmp_path / "network.keras", compile=False)
    every = slice(0, min(len(fitted.test), 512))
    given = feed(predictor.channels.steps(fitted.test), fitted.test, every, predictor.recording)
    stored = network.predict_on_batch(given)
    names = [target.name for target in fitted.problem.targets]
    for name, answered in zip(names, predictor.session.run(names, given), strict=True):
        assert np.abs(stored[name] - answered).max() <= MAX_DIFFERENCE


def test_a_network_whose_onnx_answers_otherwise_is_not_stored() -> None:
    """One that is written down otherwise each time: the graph that is exported is not the one that answered."""
    import keras

    class Fickle(keras.layers.Layer):
        written = 0

        def call(self, x: Any) -> Any:
            self.written += 1
            return x + 1e-3 * self.written

    def exported(layer: Any) -> tuple[bytes, float]:
        given = keras.Input((4,), name="readings")
        network = keras.Model({"readings": given}, {"wear": keras.layers.Dense(1, name="wear")(layer(given))})
        network.get_layer("wear").set_weights([np.ones((4, 1)), np.zeros(1)])
        return export(network, {"readings": np.ones((8, 4), dtype=np.float32)})

    with pytest.raises(DataError, match=r"answers otherwise than the one that learnt, by 0.00[0-9]+; expected"):
        exported(Fickle())
    content, difference = exported(keras.layers.Rescaling(2.0))
    assert content
    assert difference <= MAX_DIFFERENCE


def test_other_columns_and_the_order_of_rows_and_columns_do_not_matter(fitted: Fitted) -> None:
    needed = list(fitted.predictor.columns)
    labels = [target.name for target in fitted.problem.targets]
    answers = fitted.predictor.predict(fitted.readings[needed])
    others = [
        fitted.readings.assign(remark="x", **dict.fromkeys(labels, -1)),
        fitted.readings.sample(frac=1, random_state=1)[needed[::-1]],
    ]
    for readings in others:
        pd.testing.assert_frame_equal(fitted.predictor.predict(readings), answers, check_exact=True)


def test_arrays_are_answered_as_a_frame_is(fitted: Fitted) -> None:
    sensors = [name for name in fitted.predictor.sensors if name not in fitted.problem.derived]
    recorded = _recorded(fitted.readings)
    run = fitted.readings.loc[~recorded, "run_id"].iloc[-1]
    asked = fitted.readings[fitted.readings["run_id"] == run].sort_values("time")
    record = fitted.readings[recorded & (fitted.readings["asset_id"] == asked["asset_id"].iloc[0])].sort_values("time")
    asked = asked[~_recorded(asked)]
    readings, records = (np.stack([rows[sensors].to_numpy(dtype=np.float64)] * 2) for rows in (asked, record))
    if fitted.predictor.recording:
        with pytest.raises(DataError, match="looks at waveforms"):
            fitted.predictor.ask(readings, records)
        return
    predictor = copy.copy(fitted.predictor)
    predictor.calibrate(fitted.validation)
    expected = predictor.predict(pd.concat([record, asked])).drop(columns=list(KEYS))
    found = pd.DataFrame(predictor.ask(readings, records))
    pd.testing.assert_frame_equal(found, pd.concat([expected, expected], ignore_index=True), rtol=1e-5)
    with pytest.raises(DataError, match="are not finite"):
        predictor.ask(np.where(np.arange(len(sensors)) > 0, readings, np.nan), records)
    with pytest.raises(DataError, match=r"expected \(runs, readings, "):
        predictor.ask(readings[..., 1:], records)
    if fitted.problem.reference:
        with pytest.raises(DataError, match="its own record"):
            predictor.ask(readings)


def test_a_missing_sensor_and_a_reading_that_is_no_number_are_refused(fitted: Fitted) -> None:
    sensor = [name for name in fitted.predictor.sensors if name in fitted.readings][-1]
    with pytest.raises(DataError, match=f"readings lack {sensor}"):
        fitted.predictor.predict(fitted.readings.drop(columns=sensor))
    broken = fitted.readings.copy()
    broken.loc[broken.index[-1], sensor] = np.nan
    with pytest.raises(DataError, match=f"readings of {sensor} are not finite"):
        fitted.predictor.predict(broken)


def test_the_same_seed_gives_the_same_model_whatever_was_fitted_before(fitted: Fitted) -> None:
    again = fitted.fit()
    for target in fitted.problem.targets:
        one, other = (p.answer(fitted.test)[target.name] for p in (fitted.predictor, again))
        scale = max(float(np.ptp(one)), 1.0)
        assert np.abs(one - other).max() <= SAME.get(fitted.family.name, 1e-5) * scale


def test_the_assets_it_was_fitted_on_are_on_record(fitted: Fitted) -> None:
    known = set(fitted.predictor.assets)
    assert known >= set(fitted.train.rows["asset_id"])
    assert known <= {*fitted.train.rows["asset_id"], *fitted.validation.rows["asset_id"]}


def test_progress_rises_to_one_and_losses_are_finite(fitted: Fitted) -> None:
    progress = [values["progress"] for _, values in fitted.reports if "progress" in values]
    assert progress == sorted(progress)
    assert progress[-1] == pytest.approx(1.0)
    losses = [value for _, values in fitted.reports for name, value in values.items() if name != "progress"]
    assert np.isfinite(losses).all()
    assert all(isinstance(value, float) for _, values in fitted.reports for value in values.values())


def test_every_family_is_given_something_small_to_learn_with() -> None:
    assert set(QUICK) == set(catalog.FAMILIES)
    assert set(OPTIONS) == set(catalog.SOURCES)


def test_the_datasets_that_may_be_chosen_are_those_of_the_twin() -> None:
    assert set(catalog.DATASETS) == set(LABELS)
