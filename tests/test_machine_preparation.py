"""Raw rows of a machine become stretches that a window may span, and a health score; no cell knows what comes later."""

import numpy as np
import pandas as pd
import pytest

from pump_ml.errors import DataError
from pump_ml.machines.health import HealthScore
from pump_ml.machines.policy import Health, HealthPart, Preparation, load_policy
from pump_ml.machines.preparation import prepare
from pump_ml.machines.sequences import create_sequences, unbroken

RANGES = {"Oil_P": (0.0, 12.0), "Oil_L": (0.0, 110.0), "Cool_T": (-30.0, 150.0)}
POLICY = Preparation(gap_s=60.0, fill_s=30.0, least_share=0.2)
START = pd.Timestamp("2026-01-01", tz="UTC")


def rows(seconds: list[float], **sensors: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"time": START + pd.to_timedelta(seconds, unit="s"), **sensors})


def test_values_out_of_range_and_infinite_ones_are_missing_and_counted() -> None:
    found = prepare(rows([0, 10, 20, 30], Oil_P=[1e5, np.inf, 3.0, -np.inf], Oil_L=[50.0] * 4), RANGES, POLICY)
    assert found.report["out_of_range"] == {"Oil_P": 1}
    assert found.report["infinite"] == {"Oil_P": 2}
    assert np.isnan(found.column("Oil_P")[:2]).all()  # nothing known comes before it
    assert found.column("Oil_P")[2:].tolist() == [3.0, 3.0]


def test_short_holes_are_filled_forward_only_and_not_beyond_their_limit() -> None:
    held = [np.nan, 2.0, np.nan, np.nan, np.nan, np.nan, 5.0]
    found = prepare(rows([0, 10, 20, 30, 40, 50, 60], Oil_P=held, Oil_L=[50.0] * 7), RANGES, POLICY)
    np.testing.assert_equal(found.column("Oil_P"), [np.nan, 2.0, 2.0, 2.0, 2.0, np.nan, 5.0])
    assert found.report["filled"] == {"Oil_P": 3}


def test_a_longer_gap_parts_the_series_and_nothing_is_filled_across_it() -> None:
    found = prepare(rows([0, 10, 75, 85], Oil_P=[2.0, 2.0, np.nan, 3.0], Oil_L=[50.0] * 4), RANGES, POLICY)
    assert found.stretch.tolist() == [0, 0, 1, 1]
    assert found.report["gaps"] == 1
    assert np.isnan(found.column("Oil_P")[2])


def test_unsorted_and_repeated_rows_are_put_in_order_and_the_last_told_value_counts() -> None:
    given = rows([20, 0, 10, 10], Oil_P=[3.0, 1.0, 2.0, 2.5], Oil_L=[50.0, 50.0, 60.0, np.nan])
    before = given.copy()
    found = prepare(given, RANGES, POLICY)
    assert found.column("Oil_P").tolist() == [1.0, 2.5, 3.0]
    assert found.column("Oil_L").tolist() == [50.0, 60.0, 50.0]
    assert (found.report["repeated"], found.report["unsorted"]) == (1, 1)
    pd.testing.assert_frame_equal(given, before)


def test_rows_without_a_time_are_counted_and_left_out() -> None:
    given = rows([0, 10, 20], Oil_P=[1.0, 2.0, 3.0])
    given.loc[1, "time"] = pd.NaT
    found = prepare(given, RANGES, POLICY)
    assert len(found) == 2
    assert found.report["without_time"] == 1


def test_times_of_another_zone_are_the_same_moments() -> None:
    given = rows([0, 10], Oil_P=[1.0, 2.0])
    there = given.assign(time=given["time"].dt.tz_convert("America/Sao_Paulo"))
    np.testing.assert_array_equal(prepare(given, RANGES, POLICY).times, prepare(there, RANGES, POLICY).times)


def test_a_sensor_without_readings_is_left_out_and_one_that_shows_one_value_is_named() -> None:
    found = prepare(rows([0, 10], Oil_P=[1.0, 2.0], Oil_L=[50.0, 50.0], Cool_T=[np.nan, np.nan]), RANGES, POLICY)
    assert found.sensors == ("Oil_P", "Oil_L")
    assert found.report["left_out"] == {"Cool_T": 0.0}
    assert found.report["constant"] == ["Oil_L"]
    with pytest.raises(DataError, match="Cool_T has no usable readings"):
        found.column("Cool_T")


def test_a_model_gets_exactly_its_sensors_and_a_missing_column_counts_as_empty() -> None:
    found = prepare(rows([0, 10], Oil_P=[1.0, 2.0]), RANGES, POLICY, sensors=("Oil_L", "Oil_P"))
    assert found.sensors == ("Oil_L", "Oil_P")
    assert np.isnan(found.column("Oil_L")).all()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (rows([0], Oil_P=[1.0]), "1 rows hold 1 readings with a time; expected two or more"),
        (rows([0, 0], Oil_P=[1.0, 2.0]), "2 rows hold 1 readings"),
        (rows([0, 10], Oil_P=[np.nan, np.nan]), "none of Oil_P has usable readings"),
    ],
    ids=["one row", "one moment", "nothing but holes"],
)
def test_too_little_to_learn_from_says_what_was_found(given: pd.DataFrame, told: str) -> None:
    with pytest.raises(DataError, match=told):
        prepare(given, RANGES, POLICY)


# The health score


def test_the_score_is_the_formula_of_the_norms() -> None:
    policy = load_policy().health
    rng = np.random.default_rng(3)
    train = {
        "Oil_P": rng.uniform(2.0, 4.0, 5000),
        "Oil_L": rng.uniform(70.0, 90.0, 5000),
        "Recalque": rng.uniform(4.0, 6.0, 5000),
        "Succao": rng.uniform(-0.4, -0.1, 5000),
    }
    score = HealthScore.fit(train, policy)
    low, high = np.percentile(train["Oil_P"], [1, 99])
    assert score.bounds["Oil_P"] == pytest.approx((low, high))

    def norm(sensor: str, value: float) -> float:
        low, high = score.bounds[sensor]
        return float(np.clip((value - low) / (high - low), 0, 1))

    one = {"Oil_P": 3.1, "Oil_L": 75.0, "Recalque": 5.5, "Succao": -0.3}
    lubrication = 0.5 * (norm("Oil_P", 3.1) + norm("Oil_L", 75.0))
    hydraulic = 0.5 * (norm("Recalque", 5.5) + 1.0 - norm("Succao", 0.3))
    found = score.of({name: np.array([value]) for name, value in one.items()})
    assert found == pytest.approx([0.5 * lubrication + 0.5 * hydraulic])


def test_suction_is_better_the_nearer_to_zero_on_either_side() -> None:
    policy = Health(parts={"hydraulic": HealthPart(weight=1.0, sensors={"Succao": 1.0})}, near_zero=("Succao",))
    score = HealthScore.fit({"Succao": np.linspace(-0.5, 0.0, 1000)}, policy)
    low, high, above = score.of({"Succao": np.array([-0.4, -0.1, 0.1])})
    assert low < high
    assert high == pytest.approx(above)


def test_values_beyond_the_training_part_stay_between_0_and_1_and_missing_ones_stay_missing() -> None:
    policy = Health(parts={"oil": HealthPart(weight=1.0, sensors={"Oil_P": 1.0})})
    score = HealthScore.fit({"Oil_P": np.linspace(2.0, 4.0, 101)}, policy)
    np.testing.assert_equal(score.of({"Oil_P": np.array([-50.0, 50.0, np.nan])}), [0.0, 1.0, np.nan])
    assert HealthScore.from_json(score.to_json()) == score


def test_a_sensor_of_the_formula_without_readings_is_named() -> None:
    policy = load_policy().health
    with pytest.raises(DataError, match="Recalque has no usable reading in the training part"):
        HealthScore.fit({"Oil_P": np.ones(3), "Oil_L": np.ones(3), "Recalque": np.full(3, np.nan)}, policy)


def test_weights_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match=r"add up to 0\.9, expected 1"):
        Health(parts={"oil": HealthPart(weight=0.9, sensors={"Oil_P": 1.0})})


# Sequences


@pytest.mark.parametrize("horizon", [1, 7])
def test_sequences_are_those_of_the_plain_loop(horizon: int) -> None:
    data = np.random.default_rng(1).normal(size=(200, 3))
    x, y = create_sequences(data, 60, horizon=horizon)
    loop = [(data[at : at + 60], data[at + 59 + horizon, -1]) for at in range(200 - 60 - horizon + 1)]
    np.testing.assert_array_equal(x, np.array([each for each, _ in loop]))
    np.testing.assert_array_equal(y, np.array([asked for _, asked in loop]))


def test_sequences_of_a_million_rows_are_a_view() -> None:
    data = np.zeros((1_000_000, 12), dtype=np.float32)
    x, y = create_sequences(data)
    assert x.shape == (999_940, 60, 12)
    assert np.shares_memory(x, data)
    assert np.shares_memory(y, data)
    assert not x.flags.writeable
    assert not y.flags.writeable
    assert data.flags.writeable


def test_sequences_of_too_few_rows_say_what_was_expected() -> None:
    with pytest.raises(DataError, match="60 rows, sequence_length 60, horizon 1: expected"):
        create_sequences(np.zeros((60, 2)))


def test_no_window_spans_a_gap_or_a_hole() -> None:
    stretch = np.repeat([0, 1], [10, 8])
    usable = np.ones(18, dtype=bool)
    usable[4] = False
    starts = unbroken(stretch, usable, 3, 2)
    assert starts.tolist() == [5, 10, 11, 12, 13]
    for at in starts:
        assert usable[at : at + 5].all()
        assert len(set(stretch[at : at + 5].tolist())) == 1
