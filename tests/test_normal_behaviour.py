"""The normal behaviour model: what demand and weather explain is no residual, what a fault does is."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pump_ml.models import features, normal_behaviour
from pump_ml.models.columns import median
from pump_ml.models.features import Channels, Statistics
from pump_ml.models.normal_behaviour import NormalBehaviour, Residuals, repeats
from pump_ml.problems import Conditions, Problem
from pump_ml.windows import Windows

SENSORS = ("speed_rpm", "flow_m3_h", "ambient_temperature_c", "head_m", "bearing_temperature_c", "leakage_l_h")
CONDITIONS = Conditions(
    relative=("speed_rpm", "flow_m3_h"), absolute=("ambient_temperature_c",), levels=("speed_rpm",),
    additive=("bearing_temperature_c",),
)  # fmt: skip
HEAD, BEARING, LEAKAGE = 0, 1, 2
"""Places of the answers."""


def pump(number: int, count: int, *, low: float = 0.8, high: float = 1.0, fault: float = 0.0) -> np.ndarray:
    """Readings of one pump at random speeds, flows and weather; a fault takes head, warms the bearing and leaks."""
    own, stream = np.random.default_rng(number), np.random.default_rng([number, count, int(1e3 * (low + fault))])
    size, slope = own.uniform(50.0, 300.0), own.uniform(0.2, 0.4)
    speed, share = stream.uniform(low, high, count), stream.uniform(0.7, 1.2, count)
    ambient = 20.0 + stream.uniform(-5.0, 5.0, count)
    head = 40.0 * speed**2 * (1.0 + slope * (1.0 - share**2)) * (1.0 - 0.1 * fault)
    bearing = ambient + own.uniform(15.0, 30.0) * speed + 10.0 * fault
    noise = stream.normal(0.0, 1.0, (count, 2))
    return np.stack(
        [
            1480.0 * speed, size * share * speed, ambient, head * (1.0 + 0.002 * noise[:, 0]),
            bearing + 0.2 * noise[:, 1], np.abs(0.1 + 10.0 * fault + stream.normal(0.0, 0.2, count)),
        ],
        axis=1,
    )  # fmt: skip


def windows(numbers: range, **how: float) -> Windows:
    """Five windows of 60 readings a pump, and its record of 120 readings when new."""
    x = np.concatenate([pump(number, 300, **how).reshape(5, 60, -1) for number in numbers])
    names = [f"p{number:03d}" for number in numbers]
    rows = pd.DataFrame({"asset_id": np.repeat(names, 5), "run_id": "r", "time": range(len(x))})
    records = {name: pump(number, 120) for name, number in zip(names, numbers, strict=True)}
    return Windows.stacked(x, SENSORS, rows, commissioning=records)


def cubes(found: Residuals) -> tuple[np.ndarray, ...]:
    """Share, excess and known of each window."""
    return tuple(each.reshape(-1, 60, each.shape[1]) for each in (found.share, found.excess, found.known))


def means(found: Residuals) -> np.ndarray:
    """Mean share of each window over its known readings; 0 where it has none."""
    share, _, known = cubes(found)
    return share.sum(axis=1) / np.maximum(known.sum(axis=1), 1)


@pytest.fixture(scope="module")
def normal() -> NormalBehaviour:
    train = windows(range(40))
    assert train.commissioning is not None
    return NormalBehaviour.fit(train.commissioning, SENSORS, CONDITIONS)


UNSEEN = range(40, 60)


def test_what_demand_and_weather_do_to_a_healthy_pump_is_no_residual(normal: NormalBehaviour) -> None:
    healthy = windows(UNSEEN)
    share, excess, known = cubes(normal.residuals(healthy))
    assert share.shape == excess.shape == (100, 60, 3)
    assert known.all()
    # Head swings by more than 10 % with speed and flow; of that, less than 0.3 % is left in the mean of a window.
    assert healthy.x[..., 3].std() / healthy.x[..., 3].mean() > 0.1
    assert np.abs(share[..., HEAD].mean(axis=1)).max() < 0.003
    assert np.abs(excess[..., BEARING].mean(axis=1)).max() < 0.3


def test_a_fault_shows_as_large_as_it_is(normal: NormalBehaviour) -> None:
    found = normal.residuals(windows(UNSEEN, fault=0.5))
    share, excess = found.share, found.excess
    assert share[..., HEAD].mean() == pytest.approx(np.log(0.95), abs=0.003)
    assert excess[..., BEARING].mean() == pytest.approx(5.0, abs=0.3)
    assert excess[..., LEAKAGE].mean() == pytest.approx(5.0, abs=0.3)


def test_the_fleet_helps_a_pump_where_its_own_record_ends(normal: NormalBehaviour) -> None:
    """Slower than any of its commissioning readings, but not than those of others."""
    slow = windows(range(100, 110), low=0.8, high=0.85)
    assert slow.commissioning is not None
    fast = {name: record[record[:, 0] > 1480.0 * 0.92] for name, record in slow.commissioning.items()}
    found = normal.residuals(replace(slow, commissioning=fast))
    assert np.abs(cubes(found)[0][..., HEAD].mean(axis=1)).max() < 0.02


def resting(fault: float) -> Windows:
    """The second half of each window at rest."""
    found = windows(UNSEEN, fault=fault)
    found.readings.reshape(-1, 60, len(SENSORS))[:, 30:, [0, 1, 3]] = 0.0
    return found


def test_a_pump_at_rest_has_no_residuals(normal: NormalBehaviour) -> None:
    share, excess, known = cubes(normal.residuals(resting(0.0)))
    assert not known[:, 30:].any()
    assert not share[:, 30:].any()
    assert not excess[:, 30:].any()
    assert share[:, :30].any()


def test_hours_of_rest_do_not_make_a_fault_look_smaller(normal: NormalBehaviour) -> None:
    made = resting(0.5)
    assert means(normal.residuals(made))[:, HEAD] == pytest.approx(np.log(0.95), abs=0.004)
    columns, names = Statistics(normal).transform(made)
    assert columns[:, names.index("share(head_m)")] == pytest.approx(np.log(0.95), abs=0.004)
    at_rest = replace(made, readings=np.where(np.arange(6) < 2, 0.0, made.readings))
    columns, names = Statistics(normal).transform(at_rest)
    beyond = [place for place, name in enumerate(names) if name.startswith(("share", "excess", "root"))]
    assert not columns[:, beyond].any()


def test_an_instrument_that_is_stuck_says_nothing(normal: NormalBehaviour) -> None:
    """In the record it would bend the pump's normal, in a window it would look like a fault."""
    healthy = windows(UNSEEN)
    assert healthy.commissioning is not None
    records = {name: record.copy() for name, record in healthy.commissioning.items()}
    for record in records.values():
        record[40:100, 0] = record[40, 0]  # the speed, a condition
        record[100:, 3] = record[100, 3]  # the head
    made = replace(healthy, readings=healthy.readings.copy(), commissioning=records)
    made.readings.reshape(-1, 60, len(SENSORS))[:, 30:, 3] = 1.0
    found = normal.residuals(made)
    known = cubes(found)[2]
    assert known[:, :31, HEAD].all()
    assert not known[:, 31:, HEAD].any()
    assert known[..., BEARING].all(), "the other instruments work"
    assert np.abs(cubes(found)[0][:, :30, HEAD].mean(axis=1)).max() < 0.01


def test_a_sensor_that_often_repeats_itself_when_all_is_well_is_not_stuck() -> None:
    fixed = np.full((120, 1), 1480.0)
    assert repeats(fixed)[1] == pytest.approx(0.999)
    made = windows(range(12), low=1.0)
    assert made.commissioning is not None
    records = {name: pump(int(name[1:]), 120, low=1.0) for name in made.commissioning}
    found = NormalBehaviour.fit(records, SENSORS, CONDITIONS).residuals(replace(made, commissioning=records))
    assert found.known.all()


def test_stretches_of_repeats_are_counted() -> None:
    column = np.array([5.0, 5.0, 5.0, 1.0, 2.0, 2.0, 3.0])[:, None]
    run, rate = repeats(column)
    assert run[:, 0].tolist() == [0, 2, 2, 0, 0, 1, 0]
    assert rate.tolist() == [4 / 7]


def test_a_stray_reading_in_a_record_does_not_make_rest_a_known_condition() -> None:
    train = windows(range(40))
    assert train.commissioning is not None
    train.commissioning["p007"][50, [0, 1, 3]] = 0.0
    made = resting(0.0)
    found = NormalBehaviour.fit(train.commissioning, SENSORS, CONDITIONS).residuals(made)
    assert not cubes(found)[2][:, 30:].any()
    assert np.abs(means(found)[:, HEAD]).max() < 0.005


@pytest.mark.parametrize("moves", [0.0, 0.5], ids=["to the digit", "but for half a turn a minute"])
def test_a_condition_that_was_constant_in_all_records_blinds_nothing(moves: float) -> None:
    """Pumps of one fixed speed: flow and weather tell what is normal, and a fault still shows."""
    train, test = (
        replace(
            made, commissioning={name: pump(int(name[1:]), 120, low=1.0) for name in made.rows["asset_id"].unique()}
        )
        for made in (windows(range(40), low=1.0), windows(UNSEEN, low=1.0, fault=0.5))
    )
    assert train.commissioning is not None
    test.readings.reshape(-1, 60, len(SENSORS))[..., 0] += moves * np.sin(np.arange(60))
    found = NormalBehaviour.fit(train.commissioning, SENSORS, CONDITIONS).residuals(test)
    assert found.known.all()
    assert found.share[..., HEAD].mean() == pytest.approx(np.log(0.95), abs=0.003)
    assert found.excess[..., BEARING].mean() == pytest.approx(5.0, abs=0.3)


def test_without_conditions_a_pump_is_compared_with_the_mean_of_its_record() -> None:
    train = windows(range(20))
    assert train.commissioning is not None
    plain = NormalBehaviour.fit(train.commissioning, SENSORS, Conditions())
    assert plain.answers == SENSORS
    share, _, _ = cubes(plain.residuals(train))
    flow = 1  # differs from pump to pump by far more than within one
    shown, record = (
        np.arcsinh(values[..., flow] / plain.scale[flow]).mean()
        for values in (train.x[:5], train.commissioning["p000"])
    )
    assert share[:5, :, flow].mean() == pytest.approx(shown - record, abs=2e-3)


def test_it_survives_json_to_the_last_digit(normal: NormalBehaviour) -> None:
    again = NormalBehaviour.from_json(json.loads(json.dumps(normal.to_json())))
    one, other = (each.residuals(windows(UNSEEN)) for each in (normal, again))
    np.testing.assert_array_equal(one.share, other.share)
    np.testing.assert_array_equal(one.excess, other.excess)


def test_a_sensor_that_never_moves_and_one_that_is_always_0_do_no_harm() -> None:
    train = windows(range(8))
    assert train.commissioning is not None
    for values in (train.readings, *train.commissioning.values()):
        values[..., 3], values[..., 5], values[..., 0] = 7.0, 0.0, 1480.0
    found = NormalBehaviour.fit(train.commissioning, SENSORS, CONDITIONS)
    residuals = found.residuals(train)
    assert np.isfinite(residuals.share).all()
    assert np.abs(residuals.excess[..., [HEAD, LEAKAGE]]).max() < 0.01


def test_windows_without_a_record_are_told_so(normal: NormalBehaviour) -> None:
    with pytest.raises(ValueError, match="no commissioning records"):
        normal.residuals(replace(windows(UNSEEN), commissioning=None))


def test_statistics_are_those_of_each_window_for_itself(diagnosis: Problem) -> None:
    problem = diagnosis.model_copy(update={"conditions": CONDITIONS})
    train = windows(range(10))
    made = Statistics.fit(train, problem)
    columns, names = made.transform(train)
    assert columns.shape == (50, len(names))
    assert len(set(names)) == len(names) == 3 * 3 + 3 + 1
    assert made.normal is not None
    found = made.normal.residuals(train)
    share, excess, _ = cubes(found)
    energy = found.energy.reshape(share.shape).mean(axis=1)
    assert columns[:, names.index("share(head_m)")] == pytest.approx(share[..., HEAD].mean(axis=1), rel=1e-4, abs=1e-7)
    assert columns[:, names.index("excess(leakage_l_h)")] == pytest.approx(excess[..., LEAKAGE].mean(axis=1), rel=1e-4)
    root = np.sign(energy) * np.sqrt(np.abs(energy))
    assert columns[:, names.index("root(leakage_l_h)")] == pytest.approx(root[:, LEAKAGE], rel=1e-4)
    alone, _ = made.transform(train.of_assets(["p003"]))
    assert alone == pytest.approx(columns[train.rows["asset_id"] == "p003"], rel=1e-4, abs=1e-6)


def test_without_conditions_the_readings_as_they_are_count_too(diagnosis: Problem) -> None:
    train = windows(range(10))
    for changes in ({"conditions": Conditions()}, {"conditions": Conditions(), "reference": None}):
        some = train if "reference" not in changes else replace(train, commissioning=None)
        columns, names = Statistics.fit(some, diagnosis.model_copy(update=changes)).transform(some)
        assert len(names) == columns.shape[1] == 4 * 6 + (3 * 6 if some.commissioning else 0)
        assert columns[:, names.index("mean(head_m)")] == pytest.approx(train.x[..., 3].mean(axis=1))


@pytest.mark.parametrize("pool", [1, 10, 7, 100])
def test_channels_are_means_over_blocks_of_readings(pool: int, diagnosis: Problem) -> None:
    train = windows(range(10))
    plain = diagnosis.model_copy(update={"reference": None, "conditions": Conditions()})
    made = Channels.fit(replace(train, commissioning=None), plain, pool)
    offsets = made.offsets(60)
    width = min(pool, 60)
    assert len(offsets) == 60 // width
    assert offsets[-1] == 59
    table = made.transform(train)[train.starts[:, None] + offsets]
    assert table.mean(axis=(0, 1)) == pytest.approx(0.0, abs=1e-4)
    assert table.std(axis=(0, 1)) == pytest.approx(1.0, abs=1e-3)
    last = train.x[:, -width:].mean(axis=1)
    assert table[:, -1] * made.scale + made.mean == pytest.approx(last, rel=1e-4, abs=1e-4)


def test_channels_hold_what_a_reading_shows_beyond_normal(diagnosis: Problem) -> None:
    problem = diagnosis.model_copy(update={"conditions": CONDITIONS})
    train = windows(range(10))
    assert Channels.fit(train, problem, 10).transform(train).shape == (50 * 60, 3 * 3 + 3 + 1)


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("chunk", [1, 100, 301])
def test_channels_do_not_depend_on_how_many_readings_are_looked_at_at_a_time(
    chunk: int, record: bool, diagnosis: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, train = diagnosis.model_copy(update={"conditions": CONDITIONS}), windows(range(10))
    train = train if record else replace(train, commissioning=None)
    whole = Channels.fit(train, problem, 10)
    seen = train.starts[:, None] + whole.offsets(60)
    expected = whole.transform(train)[seen]
    monkeypatch.setattr(features, "CHUNK", chunk)
    parts = Channels.fit(train, problem, 10)
    assert parts.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-9)
    assert parts.transform(train)[seen] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("record", [True, False])
def test_channels_of_many_readings_take_less_memory_than_the_readings(record: bool, diagnosis: Problem) -> None:
    problem, few = diagnosis.model_copy(update={"conditions": CONDITIONS}), windows(range(10))
    count, times = len(few.readings), 100
    assert few.commissioning is not None
    many = replace(
        few,
        readings=np.tile(few.readings, (times, 1)),
        starts=(few.starts + count * np.arange(times)[:, None]).ravel(),
        blocks={
            f"{time} {asset}": slice(at.start + time * count, at.stop + time * count)
            for time in range(times)
            for asset, at in few.blocks.items()
        },
        commissioning={f"{n} {asset}": each for n in range(times) for asset, each in few.commissioning.items()},
    )
    many = many if record else replace(many, commissioning=None)
    made = Channels.fit(few if record else replace(few, commissioning=None), problem, 10)
    tracemalloc.start()
    try:
        if not record:  # with records, those of all assets are learnt from together
            Channels.fit(many, problem, 10)
        for _ in made.pieces(many):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < many.readings.nbytes


@pytest.mark.parametrize("together", [100, 8192])
def test_assets_that_are_held_against_their_normal_together_get_what_each_gets_alone(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some share a record, one has a longer record, one has fewer readings, two an instrument that was or is stuck."""
    made = windows(range(12), fault=0.5)
    normal = NormalBehaviour.fit(windows(range(20)).commissioning or {}, SENSORS, CONDITIONS)
    records, readings = dict(made.commissioning or {}), made.readings.copy()
    records |= {"p001": records["p000"], "p002": pump(2, 200), "p003": records["p003"].copy()}
    records["p003"][40:80, 4] = 50.0
    stuck = made.blocks["p004"].start + np.arange(21, 50)
    readings[stuck, 3] = readings[stuck[0] - 1, 3]
    few = (made.rows["asset_id"] != "p005") | made.rows["time"].isin([25, 26])
    made = replace(made, commissioning=records, readings=readings).where(few.to_numpy())
    monkeypatch.setattr(normal_behaviour, "TOGETHER", together)
    found = normal.residuals(made)
    assert not found.known[stuck, HEAD].any()
    assert found.known[stuck, BEARING].all(), "the conditions are known"
    for asset, here in made.blocks.items():
        alone = normal.residuals(made.of_assets([asset]))
        for name in ("share", "excess", "energy", "off", "known"):
            assert getattr(found, name)[here] == pytest.approx(getattr(alone, name), rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("stride", [60, 45, 7])
@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("chunk", [100, 8192])
def test_what_a_network_looks_at_is_the_same_whether_windows_overlap_or_not(
    chunk: int, record: bool, stride: int, diagnosis: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pump rests for a while, one has an instrument that is stuck."""
    problem, made = diagnosis.model_copy(update={"conditions": CONDITIONS}), windows(range(10), fault=0.3)
    made.readings[300:420, [0, 1, 3]] = 0.0
    made.readings[700:760, 4] = 50.0
    made = made if record else replace(made, commissioning=None)
    channels = Channels.fit(made, problem, 10)
    starts = np.concatenate([np.arange(at.start, at.stop - 59, stride) for at in made.blocks.values()])
    some = replace(made, starts=starts, rows=made.rows.iloc[np.zeros(len(starts), dtype=np.int64)])
    monkeypatch.setattr(features, "CHUNK", chunk)
    steps = channels.steps(some)
    expected = channels.transform(some)[starts[:, None] + channels.offsets(60)]
    assert steps(slice(0, len(some))) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert steps(slice(3, 5)) == pytest.approx(expected[3:5], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("pool", [1, 2, 7, 10, 60, 500])
def test_rolling_means_are_means_of_the_rows_up_to_each(pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = 1e6 + np.random.default_rng(1).standard_normal((300, 3))
    expected = np.stack([values[max(row - pool + 1, 0) : row + 1].mean(axis=0) for row in range(300)])
    for chunk in (8192, 50, 7):
        monkeypatch.setattr(features, "CHUNK", chunk)
        for given in (values, np.asfortranarray(values)):
            np.testing.assert_allclose(features._rolling(given, pool), expected, rtol=1e-14)


@pytest.mark.parametrize("count", [1, 2, 7, 120])
def test_the_median_of_many_stretches_is_that_of_numpy(count: int) -> None:
    values = np.random.default_rng(1).standard_normal((5, count, 3))
    np.testing.assert_array_equal(median(values), np.median(values, axis=-2))
