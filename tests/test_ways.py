"""Alternatives: several ways to measure the same, of which the assets choose that are not judged."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pump_ml import snapshots, splits, ways
from pump_ml.errors import ConfigurationError, DataError
from pump_ml.models import load_predictor
from pump_ml.models.baseline import Baseline
from pump_ml.models.features import Channels, Statistics
from pump_ml.problems import Problem, parse_problem
from pump_ml.schema import Sensor, Telemetry
from pump_ml.settings import Settings
from pump_ml.sources.indicators import Envelope
from pump_ml.windows import make_windows
from pump_ml.work import Work

SENSORS = [f"{way}_{feature}" for way in ("a", "b", "c", "d") for feature in ("x", "y")]


def question(**more: Any) -> Problem:
    content = {
        "name": "ways",
        "windows": {"length": 1, "stride": 1, "judged": "all"},
        "features": ["speed"],
        "alternatives": {"pattern": "(?P<way>[a-z])_(?P<feature>[xy])", "keep": 2, "groups": "size"},
        "predicts": [{"name": "fault", "kind": "classes", "classes": ["p", "q"], "metric": "accuracy"}],
        "split": {"train": 0.6, "validation": 0.4, "test": {"number": "each", "groups": "size"}},
    }
    return parse_problem(content | more, where="a test")


def readings(sizes: str = "stu", seed: int = 3) -> pd.DataFrame:
    """Ways b and d tell the faults apart; a tells them of the other sign in each size, and c says nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        for place, fault in enumerate("pq"):
            made = rng.normal(size=(40, len(SENSORS)))
            made[:, [2, 3, 6, 7]] += 3.0 * place
            made[:, [0, 1]] += 9.0 * place * (1 if size == "s" else -1)
            frame = pd.DataFrame(made, columns=SENSORS)
            name = f"{fault}-{size}"
            rows.append(frame.assign(asset_id=name, run_id=name, time=range(40), fault=fault, size=size, speed=1.0))
    return pd.concat(rows, ignore_index=True)


def test_the_ways_are_kept_that_carry_over_from_group_to_group() -> None:
    chosen = ways.choose(question(), readings(), [*SENSORS, "speed"])
    assert chosen.means == {"x": ("b_x", "d_x"), "y": ("b_y", "d_y")}
    assert chosen.features == ("b_x", "b_y", "d_x", "d_y", "speed")
    assert chosen.alternatives is None


def test_what_is_judged_has_no_part_in_the_choice() -> None:
    clean = readings()
    spoilt = clean.copy()
    judged = clean["size"] == "s"
    spoilt.loc[judged, SENSORS] = 1e6
    spoilt.loc[judged, "fault"] = "p"
    problem = question()
    sensors = [Sensor(name, "") for name in (*SENSORS, "speed")]
    root, chosen = Settings.load().data, []
    for number, frame in enumerate((clean, spoilt)):
        frame = frame.assign(commissioning=False)
        key = snapshots.store(
            root,
            "snapshots",
            Telemetry(frame, tuple(sensors), ("fault", "size"), "readings", {"dataset": f"w{number}"}),
        )
        split, found = splits.store(root, key, frame, problem.split, seed=7, fold=0)
        assert set(found.test) == {"p-s", "q-s"}
        work = Work({"snapshot": key, "definition": problem.model_dump(mode="json"), "split": split})
        chosen.append(work.problem.means)
        assert work.features[-1] == "speed"
    assert chosen[0] == chosen[1]
    assert chosen[0]["x"] != ways.choose(problem, clean, [*SENSORS, "speed"]).means["x"]  # s alone speaks against way a


def test_families_see_means_over_the_kept_ways_and_what_was_asked_for_beside_them(tmp_path: Path) -> None:
    rows = readings()
    problem = ways.choose(question(), rows, [*SENSORS, "speed"])
    columns = problem.choose_features([*SENSORS, "speed"], ["fault", "size"])
    windows = make_windows(rows, problem, columns)
    names = Statistics.fit(windows, problem).transform(windows)[1]
    assert [name for name in names if name.startswith("mean")] == [f"mean(signal_{place})" for place in (1, 2, 3)]
    seen = Channels.fit(windows, problem)
    means = seen.transform(windows) * seen.scale + seen.mean
    assert means[:, 0] == pytest.approx(windows.readings[:, [0, 2]].mean(axis=1), abs=1e-5)
    assert means[:, 2] == pytest.approx(1.0)

    made = Baseline(trees=5, members=2).fit(windows, windows, problem, seed=0, watch=lambda *_: None)
    made.save(tmp_path)
    pd.testing.assert_frame_equal(load_predictor(tmp_path).predict(rows), made.predict(rows))


def test_values_are_learnt_from_other_groups_as_classes_are() -> None:
    rows = readings().assign(wear=lambda frame: (frame["fault"] == "q") * 10.0)
    wear = question(predicts=[{"name": "wear", "kind": "regression", "metric": "mae"}])
    assert ways.choose(wear, rows, SENSORS).means["x"] == ("b_x", "d_x")


def test_one_group_chooses_nothing() -> None:
    with pytest.raises(DataError, match="size is s in all training and validation assets; expected two groups"):
        ways.choose(question(), readings("s"), SENSORS)


@pytest.mark.parametrize(
    ("sensors", "changes", "message"),
    [
        (SENSORS[:2], {}, "finds 1 ways among the 2 sensors; expected 2 or more"),
        (SENSORS[:-1], {}, "way 'd' lacks y, which others have"),
        (SENSORS, {"groups": "maker"}, "the data have no label 'maker'"),
    ],
)
def test_ways_that_cannot_be_compared_are_named(sensors: list[str], changes: dict[str, str], message: str) -> None:
    asked = question().alternatives
    assert asked is not None
    problem = question(alternatives=asked.model_dump() | changes)
    with pytest.raises(ConfigurationError, match=message):
        ways.choose(problem, readings(), sensors)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(?P<way>[a-z]", "is no regular expression"), ("(?P<band>.)_(.)", "has the groups band; expected")],
)
def test_a_pattern_names_way_and_feature(pattern: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        question(alternatives={"pattern": pattern, "keep": 1, "groups": "size"})


def test_an_envelope_has_columns_of_each_band_where_it_is_asked_for_them() -> None:
    lines = Envelope(
        kind="envelope", orders={"bpfo": 3.5}, harmonics=2, speed_rpm=1800, bands_hz=((0, 500), (500, 900))
    )
    apart = lines.model_copy(update={"each_band": True})
    assert apart.names == ("0_500_bpfo_1", "0_500_bpfo_2", "500_900_bpfo_1", "500_900_bpfo_2")
    waves = np.random.default_rng(1).normal(size=(3, 4096))
    each, mean = (one.of(waves, 2000.0, np.full(3, 30.0)) for one in (apart, lines))
    assert each.shape == (3, 4)
    assert mean == pytest.approx((each[:, :2] + each[:, 2:]) / 2.0)
