"""Dataset v3: lives that grow, end, are repaired, cut short and withdrawn, and labels that agree with them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pump_ml.twin import degradation, duty
from pump_ml.twin.datasets import MEDIAN_LIFE_H, REPAIR_H, Fleet, Rows
from pump_ml.twin.degradation import FAULTS, MODES
from pump_ml.twin.instruments import IDEAL

FLEET = Fleet("v3", 70, seed=7, days=365)


@pytest.fixture(scope="module")
def lives() -> list[Rows]:
    return [FLEET.rows(number) for number in range(FLEET.pumps)]


def runs(rows: Rows) -> list[slice]:
    ends = np.cumsum([length for _, length in rows.runs])
    return [slice(begin, end) for begin, end in pairwise(ends)]


def test_damage_never_heals_within_a_life_and_repair_makes_the_pump_as_new(lives: list[Rows]) -> None:
    repaired = 0
    for rows in lives:
        for part in runs(rows):
            assert (np.diff(rows.labels["health_pct"][part]) <= 0).all()
            assert (np.diff(rows.labels["rul_hours"][part]) <= 0).all()
        for before, after in zip(runs(rows)[:-1], runs(rows)[1:], strict=True):
            assert rows.labels["health_pct"][after][0] > 99.9
            gap_h = (rows.time_us[after][0] - rows.time_us[before][-1]) / 3.6e9
            assert gap_h == pytest.approx(REPAIR_H, abs=1.1)
            repaired += 1
    assert repaired > 20


def test_a_life_that_was_seen_to_its_end_ends_at_no_health_and_no_life_left(lives: list[Rows]) -> None:
    seen = 0
    for rows in lives:
        for part in runs(rows):
            if not rows.labels["censored"][part][0]:
                assert rows.labels["health_pct"][part][-1] == 0.0
                assert rows.labels["rul_hours"][part][-1] == 0.0
                seen += 1
            assert len(set(rows.labels["censored"][part])) == 1
    assert seen > 20


def test_some_lives_are_cut_short_and_some_pumps_are_withdrawn(lives: list[Rows]) -> None:
    ends = np.array([rows.time_us[-1] for rows in lives])
    withdrawn = ends < ends.max() - 10 * 86_400_000_000
    assert 2 <= withdrawn.sum() <= 25
    cut = [
        rows.labels["health_pct"][part][-1]
        for rows in lives for part in runs(rows)[:-1] if rows.labels["censored"][part][0]
    ]  # fmt: skip
    assert len(cut) >= 5
    assert min(cut) > 0


def test_the_labels_of_a_row_follow_from_its_damage(lives: list[Rows]) -> None:
    for rows in lives[:10]:
        damage = 1 - rows.labels["health_pct"].astype(float) / 100
        clear = np.min(np.abs(damage[:, None] - np.array(degradation.SEVERITY_FROM[1:])), axis=1) > 1e-4
        assert np.array_equal(rows.labels["severity"][clear], degradation.severity(damage)[clear])
        assert np.array_equal(rows.labels["mode"] > 0, rows.labels["severity"] > 0)
        for part in runs(rows):
            assert len(set(rows.labels["mode"][part]) - {0}) <= 1, "one fault a life"


def test_every_pump_has_a_commissioning_record_from_when_it_was_new(lives: list[Rows]) -> None:
    for rows in lives:
        assert rows.commissioning.sum() == 120
        assert rows.commissioning[:120].all()
        assert (rows.labels["health_pct"][:120] == 100).all()
        assert (np.diff(rows.time_us) > 0).all()


def test_nothing_wears_while_a_pump_stands_still() -> None:
    stood = 0
    for number in range(20):
        if FLEET.pump(number).site.continuous:
            continue
        rows = replace(FLEET, options=IDEAL).rows(number)
        for part in runs(rows):
            still = rows.sensors["speed_rpm"][part] == 0
            assert (np.diff(rows.labels["rul_hours"][part])[still[1:]] == 0).all()
            stood += int(still.sum())
    assert stood > 1000


def test_lives_have_the_median_that_is_stated_and_scatter_as_a_gamma_process_does() -> None:
    stream = np.random.default_rng(1)
    fault = next(fault for fault in FAULTS if fault.growth == 1.0)
    drawn = [degradation.draw_life(fault, MEDIAN_LIFE_H, stream) for _ in range(4000)]
    assert np.median([life.end_h for life in drawn]) == pytest.approx(MEDIAN_LIFE_H, rel=0.04)
    assert all(0.3 <= life.onset_h / life.end_h <= 0.7 for life in drawn)
    half = np.array([life.at(np.array([(life.onset_h + life.end_h) / 2]))[0] for life in drawn])
    # A gamma bridge at half its time is Beta(12.5, 12.5).
    assert half.mean() == pytest.approx(0.5, abs=0.01)
    assert half.std() == pytest.approx(np.sqrt(0.25 / 26), rel=0.05)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_mean_growth_follows_the_exponent_of_the_fault(fault: degradation.FaultMode) -> None:
    stream = np.random.default_rng(2)
    at = []
    for _ in range(2000):
        life = degradation.draw_life(fault, MEDIAN_LIFE_H, stream)
        at.append(life.at(life.onset_h + (life.end_h - life.onset_h) * np.array([0.25, 0.5, 0.75])))
    assert np.mean(at, axis=0) == pytest.approx(np.array([0.25, 0.5, 0.75]) ** fault.growth, abs=0.015)


def test_demand_has_a_day_and_a_week_and_a_pump_of_the_day_shift_stands_still_at_night() -> None:
    pump = next(FLEET.pump(number) for number in range(70) if not FLEET.pump(number).site.continuous)
    hours = np.arange(24.0 * 7 * 8)
    demand = duty.calendar(pump, hours, 3600.0, np.random.default_rng(0))
    runs_at = demand.speed.reshape(-1, 7, 24) > 0
    assert runs_at[:, :5, 6:22].all()
    assert not runs_at[:, :5, :6].any()
    assert not runs_at[:, 5:].any()


def test_the_modes_of_a_fleet_are_balanced_and_stand_in_no_order() -> None:
    modes = [FLEET._mode(number).name for number in range(70)]
    assert {name: modes.count(name) for name in MODES[1:]} == dict.fromkeys(MODES[1:], 10)
    assert len({tuple(modes[block : block + 7]) for block in range(0, 70, 7)}) == 10
