"""What a trip is, and how alarms are held against trips."""

import numpy as np
import pandas as pd
import pytest

from pump_ml.machines.policy import Alarm, Preparation
from pump_ml.machines.preparation import Prepared, prepare
from pump_ml.machines.trips import Episode, catch, episodes, operating, trips

RANGES = {"Eng_RPM": (0.0, 4000.0), "running": (0.0, 1.0)}
POLICY = Alarm(on_for_s=60.0, off_below=0.5)


def machine(speed: list[float], running: list[float], seconds: list[float] | None = None) -> Prepared:
    at = np.arange(len(speed)) * 10.0 if seconds is None else np.array(seconds)
    time = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(at, unit="s")
    return prepare(pd.DataFrame({"time": time, "Eng_RPM": speed, "running": running}), RANGES, Preparation())


@pytest.mark.parametrize(
    ("speed", "running", "expected"),
    [
        ([1800, 1800, 500, 0], [1, 1, 1, 0], [2]),
        ([1800, 1800, 541, 541], [1, 1, 1, 1], []),
        ([1800, 1800, 0, 0], [1, 1, 0, 0], []),
        ([1800, 1200, 800, 500], [1, 1, 1, 1], []),
        ([90, 90, 0, 0], [1, 1, 1, 1], []),
    ],
    ids=["a fall of 72 %", "a fall of 69.9 %", "commanded", "slow", "as good as still before"],
)
def test_a_trip_is_a_fall_of_the_speed_that_nobody_asked_for(
    speed: list[float], running: list[float], expected: list[int]
) -> None:
    assert trips(machine(speed, running), POLICY).tolist() == expected


def test_a_fall_across_a_gap_is_not_known_and_a_spike_is_no_fall() -> None:
    assert trips(machine([1800, 1800, 0], [1, 1, 1], [0, 10, 500]), POLICY).tolist() == []
    assert trips(machine([1800, 1e5, 1800, -1e5, 1800], [1] * 5), POLICY).tolist() == []


def test_a_machine_works_while_it_is_told_to_and_turns() -> None:
    found = operating(machine([0, 100, 1800, 1800, 0, 0], [0, 1, 1, 1, 1, 0]))
    assert found.tolist() == [False, False, True, True, False, False]


def alarms(probability: list[float], run: list[int] | None = None) -> list[Episode]:
    at = np.arange(len(probability)) * 30.0
    return episodes(at, np.array(probability), np.array(run or [0] * len(probability)), 0.8, POLICY)


def test_an_alarm_begins_after_a_while_above_the_threshold_and_ends_well_below_it() -> None:
    assert alarms([0.9, 0.1, 0.9, 0.9, 0.1]) == []
    assert alarms([0.9, 0.9, 0.9, 0.5, 0.5, 0.9, 0.3, 0.9]) == [Episode(60.0, 180.0)]
    assert alarms([0.9, 0.9, 0.9]) == [Episode(60.0, 60.0)]


def test_an_alarm_ends_with_the_run_of_the_machine() -> None:
    assert alarms([0.9, 0.9, 0.9, 0.9, 0.9, 0.9], [0, 0, 0, 0, 1, 1]) == [Episode(60.0, 90.0)]


def test_alarms_are_true_when_a_trip_follows_while_they_are_on_or_soon_after() -> None:
    found = catch([Episode(0, 100), Episode(3000, 5000), Episode(9000, 9100)], np.array([5200.0, 20000.0]), 1800.0)
    assert (found.trips, found.caught, found.alarms, found.false) == (2, 1, 3, 2)
    assert found.lead_min == pytest.approx((2200.0 / 60.0,))


def test_an_alarm_that_is_on_for_hours_tells_of_nothing() -> None:
    found = catch([Episode(0, 3 * 3600.0)], np.array([2.5 * 3600.0]), 1800.0)
    assert (found.caught, found.false) == (0, 1)


def test_without_alarms_or_trips_there_is_nothing_to_hold_against_each_other() -> None:
    assert catch([], np.array([100.0]), 1800.0).caught == 0
    assert catch([Episode(0, 10)], np.empty(0), 1800.0).false == 1
