"""One machine's telemetry becomes a published model that answers, or a clear outcome; its test part teaches nothing."""

import gc
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pump_ml import registry, steps
from pump_ml.connections import connect
from pump_ml.errors import ConfigurationError, DataError, SourceError, UnknownNameError
from pump_ml.machines import alarm, contest, forecast, records
from pump_ml.machines.alarm import NoFailuresError
from pump_ml.machines.policy import Policy, load_policy
from pump_ml.machines.preparation import Prepared, prepare
from pump_ml.machines.training import ModelFactory
from pump_ml.machines.usual import Usual
from pump_ml.settings import Settings
from pump_ml.sources import telemetry_table
from pump_ml.sources.plant import load_plant
from pump_ml.sources.sql import SqlSource
from pump_ml.twin import sets

DAYS = 10.0
START = datetime(2026, 3, 1, tzinfo=UTC)
PLANT = load_plant("processed_data")
MACHINE = sets.fleet(4, seed=5)[3]


def quick() -> Policy:
    """Learns little, fast."""
    policy = load_policy()
    return policy.model_copy(
        update={
            "forecast": policy.forecast.model_copy(update={"windows": 1500, "epochs": 2}),
            "alarm": policy.alarm.model_copy(update={"rounds": 40, "folds": 2}),
        }
    )


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return sets.simulate(MACHINE, START, DAYS, seed=5)


@pytest.fixture(scope="module")
def readings(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(columns={"timestamp": "time"}).drop(columns="motor_pump")


@pytest.fixture(scope="module")
def prepared(readings: pd.DataFrame) -> Prepared:
    return prepare(readings, PLANT.ranges, load_policy().preparation)


@pytest.fixture
def table(frame: pd.DataFrame, home: Path) -> Settings:
    """The machine's telemetry in the embedded table."""
    home.mkdir()
    settings = Settings.load()
    engine = connect(settings.telemetry, variable="PUMP_ML_TELEMETRY_URL", make=True)
    telemetry_table.create(engine)
    telemetry_table.append(engine, frame)
    return settings


# The forecast


@pytest.fixture(scope="module")
def forecaster(prepared: Prepared) -> forecast.ForecastModel:
    policy = quick()
    return forecast.fit_forecast(prepared, policy.forecast, policy.health, seed=3)


def test_the_parts_of_a_forecast_are_in_order_of_time_with_a_gap_of_a_window_and_its_horizon(
    prepared: Prepared,
) -> None:
    policy = load_policy().forecast
    works = np.ones(len(prepared), dtype=bool)
    parts, cut = forecast.divide(prepared, works, policy, prepared.sensors), int(forecast.cuts(works, policy)[0])
    span = policy.sequence_length + policy.horizon
    assert parts.train.max() + span <= cut
    assert parts.validation.min() >= parts.train.max() + 2 * span - 1
    assert parts.test.min() >= parts.validation.max() + 2 * span - 1


def test_scaler_and_norms_are_those_of_the_training_part(
    prepared: Prepared, forecaster: forecast.ForecastModel
) -> None:
    policy = quick()
    later = prepared.seconds >= forecaster.test_from
    values = prepared.values.copy()
    values[later] = np.where(np.isfinite(values[later]), 1.05 * values[later], np.nan)
    names = list(prepared.sensors)
    values[later, names.index("running")] = prepared.values[later, names.index("running")]
    changed = Prepared(prepared.times, values, prepared.sensors, prepared.stretch)
    again = forecast.fit_forecast(changed, policy.forecast, policy.health, seed=3)
    np.testing.assert_array_equal(again.scaler.data_max_, forecaster.scaler.data_max_)
    assert again.health == forecaster.health
    assert again.spread == forecaster.spread


def test_a_forecast_is_measured_against_persistence_and_ridge_and_the_skill_is_their_ratio(
    forecaster: forecast.ForecastModel,
) -> None:
    found = forecaster.metrics
    for reference in ("persistence", "ridge"):
        ratio = found["rmse"] ** 2 / found[f"{reference}_rmse"] ** 2
        assert found[f"skill_over_{reference}"] == pytest.approx(1.0 - ratio)
    assert forecaster.gate()[0] == (found["skill_over_persistence"] > 0.0)


def test_a_forecast_that_does_not_beat_persistence_may_not_lead_and_says_so(
    forecaster: forecast.ForecastModel,
) -> None:
    worse = forecast.ForecastModel(
        **{**vars(forecaster), "metrics": {**forecaster.metrics, "skill_over_persistence": -0.1}}
    )
    may_lead, reason = worse.gate()
    assert not may_lead
    assert "does not beat persistence on its test part: skill -0.100, expected above 0" in reason


def test_one_machine_after_another_learns_as_if_it_were_the_first(
    prepared: Prepared, forecaster: forecast.ForecastModel
) -> None:
    policy = quick()
    before = forecaster.metrics["rmse"]
    other = forecast.fit_forecast(prepared, policy.forecast, policy.health, seed=4)
    again = forecast.fit_forecast(prepared, policy.forecast, policy.health, seed=3)
    assert other.metrics["rmse"] != before
    assert again.metrics["rmse"] == pytest.approx(before, rel=1e-4)


def test_a_million_readings_are_learnt_from_in_less_than_twice_their_memory(prepared: Prepared) -> None:
    count = 1_000_000
    rng = np.random.default_rng(0)
    wanted = ("Oil_P", "Oil_L", "Recalque", "Succao", "running", "Eng_RPM")
    sensors = (*wanted, *[name for name in prepared.sensors if name not in wanted][:6])
    values = 5.0 + np.cumsum(rng.normal(scale=0.01, size=(count, len(sensors))), axis=0)
    values[:, sensors.index("running")] = 1.0
    values[:, sensors.index("Eng_RPM")] = 1800.0
    times = np.datetime64("2026-01-01", "ns") + 8 * np.arange(count) * np.timedelta64(1, "s")
    long = Prepared(times, values, sensors, np.zeros(count, dtype=np.int64))
    policy = load_policy()
    few = policy.forecast.model_copy(update={"epochs": 1, "windows": 500})
    tracemalloc.start()
    try:
        forecast.fit_forecast(long, few, policy.health, seed=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert values.nbytes + peak < 2.0 * values.nbytes


def test_readings_that_a_forecast_learnt_from_do_not_stay_in_memory(prepared: Prepared) -> None:
    policy = load_policy()
    few = policy.forecast.model_copy(update={"epochs": 1, "windows": 100})
    forecast.fit_forecast(prepared, few, policy.health, seed=3)  # what a first training makes for all later ones
    tracemalloc.start()
    try:
        for _ in range(3):
            forecast.fit_forecast(prepared, few, policy.health, seed=3)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 0.5 * prepared.values.nbytes


def test_too_short_a_period_names_the_part_that_has_no_window(readings: pd.DataFrame) -> None:
    running = readings[readings["running"] == 1.0].head(150)
    short = prepare(running, PLANT.ranges, load_policy().preparation)
    with pytest.raises(DataError, match="part has no window"):
        forecast.fit_forecast(short, load_policy().forecast, load_policy().health, seed=1)


def without(prepared: Prepared, sensor: str, rows: slice) -> Prepared:
    """The readings with one sensor dead for a while."""
    values = prepared.values.copy()
    values[rows, prepared.sensors.index(sensor)] = np.nan
    return Prepared(prepared.times, values, prepared.sensors, prepared.stretch)


def test_a_sensor_that_is_dead_in_the_training_part_is_left_out_of_a_forecast(prepared: Prepared) -> None:
    policy = quick()
    dead = without(prepared, "Exaust", slice(0, len(prepared) // 2))
    found = forecast.fit_forecast(dead, policy.forecast, policy.health, seed=3)
    assert "Exaust" not in found.sensors
    assert "Oil_P" in found.sensors


def test_a_sensor_that_dies_later_does_not_move_the_parts_but_is_named(prepared: Prepared) -> None:
    policy = quick()
    dead = without(prepared, "Exaust", slice(int(0.75 * len(prepared)), None))
    with pytest.raises(DataError, match=r"the (validation|test) part has no window.*missing most is Exaust"):
        forecast.fit_forecast(dead, policy.forecast, policy.health, seed=3)


# The alarm


@pytest.fixture(scope="module")
def warner(prepared: Prepared) -> alarm.AlarmModel:
    return alarm.fit_alarm(prepared, quick().alarm, PLANT.limits, seed=3)


def test_an_alarm_tells_rows_before_a_trip_from_others(warner: alarm.AlarmModel) -> None:
    found = warner.metrics
    known = found["auc"] if np.isfinite(found["auc"]) else found["held_out_auc"]
    assert known > 0.7
    assert 0.0 < warner.threshold <= 1.0
    assert warner.gate()[0]


def test_what_comes_later_changes_no_answer(prepared: Prepared, warner: alarm.AlarmModel) -> None:
    half = len(prepared) // 2
    early = Prepared(prepared.times[:half], prepared.values[:half], prepared.sensors, prepared.stretch[:half])
    every = load_policy().alarm.every_s
    all_of_it, cut = (alarm.observe(each, every) for each in (prepared, early))
    known = len(cut.at)
    np.testing.assert_array_equal(all_of_it.at[:known], cut.at)
    whole, names = warner.usual.features(all_of_it)
    part, _ = warner.usual.features(cut)
    np.testing.assert_allclose(whole[:known], part, rtol=1e-3, atol=1e-3)
    assert whole.shape[1] == len(names)


def test_after_a_gap_the_machine_counts_as_warm_as_it_is(prepared: Prepared, warner: alarm.AlarmModel) -> None:
    running = prepared.column("minutes_running")
    late = int(np.flatnonzero(running > 300)[50])
    short = Prepared(
        prepared.times[late:],
        prepared.values[late:],
        prepared.sensors,
        prepared.stretch[late:] - prepared.stretch[late],
    )
    every = load_policy().alarm.every_s
    whole, part = (alarm.observe(each, every) for each in (prepared, short))
    after = part.at[0] + 3600.0
    told = []
    for each in (whole, part):
        features, names = warner.usual.features(each)
        here = np.flatnonzero(each.at >= after)[:20]
        told.append(features[here, names.index("level_together")].mean())
    assert told[0] == pytest.approx(told[1], rel=0.25, abs=1.0)


def test_a_sensor_that_does_not_move_says_nothing(prepared: Prepared) -> None:
    values = prepared.values.copy()
    values[:, prepared.sensors.index("Char_V")] = 28.0
    still = Prepared(prepared.times, values, prepared.sensors, prepared.stretch)
    found = alarm.fit_alarm(still, quick().alarm, PLANT.limits, seed=3)
    assert "Char_V" not in found.usual.sensors
    features, names = found.usual.features(alarm.observe(still, 30.0))
    assert np.median(features[:, names.index("level_largest")]) < 10.0


def test_an_engine_that_hunts_is_further_from_its_usual_self(prepared: Prepared, warner: alarm.AlarmModel) -> None:
    values = prepared.values.copy()
    turns = prepared.column("running") >= 0.5
    values[turns, prepared.sensors.index("Eng_RPM")] *= 1.0 + 0.02 * np.where(np.arange(turns.sum()) % 2, 1.0, -1.0)
    hunting = Prepared(prepared.times, values, prepared.sensors, prepared.stretch)
    told = []
    for each in (prepared, hunting):
        features, names = warner.usual.features(alarm.observe(each, 30.0))
        told.append(np.median(features[:, names.index("level_alone_largest")]))
    assert told[1] > 3.0 * told[0]


def test_a_level_that_jumps_at_each_filling_is_nothing_unusual(prepared: Prepared) -> None:
    values = prepared.values.copy()
    used = (prepared.seconds - prepared.seconds[0]) / 600.0 % 40.0  # filled each 6.7 hours
    values[:, prepared.sensors.index("Fuel_L")] = 95.0 - used
    filled = alarm.observe(Prepared(prepared.times, values, prepared.sensors, prepared.stretch), 30.0)
    usual = Usual.fit(filled, np.ones(len(filled.at), dtype=np.bool_), PLANT.limits)
    features, names = usual.features(filled)
    change = features[:, names.index("change_largest")]
    warm = filled.since_min > 150.0
    since = (filled.at - prepared.seconds[0]) % 24000.0
    after = warm & (since > 180.0) & (since < 900.0)
    assert np.median(change[after]) < 1.5 * np.median(change[warm & ~after])


def test_no_machine_is_safer_for_being_further_from_its_usual_self(
    prepared: Prepared, warner: alarm.AlarmModel
) -> None:
    features, names = warner.usual.features(alarm.observe(prepared, 30.0))
    told = alarm.answers(warner.booster, features, names)
    for name, more in (("level_together", 5.0), ("margin_least", -0.2)):
        worse = features.copy()
        worse[:, names.index(name)] += more
        assert (alarm.answers(warner.booster, worse, names) >= told - 1e-6).all()


def test_near_misses_do_not_silence_an_alarm() -> None:
    """Three false alarms in three weeks are dear, but a threshold that warns of nothing is dearer."""
    at = np.arange(0.0, 21 * 86400.0, 30.0)
    trips_at = np.array([3.0, 8.0, 13.0, 18.0]) * 86400.0
    probability = np.full(len(at), 0.01)
    for trip in trips_at:
        probability[(at > trip - 1800.0) & (at <= trip)] = 0.8
    for miss in np.array([5.0, 10.0, 15.0]) * 86400.0:
        probability[(at > miss) & (at <= miss + 1200.0)] = 0.9
    rows = alarm.Rows(at, np.zeros(len(at), dtype=np.int64), np.empty((len(at), 0), dtype=np.float32), (), trips_at)
    threshold = alarm.cheapest_threshold(rows, probability, load_policy().alarm)
    found = alarm.judge(rows, probability, threshold, load_policy().alarm)
    assert (found["trips_caught"], found["false_alarms"]) == (4.0, 3.0)


def test_of_thresholds_that_a_single_false_alarm_tells_apart_the_one_of_the_better_f1_is_taken() -> None:
    at = np.arange(0.0, 21 * 86400.0, 30.0)
    trips_at = np.array([3.0, 8.0, 13.0, 18.0]) * 86400.0
    probability = np.full(len(at), 0.01)
    for trip in trips_at:
        before = (at > trip - 1800.0) & (at <= trip)
        probability[before] = 0.9 - 0.4 * (trip - at[before]) / 1800.0
    probability[(at > 5.0 * 86400.0) & (at <= 5.0 * 86400.0 + 1200.0)] = 0.7
    rows = alarm.Rows(at, np.zeros(len(at), dtype=np.int64), np.empty((len(at), 0), dtype=np.float32), (), trips_at)
    policy = load_policy().alarm
    found = alarm.judge(rows, probability, alarm.cheapest_threshold(rows, probability, policy), policy)
    without = alarm.judge(rows, probability, 0.72, policy)
    assert (without["trips_caught"], without["false_alarms"]) == (4.0, 0.0)
    assert (found["trips_caught"], found["false_alarms"]) == (4.0, 1.0)
    assert found["f1"] > without["f1"]


def test_the_test_part_teaches_neither_trees_nor_threshold(prepared: Prepared, warner: alarm.AlarmModel) -> None:
    later = prepared.seconds >= warner.test_from
    values = prepared.values.copy()
    column = list(prepared.sensors).index("Oil_P")
    values[later, column] *= 1.3
    changed = Prepared(prepared.times, values, prepared.sensors, prepared.stretch)
    again = alarm.fit_alarm(changed, quick().alarm, PLANT.limits, seed=3)
    assert again.threshold == warner.threshold
    assert again.booster.save_raw("json") == warner.booster.save_raw("json")


def test_a_period_without_failures_is_an_outcome_and_no_model(readings: pd.DataFrame) -> None:
    fell = sets.history(MACHINE, START, DAYS, seed=5)
    first = min(each.trip_s for each in fell if each.trip_s is not None)
    calm = readings[readings["time"] < START + pd.Timedelta(seconds=first - 60.0)]
    with pytest.raises(NoFailuresError, match="no failures to learn from: 0 trips"):
        alarm.fit_alarm(prepare(calm, PLANT.ranges, load_policy().preparation), quick().alarm, PLANT.limits, seed=1)


# From the table to the champion


def test_a_trained_alarm_is_published_answers_and_is_not_trained_again(table: Settings, readings: pd.DataFrame) -> None:
    factory = ModelFactory("xgb", MACHINE.name, run_key="test/one", policy=quick())
    made = factory.train()
    assert made.outcome == "trained"
    assert made.model is not None
    assert made.model.promoted
    assert made.reason == "the first that may lead"
    assert records.find("test/one", table) == made.model
    registry.connect(table)
    told = registry.load_model(f"machine-{MACHINE.name}-xgb", "champion").predict(readings)
    answered = contest.load(made.model, table).predict(readings)
    pd.testing.assert_frame_equal(told, answered)
    assert 0.0 <= answered["trip_probability"].item() <= 1.0
    again = ModelFactory("xgb", MACHINE.name, run_key="test/one", policy=quick()).train()
    assert (again.outcome, again.model) == ("published before", made.model)


def test_a_model_that_is_not_better_on_the_same_rows_does_not_take_the_champions_place(table: Settings) -> None:
    first = ModelFactory("xgb", MACHINE.name, run_key="test/one", policy=quick()).train()
    same = ModelFactory("xgb", MACHINE.name, run_key="test/two", policy=quick()).train()
    assert same.model is not None
    assert not same.model.promoted
    assert "not better than the champion" in same.reason
    champion = registry.machine_champion(registry.connect(table), f"machine-{MACHINE.name}-xgb")
    assert champion is not None
    assert first.model is not None
    assert champion.version == first.model.model_version


def test_a_trained_forecast_is_published_and_answers_what_it_answered_in_training(
    table: Settings, readings: pd.DataFrame
) -> None:
    told = steps.train_machine(
        MACHINE.name, "gru", "test/gru", policy=str(_written(quick(), table.home / "quick.yaml"))
    )
    assert told["outcome"] == "trained"
    assert told["metrics"]["test_windows"] > 100
    stored = records.find("test/gru", table)
    assert stored is not None
    loaded = contest.load(stored, table)
    since = (START + pd.Timedelta(days=8.5)).timestamp()
    skill = contest.measure(loaded, readings, since)
    assert -2.0 < skill < 1.0
    answer = loaded.predict(readings)
    assert answer["horizon_s"].item() == pytest.approx(60 * MACHINE.interval_s, rel=0.05)
    assert 0.0 <= answer["health"].item() <= 1.0


def _written(policy: Policy, path: Path) -> Path:
    path.write_text(policy.model_dump_json())  # JSON is YAML
    return path


@pytest.mark.usefixtures("table")
def test_a_key_is_of_one_model_and_holds_no_quotes() -> None:
    ModelFactory("xgb", MACHINE.name, run_key="test/one", policy=quick()).train()
    with pytest.raises(ConfigurationError, match=f"is of the model xgb of machine '{MACHINE.name}'"):
        ModelFactory("gru", MACHINE.name, run_key="test/one", policy=quick()).train()
    with pytest.raises(ConfigurationError, match="expected one without quotes"):
        ModelFactory("gru", "Bomba d'agua", run_key="Bomba d'agua")
    assert "'" not in ModelFactory("gru", "Bomba d'agua").run_key


def test_a_champion_that_cannot_be_used_any_more_is_replaced(table: Settings, readings: pd.DataFrame) -> None:
    made = ModelFactory("xgb", MACHINE.name, run_key="test/one", policy=quick()).train()
    assert made.model is not None
    answerer = contest.load(made.model, table)
    gone = replace(made.model, files={**made.model.files, "booster": replace(made.model.files["about"])})
    promoted, reason = contest.better(lambda: answerer, gone, readings, 0.0, table)
    assert promoted
    assert "the champion cannot be used any more" in reason


def test_a_model_is_asked_with_text_for_times_and_refuses_those_without_a_zone(
    table: Settings, readings: pd.DataFrame
) -> None:
    made = ModelFactory("xgb", MACHINE.name, run_key="test/one", policy=quick()).train()
    assert made.model is not None
    model = contest.load(made.model, table)
    last = readings.tail(2000)
    text = last.assign(time=last["time"].map(lambda time: time.isoformat()))
    pd.testing.assert_frame_equal(model.predict(text), model.predict(last))
    with pytest.raises(DataError, match="has no zone"):
        model.predict(last.assign(time=last["time"].dt.tz_localize(None)))


def test_a_kind_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(UnknownNameError, match="unknown kind of machine model 'cnn'; known: gru, xgb"):
        ModelFactory("cnn", "MP-001")


@pytest.mark.parametrize("name", ["MP-999", "MP-001'; DROP TABLE processed_data; --"])
def test_a_machine_that_is_not_there_is_named_and_nothing_happens_to_the_table(table: Settings, name: str) -> None:
    with pytest.raises(SourceError, match="MP-"):
        ModelFactory("xgb", name, policy=quick()).train()
    assert len(SqlSource(machines=[MACHINE.name]).fetch().readings) > 1000
    assert list(records.every(table)) == []
