"""The telemetry of motor pump sets: trips are trips, stops are stops, and dirt can be switched off."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from pump_ml.errors import ConfigurationError
from pump_ml.twin import set_physics, sets
from pump_ml.twin.set_events import CAUSES, STANDS_MIN, Disturbance, draw
from pump_ml.twin.set_readings import CLEAN, COLUMNS, DIRTY, SPIKE, Dirt

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 30.0
FLEET = sets.fleet(5, 7)


@pytest.fixture(scope="module", params=[0, 2, 4], ids=["diesel", "electric", "analogue inputs"])
def machine(request: pytest.FixtureRequest) -> sets.MotorPumpSet:
    return FLEET[request.param]


@pytest.fixture(scope="module")
def frame(machine: sets.MotorPumpSet) -> pd.DataFrame:
    return sets.simulate(machine, START, DAYS, 7, CLEAN)


@pytest.fixture(scope="module")
def history(machine: sets.MotorPumpSet) -> tuple[Disturbance, ...]:
    return sets.history(machine, START, DAYS, 7)


def seconds(frame: pd.DataFrame) -> np.ndarray:
    return (frame["timestamp"] - START).dt.total_seconds().to_numpy()


def falls(frame: pd.DataFrame) -> np.ndarray:
    """Rows in which the speed is at least 70 % below that of the row before."""
    speed = frame["Eng_RPM"].to_numpy()
    return np.flatnonzero((speed[:-1] > 300.0) & (speed[1:] <= 0.3 * speed[:-1])) + 1


def trips(frame: pd.DataFrame) -> np.ndarray:
    rows = falls(frame)
    return rows[frame["running"].to_numpy()[rows] == 1.0]


def test_the_frame_has_the_plants_columns(frame: pd.DataFrame, machine: sets.MotorPumpSet) -> None:
    assert list(frame) == ["timestamp", "motor_pump", *COLUMNS]
    assert str(frame["timestamp"].dtype) == "datetime64[us, UTC]"
    assert frame["timestamp"].is_monotonic_increasing
    assert set(frame["motor_pump"]) == {machine.name}
    assert {str(frame[name].dtype) for name in COLUMNS} == {"float64"}
    empty = set(frame.columns[frame.isna().all()])
    engine = set(sets.ENGINE_ONLY) if machine.drive == "electric" else set()
    pressures = {"Recalque", "Succao"} if machine.flexible else {"FlexAnalogue4_1", "FlexAnalogue4_2"}
    assert empty == engine | pressures
    assert frame.drop(columns=list(empty)).notna().all(axis=None)


def test_the_same_arguments_give_the_same_rows_and_others_give_others() -> None:
    machine = FLEET[0]
    first = sets.simulate(machine, START, 2.0, 7)
    pd.testing.assert_frame_equal(first, sets.simulate(machine, START, 2.0, 7), check_exact=True)
    assert not first.equals(sets.simulate(machine, START, 2.0, 8))
    assert not first.equals(sets.simulate(FLEET[1], START, 2.0, 7))
    later = sets.simulate(machine, datetime(2026, 4, 1, tzinfo=UTC), 2.0, 7)
    assert not np.array_equal(first["Oil_P"].head(100), later["Oil_P"].head(100))


def test_a_larger_fleet_begins_with_the_smaller_one() -> None:
    assert sets.fleet(2, 7) == FLEET[:2]
    assert sets.fleet(2, 8) != FLEET[:2]


def test_machines_run_about_70_percent_of_the_time() -> None:
    shares = [sets.simulate(each, START, DAYS, 7, CLEAN)["running"].mean() for each in FLEET]
    assert 0.6 < np.mean(shares) < 0.8


def test_each_trip_is_a_fall_of_the_speed_while_the_controller_says_running(
    frame: pd.DataFrame, history: tuple[Disturbance, ...]
) -> None:
    known = [each.trip_s for each in history if each.trip_s is not None]
    found = seconds(frame)[trips(frame)]
    assert 8 <= len(known) <= 16
    np.testing.assert_allclose(found, known, atol=1e-3)


def test_a_commanded_stop_is_a_fall_of_the_speed_without_running(frame: pd.DataFrame) -> None:
    stops = set(falls(frame)) - set(trips(frame))
    running = frame["running"].to_numpy()
    assert len(stops) > 20
    assert {running[row] for row in stops} == {0.0}


def test_after_a_trip_the_controller_notices_some_rows_later_and_the_set_stands_still(
    frame: pd.DataFrame, history: tuple[Disturbance, ...], machine: sets.MotorPumpSet
) -> None:
    running, speed = frame["running"].to_numpy(), frame["Eng_RPM"].to_numpy()
    for row in trips(frame):
        after = running[row : row + 20]
        assert 2 <= int((after == 0.0).argmax()) <= 12
        least = int(STANDS_MIN[0] * 60.0 / machine.interval_s) - 2
        assert (speed[row : row + least] == 0.0).all()
    assert all(STANDS_MIN[0] <= each.stands_s / 60.0 <= STANDS_MIN[1] for each in history)


def test_a_trip_comes_when_what_grew_reaches_the_protections_threshold() -> None:
    seen = set()
    for machine in FLEET:
        frame, pump = sets.simulate(machine, START, DAYS, 7, CLEAN), machine
        suction = "FlexAnalogue4_2" if pump.flexible else "Succao"
        at = seconds(frame)
        for each in sets.history(pump, START, DAYS, 7):
            if each.trip_s is None or each.cause == "sudden":
                continue
            row = int(np.searchsorted(at, each.trip_s - 1e-3))
            last = frame.iloc[row - 3 : row].mean(numeric_only=True)
            near = {
                "oil": last["Oil_P"] < set_physics.OIL_LOW_BAR + 0.5,
                "cooling": last["Oil_T" if pump.drive == "electric" else "Cool_T"] > set_physics.HOT_C - 4.0,
                "suction": last[suction] < set_physics.PRIME_BAR + 0.08,
                "fuel": frame["Eng_RPM"].iloc[row - 12 : row].diff().std() > 0.01 * pump.rated_rpm,  # it hunts
                "charging": last["Bat_V"] < set_physics.BATTERY_V + 0.7,
            }
            assert near[each.cause], each
            assert 0.5 < (each.trip_s - each.onset_s) / each.grows_s < 1.4
            seen.add(each.cause)
    assert seen == set(CAUSES["diesel"])


def test_a_near_miss_ends_without_a_trip_and_leaves_no_trace(
    frame: pd.DataFrame, history: tuple[Disturbance, ...]
) -> None:
    at, fell = seconds(frame), seconds(frame)[trips(frame)]
    misses = [each for each in history if each.near_miss]
    assert misses
    for each in misses:
        assert 0.3 <= each.peak <= 0.7
        assert not ((fell >= each.onset_s) & (fell < each.over_s)).any()
        grown = each.growth(at)
        assert grown.max() == pytest.approx(each.peak, abs=0.06)
        assert grown[at >= each.over_s].max() == 0.0


def test_nothing_is_seen_of_a_disturbance_before_it_begins() -> None:
    each = Disturbance("oil", 1000.0, 1800.0, 2.0, 1.0, 3600.0, trip_s=2800.0)
    at = np.arange(0.0, 8000.0, 10.0)
    grown = each.growth(at)
    assert (grown[at <= 1000.0] == 0.0).all()
    assert (np.diff(grown[(at >= 1000.0) & (at <= 2800.0)]) > 0.0).all()
    assert (grown[at >= each.over_s] == 0.0).all()


def test_how_often_what_happens_is_as_the_docstring_says() -> None:
    drawn = [
        each
        for seed in range(300)
        for each in draw("diesel", "oil", 12.0, 30.0, [(0.0, 30 * 86400.0)], np.random.default_rng(seed))
    ]
    fatal = [each for each in drawn if not each.near_miss]
    assert len(fatal) / 300 == pytest.approx(12.0)
    assert (len(drawn) - len(fatal)) / len(fatal) == pytest.approx(1 / 3, abs=0.02)
    assert np.mean([each.cause == "sudden" for each in fatal]) == pytest.approx(1 / 12, abs=0.02)
    minutes = np.array([each.grows_s for each in drawn]) / 60.0
    assert minutes.min() >= 45.0
    assert minutes.max() <= 180.0
    assert np.median(minutes) == pytest.approx(90.0, abs=4.0)
    signs = [each.cause for each in drawn if each.cause != "sudden"]
    assert np.mean([cause == "oil" for cause in signs]) == pytest.approx(0.7, abs=0.02)
    assert {each.cause for each in drawn} == {*CAUSES["diesel"], "sudden"}


def test_the_sensors_follow_the_physics(frame: pd.DataFrame, machine: sets.MotorPumpSet) -> None:
    discharge, suction = ("FlexAnalogue4_1", "FlexAnalogue4_2") if machine.flexible else ("Recalque", "Succao")
    head = (frame[discharge] - frame[suction]) * set_physics.BAR_M
    np.testing.assert_allclose(frame["Hydraulic_Head"], head, atol=0.006)
    steady = frame[(frame["running"] == 1.0) & (frame["minutes_running"] > 60)]
    assert steady[suction].between(-0.6, 0.25).mean() > 0.999
    assert steady["Oil_P"].median() > 2.0
    if machine.variable:
        assert np.corrcoef(steady["Eng_RPM"], steady["Hydraulic_Head"])[0, 1] > 0.7
    if machine.drive == "diesel":
        cold = frame[(frame["running"] == 1.0) & (frame["minutes_running"] < 2)]
        assert cold["Oil_T"].median() < steady["Oil_T"].median() - 10.0
        assert np.corrcoef(steady["Fuel_Con"], steady["Exaust"])[0, 1] > 0.7
    standing = frame[frame["running"] == 0.0]
    assert (standing["minutes_running"] == 0.0).all()
    assert (standing["Eng_RPM"] < 100.0).mean() > 0.99


def test_what_comes_is_partly_told_by_what_was() -> None:
    machine = FLEET[0]
    frame = sets.simulate(machine, START, 10.0, 7, CLEAN)
    steady = frame["Fuel_Con"].where((frame["running"] == 1.0) & (frame["minutes_running"] > 60))
    ahead = round(300.0 / machine.interval_s)
    assert steady.corr(steady.shift(ahead)) > 0.5
    assert steady.corr(steady.shift(ahead)) < 0.999


def test_a_set_empties_its_sump_fast_and_lets_it_fill_while_it_works_slowly() -> None:
    machine = FLEET[0]
    frame = sets.simulate(machine, START, 10.0, 7, CLEAN)
    speed = frame["Eng_RPM"] / machine.rated_rpm
    steady = (frame["running"] == 1.0) & (frame["minutes_running"] > 60)
    assert (steady & speed.between(0.90, 0.95)).sum() < 0.1 * steady.sum()  # it has two speeds
    minutes = round(180.0 / machine.interval_s)
    rise = frame["Succao"].rolling(minutes).mean().diff(minutes)
    for fast, sign in ((True, -1.0), (False, 1.0)):
        here = steady & ((speed > 0.95) if fast else speed.between(0.8, 0.9))
        stays = here.rolling(2 * minutes).sum() == 2 * minutes
        assert (sign * rise[stays]).median() > 0.0


def test_a_set_of_fixed_speed_opens_a_valve_instead() -> None:
    machine = replace(FLEET[2], variable=False)
    frame = sets.simulate(machine, START, 3.0, 7, CLEAN)
    steady = frame[(frame["running"] == 1.0) & (frame["minutes_running"] > 60)]
    low, high = steady["Eng_RPM"].quantile([0.05, 0.95])
    assert high - low < 0.01 * machine.rated_rpm
    head = steady["Hydraulic_Head"]
    assert head.quantile(0.9) > 1.03 * head.quantile(0.1)


@pytest.fixture(scope="module")
def clean() -> pd.DataFrame:
    return sets.simulate(FLEET[0], START, 14.0, 7, CLEAN)


def soiled(**kind: float) -> pd.DataFrame:
    return sets.simulate(FLEET[0], START, 14.0, 7, replace(CLEAN, **kind))


def test_without_dirt_rows_come_at_their_interval_and_are_finite(clean: pd.DataFrame) -> None:
    assert len(clean) == int(14.0 * 86400.0 / FLEET[0].interval_s)
    assert clean["timestamp"].diff().dt.total_seconds().max() < 1.3 * FLEET[0].interval_s
    numbers = clean[list(COLUMNS)]
    assert (numbers.isna() | np.isfinite(numbers)).all(axis=None)
    assert numbers.abs().max(axis=None) < SPIKE / 2


@pytest.mark.parametrize("kind", ["missing", "spikes", "infinite"])
def test_cells_are_spoilt_at_the_stated_rate(kind: str, clean: pd.DataFrame) -> None:
    rate = 1e-3
    found = soiled(**{kind: rate})
    there = [name for name in COLUMNS if clean[name].notna().any() and name not in ("running", "minutes_running")]
    cells = found[there].to_numpy()
    spoilt = {"missing": np.isnan(cells), "spikes": np.abs(cells) == SPIKE, "infinite": np.isinf(cells)}[kind]
    assert spoilt.mean() == pytest.approx(rate, rel=0.1)
    np.testing.assert_array_equal(cells[~spoilt], clean[there].to_numpy()[~spoilt])


def test_gaps_and_doubled_and_late_rows_change_no_row(clean: pd.DataFrame) -> None:
    gaps = soiled(gaps=20.0)
    assert gaps["timestamp"].isin(clean["timestamp"]).all()
    missing = gaps["timestamp"].diff().dt.total_seconds().gt(90.0)
    assert 20 <= missing.sum() <= 60
    doubled = soiled(duplicates=0.01)
    assert doubled.duplicated().mean() == pytest.approx(0.01, rel=0.25)
    pd.testing.assert_frame_equal(doubled.drop_duplicates(ignore_index=True), clean)
    late = soiled(swapped=0.01)
    assert (late["timestamp"].diff().dt.total_seconds() < 0.0).mean() == pytest.approx(0.01, rel=0.25)
    pd.testing.assert_frame_equal(late.sort_values("timestamp", ignore_index=True), clean)


def test_a_stuck_sensor_repeats_its_value_for_minutes(clean: pd.DataFrame) -> None:
    found = soiled(stuck=30.0)
    changed = (found[list(COLUMNS)] != clean[list(COLUMNS)]) & clean[list(COLUMNS)].notna()
    assert changed.any().sum() > 5
    name = changed.sum().idxmax()
    repeats = found[name].diff().eq(0.0) & found["running"].eq(1.0)
    longest = repeats.groupby((~repeats).cumsum()).sum().max()
    assert longest * FLEET[0].interval_s > 5 * 60.0 * 0.8


def test_all_kinds_of_dirt_are_in_what_is_made_unless_told_otherwise() -> None:
    frame = sets.simulate(FLEET[0], START, DAYS, 7)
    there = frame[[name for name in COLUMNS if frame[name].notna().any()]]
    assert there.isna().any(axis=None)
    assert np.isinf(there).any(axis=None)
    assert (there.abs() == SPIKE).any(axis=None)
    assert frame.duplicated().any()
    assert not frame["timestamp"].is_monotonic_increasing
    assert frame["timestamp"].sort_values().diff().dt.total_seconds().max() > 120.0
    assert Dirt() == DIRTY


def test_a_month_is_made_in_seconds_and_takes_little_memory() -> None:
    begun = time.monotonic()
    frame = sets.simulate(FLEET[3], START, DAYS, 7)  # the shortest interval of these
    assert time.monotonic() - begun < 30.0  # it takes one or two
    assert len(frame) > 350_000
    assert frame.memory_usage(deep=True).sum() < 250 * len(frame)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sets.fleet(0, 7), "machines = 0; expected 1 to 9999"),
        (lambda: sets.fleet(3, -1), "seed = -1; expected 0 or more"),
        (lambda: sets.simulate(FLEET[0], START, 0.0, 7), "days = 0.0; expected above 0, up to 400"),
        (lambda: sets.simulate(FLEET[0], datetime(2026, 3, 1), 1.0, 7), "expected a time zone, such as 2026-03-01"),
        (lambda: Dirt(missing=0.5), "dirt: missing = 0.5; expected 0 to 0.2"),
        (lambda: Dirt(gaps=-1.0), "dirt: gaps = -1.0; expected 0 to 100"),
    ],
    ids=["machines", "seed", "days", "zone", "share", "rate"],
)
def test_what_cannot_be_made_is_told_with_name_value_and_bound(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ConfigurationError, match=message):
        call()
