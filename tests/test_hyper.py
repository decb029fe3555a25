"""What a run may set, and what is looked at before anything is trained: wrong values and labels are told at once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Trained

from pump_ml import hyper, readiness, registry, snapshots, steps, tuning
from pump_ml.errors import ConfigurationError, DataError, UnknownNameError
from pump_ml.models.space import Choice, Range
from pump_ml.problems import Problem
from pump_ml.schema import KEYS, Sensor, Telemetry, Waveforms
from pump_ml.settings import PACKAGE, Settings
from pump_ml.splits import Split, by_asset

# Values


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        pytest.param(Range(1, 12), (1, 12), (0, 13, 2.0, True, "6", None), id="whole"),
        pytest.param(Range(0.1, 1.0), (0.1, 1, 0.5), (0.0, 2, float("nan"), True, "0.5"), id="numbers"),
        pytest.param(Choice((3, 5, "max")), (3, "max"), (4, 3.0, True, "3"), id="choice"),
        pytest.param(Choice((0.0, 0.5)), (0, 0.0, 0.5), (1, False, "0"), id="choice of numbers"),
    ],
)
def test_a_space_holds_what_lies_in_its_bounds_and_is_of_its_kind(
    space: Range | Choice, inside: tuple[Any, ...], outside: tuple[Any, ...]
) -> None:
    assert [value for value in inside if value not in space] == []
    assert [value for value in outside if value in space] == []


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        pytest.param({"xgbost": {}}, UnknownNameError, "unknown family 'xgbost'.*Did you mean 'xgb'", id="family"),
        pytest.param(
            {"xgb": {"dept": 6}}, UnknownNameError, "hyper-parameter of xgb 'dept'.*Did you mean 'depth'", id="name"
        ),
        pytest.param(
            {"xgb": {"depth": "six"}}, ConfigurationError,
            r"xgb.depth = 'six'; expected a whole number from 1 to 12, such as 5", id="type",
        ),
        pytest.param(
            {"xgb": {"rate": 7}}, ConfigurationError,
            r"xgb.rate = 7; expected a number from 0.005 to 0.5, such as 0.05", id="out of bounds",
        ),
        pytest.param({"baseline": {"jobs": 0}}, ConfigurationError, "from 1 to 64, such as 2", id="of the baseline"),
        pytest.param({"gru": {"units": 8}}, ConfigurationError, "of gru are set, which takes no part", id="no part"),
        pytest.param({"xgb": 6}, ConfigurationError, "of xgb: 6; expected names and what", id="no names"),
        pytest.param([], ConfigurationError, r"hyper: \[\]; expected names", id="no mapping"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_meant_says_what_was_expected(
    values: Any, kind: type[ConfigurationError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        hyper.check(values, ("baseline", "xgb"))


def test_what_is_said_later_wins_and_a_preset_goes_before_the_familys_own() -> None:
    made = hyper.make("xgb", "quick", {"xgb": {"rate": 0.2, "rows": 0.9}, "gru": {"units": 8}}, {"xgb": {"rows": 0.8}})
    assert (made.rate, made.rows, made.rounds, made.depth) == (0.2, 0.8, 120, 5)


def test_a_problem_sets_hyper_parameters_of_its_own_and_a_run_goes_before_it(crowned: Trained, tmp_path: Path) -> None:
    content = yaml.safe_load((PACKAGE / "conf" / "problems" / "diagnosis.yaml").read_text())
    own = {"baseline": {"trees": 7, "members": 3}, "xgb": {"rounds": 9}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content | {"name": "own", "targets": "none", "hyper": own}))
    asked = {"families": (), "preset": "quick", "hyper": {"baseline": {"members": 2}}}
    plan = steps.plan(crowned.stored["snapshot"], str(tmp_path / "own.yaml"), "test/own", **asked)
    number = steps.train(plan, "baseline")["version"]
    told = json.loads(registry.connect().get_model_version("pump-own", number).tags["hyper"])
    assert (told["trees"], told["members"]) == (7, 2)
    assert tuning.Study(plan, "xgb").first.rounds == 9


def test_nothing_is_left_to_tune_where_everything_is_set() -> None:
    fixed = {"depth": 5, "rate": 0.1, "rows": 0.5, "columns": 0.5}
    assert list(hyper.tuned_space("xgb", [name for name in fixed if name != "rate"])) == ["rate"]
    with pytest.raises(ConfigurationError, match="all that tuning tries is set: depth, rate, rows, columns"):
        steps.check_names("diagnosis", ["xgb"], "quick", {"xgb": fixed}, 5)


@pytest.mark.parametrize("trials", [-1, 1.5, True, 10_000])
def test_a_number_of_trials_that_cannot_be_meant_is_refused(trials: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"trials = {trials}; expected 0, for no tuning, to 1000"):
        steps.check_names("diagnosis", ["xgb"], "quick", None, trials)


def test_what_a_run_sets_is_in_the_plan_the_run_and_the_version(crowned: Trained) -> None:
    values = {"baseline": {"trees": 7, "leaf": 3}}
    asked = {"families": (), "preset": "quick", "hyper": values}
    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/set", **asked)
    assert steps.read_plan("test/set")["hyper"] == values
    candidate = steps.train(plan, "baseline")
    client = registry.connect()
    logged = client.get_run(candidate["run"]).data.params
    assert (logged["trees"], logged["leaf"], logged["features"]) == ("7", "3", "0.4")
    version = client.get_model_version("pump-diagnosis", candidate["version"])
    assert '"trees": 7' in version.tags["hyper"]
    with pytest.raises(ConfigurationError, match="was planned with hyper = "):
        steps.plan(crowned.stored["snapshot"], "diagnosis", "test/set", families=(), preset="quick")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"hyper": {"xgb": {"depth": 99}}}, "xgb.depth = 99", id="hyper"),
        pytest.param({"trials": -1}, "trials = -1", id="trials"),
    ],
)
def test_a_wrong_value_is_refused_before_a_run_is_opened(
    crowned: Trained, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        steps.plan(crowned.stored["snapshot"], "diagnosis", "t/1", families=("xgb",), **changes)
    assert registry.parents(registry.connect(), "t/1") == []


# Labels


@pytest.fixture
def split(fleet: Telemetry, diagnosis: Problem) -> Split:
    return by_asset(fleet.readings, diagnosis.split, seed=7)


def changed(fleet: Telemetry, assets: tuple[str, ...], **values: Any) -> pd.DataFrame:
    """The fleet's readings with other labels of some assets."""
    rows = fleet.readings["asset_id"].isin(assets)
    return fleet.readings.assign(**{name: fleet.readings[name].mask(rows, value) for name, value in values.items()})


def test_labels_of_the_fleet_can_be_learnt(fleet: Telemetry, diagnosis: Problem, split: Split) -> None:
    readiness.check_labels(fleet.readings, split, diagnosis)


def test_one_class_among_the_training_assets_is_refused(fleet: Telemetry, diagnosis: Problem, split: Split) -> None:
    with pytest.raises(DataError, match=r"'mode' of the \d+ train assets: all \d+ readings are 'cavitation'; expected"):
        readiness.check_labels(changed(fleet, split.train, mode="cavitation"), split, diagnosis)
    for part in (split.validation, split.test):
        readiness.check_labels(changed(fleet, part, mode="cavitation"), split, diagnosis)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_target_without_a_value_is_refused(part: str, fleet: Telemetry, diagnosis: Problem, split: Split) -> None:
    with pytest.raises(DataError, match=rf"'rul_pct' of the \d+ {part} assets: no value in any reading"):
        readiness.check_labels(changed(fleet, getattr(split, part), rul_pct=float("nan")), split, diagnosis)
    readiness.check_labels(changed(fleet, split.test, rul_pct=float("nan")), split, diagnosis)


def test_a_target_without_a_column_is_refused(fleet: Telemetry, diagnosis: Problem, split: Split) -> None:
    with pytest.raises(DataError, match="no column 'health_pct', which problem 'diagnosis' asks for"):
        readiness.check_labels(fleet.readings.drop(columns="health_pct"), split, diagnosis)


# Inputs


@pytest.fixture
def with_waveforms(crowned: Trained) -> str:
    """Key of the crowned snapshot's readings, stored with a waveform at the last reading of each run."""
    root = Settings.load().data
    telemetry = snapshots.load(root, "snapshots", crowned.stored["snapshot"]).telemetry
    rows = telemetry.readings.groupby("run_id").tail(1)[list(KEYS)].reset_index(drop=True)
    values = np.random.default_rng(1).normal(0.0, 1.0, (len(rows), 1, 64)).astype(np.float32)
    waveforms = Waveforms(rows, values, (Sensor("drive_end_g", "g_0"),), 1000.0)
    return snapshots.store(root, "snapshots", replace(telemetry, waveforms=waveforms))


def test_a_family_of_waveforms_does_not_fit_a_snapshot_of_readings(crowned: Trained) -> None:
    with pytest.raises(ConfigurationError, match="'cnn2d' learns from each window's waveform, and snapshot 'v2-"):
        steps.plan(crowned.stored["snapshot"], "diagnosis", "t/1", families=("xgb", "cnn2d"))
    assert registry.parents(registry.connect(), "t/1") == []


def test_all_families_that_fit_take_part_where_none_is_named(crowned: Trained, with_waveforms: str) -> None:
    bare = crowned.stored["snapshot"]
    assert steps.plan(bare, "diagnosis", "t/1", preset="quick")["others"] == ["xgb", "cnn1d", "gru"]
    plan = steps.plan(with_waveforms, "diagnosis", "t/3", preset="quick")
    assert plan["others"] == ["xgb", "cnn1d", "cnn2d", "gru"]
    with pytest.raises(ConfigurationError, match="of cnn2d are set, which takes no part"):
        steps.plan(bare, "diagnosis", "t/2", hyper={"cnn2d": {"bands": 32}})
