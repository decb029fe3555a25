"""Splits by time: what a part holds, what crosses no cut, and what a model of the past may be judged by."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from upath import UPath

from pump_ml import files, hyper, readiness, registry, snapshots, splits, steps, trial
from pump_ml.errors import ConfigurationError, DataError, LeakError
from pump_ml.evaluation import refuse_seen, seen
from pump_ml.models import Predictor, fitted_until, load_predictor
from pump_ml.models.xgb import Xgb
from pump_ml.problems import Problem, parse_problem
from pump_ml.protocols import Protocol
from pump_ml.schema import Sensor, Telemetry
from pump_ml.settings import Settings
from pump_ml.splits import PARTS, Split, divide
from pump_ml.windows import Windows, make_windows
from pump_ml.work import Work

BEGIN = pd.Timestamp("2025-01-01", tz="UTC")
SENSORS = ("hour_h", "vibration_mm_s")
HOURS, RECORD = 240, 24


def machine(name: str, first: int = 0, hours: int = HOURS) -> pd.DataFrame:
    """Hourly readings of one machine, which is worn every other day; the first day is its record, a run of its own."""
    hour = np.arange(first, first + hours)
    record = np.arange(hours) < RECORD
    worn = (hour // 12) % 2 == 1
    draw = np.random.default_rng(sum(map(ord, name)))
    return pd.DataFrame(
        {
            "asset_id": name,
            "run_id": np.where(record, f"{name}/record", f"{name}/0"),
            "time": (BEGIN + pd.to_timedelta(hour, unit="h")).as_unit("us"),
            "commissioning": record,
            "hour_h": hour.astype(float),
            "vibration_mm_s": 2.0 + 3.0 * worn + draw.normal(0.0, 0.2, hours),
            "state": np.where(worn, "worn", "healthy"),
            "wear": 20.0 + 60.0 * worn,
        }
    )


def plant(*more: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([*(machine(f"m{number}") for number in range(5)), *more], ignore_index=True)


def question(share: float = 0.2, embargo: str = "0s", *, reference: bool = False, **split: Any) -> Problem:
    return parse_problem(content(share, embargo, reference=reference, **split), where="plant.yaml")


def content(share: float = 0.2, embargo: str = "0s", *, reference: bool = False, **split: Any) -> dict[str, Any]:
    by_time = {"by": "time", "share": share, "embargo": embargo}
    return {
        "name": "plant",
        "windows": {"length": 6, "stride": 2, "judged": "all"},
        "reference": "commissioning" if reference else None,
        "predicts": [
            {"name": "state", "kind": "classes", "classes": ["healthy", "worn"], "metric": "accuracy"},
            {"name": "wear", "kind": "regression", "metric": "mae"},
        ],
        "split": {"train": 0.8 - share, "validation": 0.2, "test": by_time} | split,
    }


def split_of(readings: pd.DataFrame, problem: Problem, seed: int = 7) -> Split:
    return divide(readings, problem.split, seed=seed, reference=problem.reference)


def windows_of(readings: pd.DataFrame, problem: Problem, part: str, split: Split | None = None) -> Windows:
    split = split or split_of(readings, problem)
    return make_windows(split.rows(readings, part), problem, SENSORS)


# What a part holds


@pytest.mark.parametrize("embargo", ["0s", "5h", "1D"])
def test_parts_follow_each_other_in_time_and_the_embargo_lies_between_them(embargo: str) -> None:
    readings = plant()
    split = split_of(readings, question(embargo=embargo))
    parts = [split.rows(readings, part) for part in PARTS]
    for earlier, later in pairwise(parts):
        assert later["time"].min() - earlier["time"].max() > pd.Timedelta(embargo)
    assert split.train == split.validation == split.test == ("m0", "m1", "m2", "m3", "m4")
    left_out = 2 * 5 * int(pd.Timedelta(embargo) / pd.Timedelta("1h"))
    assert sum(map(len, parts)) == len(readings) - left_out, "every other reading is in one part"
    assert len(parts[0]) == 0.6 * len(readings)


def test_readings_of_one_moment_are_in_one_part_wherever_the_cut_falls() -> None:
    readings = plant().query("hour_h < 7")  # 35 readings of 7 moments, cut after 21 and 28
    parts = [split_of(readings, question()).rows(readings, part)["hour_h"].unique().tolist() for part in PARTS]
    assert parts == [[0, 1, 2, 3], [4], [5, 6]]


def test_the_order_of_the_rows_and_the_seed_do_not_move_the_cuts() -> None:
    readings, problem = plant(), question(embargo="3h")
    split = split_of(readings, problem)
    assert split_of(readings, problem) == split
    assert split_of(readings.sample(frac=1, random_state=3), problem, seed=8) == split
    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split


def test_a_machine_that_was_put_up_late_is_in_the_parts_it_has_readings_in() -> None:
    split = split_of(plant(machine("late", first=200, hours=40)), question(reference=True))
    assert "late" not in split.train + split.validation
    assert "late" in split.test


# Commissioning records


def test_the_record_that_a_machine_is_compared_with_is_in_each_of_its_parts_and_never_asked_about() -> None:
    readings, problem = plant(), question(reference=True)
    readings.loc[readings["commissioning"], ["state", "wear"]] = ["never", 1e9]
    split = split_of(readings, problem)
    for part in PARTS:
        rows = split.rows(readings, part)
        assert rows["commissioning"].sum() == 5 * RECORD
        windows = windows_of(readings, problem, part, split)
        assert windows.commissioning is not None
        assert {len(record) for record in windows.commissioning.values()} == {RECORD}
        assert windows.readings[:, 0].min() >= RECORD, "no window holds a reading of a record"
        assert windows.labels["wear"].max() < 1e9
    readiness.check_labels(readings, split, problem)


def test_records_do_not_count_where_the_cuts_fall() -> None:
    readings = plant()
    with_records, without = (split_of(readings, question(reference=reference)) for reference in (True, False))
    counted = readings[~readings["commissioning"]]
    assert len(with_records.rows(counted, "train")) == pytest.approx(0.6 * len(counted), abs=5)
    assert len(without.rows(readings, "train")) == pytest.approx(0.6 * len(readings), abs=5)


def test_without_a_reference_the_first_readings_are_readings_as_any_other() -> None:
    readings = plant()
    split = split_of(readings, question())
    assert [split.rows(readings, part)["commissioning"].sum() for part in PARTS] == [5 * RECORD, 0, 0]


def test_a_record_of_later_is_not_learnt_from() -> None:
    again = machine("again")
    record = again["hour_h"].between(200, 219)
    again = again.assign(commissioning=record, run_id=np.where(record, "again/record", "again/0"))
    readings, problem = plant(again), question(reference=True)
    split = split_of(readings, problem)
    assert "again" not in split.train + split.validation
    assert "again" in split.test
    for part in ("train", "validation"):
        assert "again" not in set(split.rows(readings, part)["asset_id"])
    assert split.times is not None
    # One that was begun before a cut and went on after it is known as far as it had come.
    longer = again.assign(commissioning=again["hour_h"].between(100, 219))
    readings = plant(longer)
    split = split_of(readings, problem)
    assert split.times is not None
    known = split.rows(readings, "train").query("asset_id == 'again' and commissioning")
    assert 0 < len(known) < 120
    assert known["time"].max() <= split.times["train"][1]


# Windows


@pytest.mark.parametrize("embargo", ["0s", "5h"])
@pytest.mark.parametrize("reference", [False, True])
def test_no_window_reaches_over_a_cut(embargo: str, reference: bool) -> None:
    readings, problem = plant(), question(embargo=embargo, reference=reference)
    split = split_of(readings, problem)
    assert split.times is not None
    for part in PARTS:
        windows = windows_of(readings, problem, part, split)
        assert len(windows) > 10
        hours = windows.x[..., 0]
        assert (np.diff(hours, axis=1) == 1.0).all(), "a window is a stretch of neighbours"
        begin, end = ((time - BEGIN) / pd.Timedelta("1h") for time in split.times[part])
        assert begin <= hours.min() <= hours.max() <= end
        assert windows.begins is not None
        assert ((windows.begins - BEGIN) / pd.Timedelta("1h")).tolist() == hours[:, 0].tolist()


# Keys and manifests


def test_every_way_to_divide_has_a_key_of_its_own(tmp_path: Path) -> None:
    readings, root = plant(), UPath(tmp_path)
    asked = [question(), question(0.3), question(embargo="1h"), question(embargo="2h"), question(reference=True)]
    stored = [
        splits.store(root, "plant-1", readings, problem.split, seed=7, reference=problem.reference) for problem in asked
    ]
    assert len({key for key, _ in stored}) == len(asked)
    for problem, (key, split) in zip(asked, stored, strict=True):
        again = splits.store(root, "plant-1", readings, problem.split, seed=7, reference=problem.reference)
        assert again == (key, split)
        assert Split.from_json(files.read_json(root / "splits" / f"{key}.json")) == split


def test_splits_by_asset_keep_their_keys_and_their_manifests(tmp_path: Path) -> None:
    problem = question(train=0.6, test=0.2, reference=True)
    root = UPath(tmp_path)
    key, split = splits.store(root, "plant-1", plant(), problem.split, seed=7, reference=problem.reference)
    assert key == "plant-1-8f28509c-s7"
    assert (root / "splits" / f"{key}.json").read_text() == (
        '{\n "test": [\n  "m3"\n ],\n "train": [\n  "m1",\n  "m2",\n  "m4"\n ],\n "validation": [\n  "m0"\n ]\n}'
    )
    assert split.times is None
    assert Split.from_json({"train": ["a"], "validation": ["b"], "test": ["c"]}) == Split(("a",), ("b",), ("c",))


# What is refused


@pytest.mark.parametrize(
    "embargo", ["soon", "-1h", "NaT", "5", "", 0, 3600, None, True], ids=lambda given: f"{given!r}"
)
def test_an_embargo_that_is_no_duration_is_refused(embargo: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"embargo {embargo!r}; expected a duration .* such as 0s, 1h, 7D"):
        question(embargo=embargo)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"train": 0.7}, "add up to 1.1, expected 1", id="shares"),
        pytest.param({"stratify": "state"}, "stratify 'state' balances assets", id="strata"),
        pytest.param({"rotate": True}, "rotate has assets take turns", id="turns"),
        pytest.param({"test": {"by": "season", "share": 0.2}}, "Input should be 'time'", id="by something else"),
        pytest.param({"test": {"by": "time", "share": 0.2, "gap": "1h"}}, "gap", id="unknown key"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?s)plant.yaml.*{message}"):
        question(**changes)


@pytest.mark.parametrize(
    ("readings", "embargo", "message"),
    [
        pytest.param(plant().assign(time=range(5 * HOURS)), "0s", "these readings count cycles", id="cycles"),
        pytest.param(plant(), "3D", "no reading is in the validation part.*embargo is 3 days", id="long embargo"),
        pytest.param(plant().assign(time=BEGIN), "0s", "no reading is in the train part", id="one moment"),
        pytest.param(plant()[:0], "0s", "no reading is in the train part", id="no readings"),
    ],
)
def test_readings_that_cannot_be_divided_are_refused(readings: pd.DataFrame, embargo: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_of(readings, question(embargo=embargo))


def test_parts_that_share_a_moment_are_a_leak() -> None:
    times = [(BEGIN + pd.Timedelta(days=day), BEGIN + pd.Timedelta(days=day + 1)) for day in (0, 2, 3)]
    with pytest.raises(LeakError, match=r"validation part lasts until 2025-01-04 .* test part begins at 2025-01-04"):
        Split(("a",), ("a",), ("a",), times=dict(zip(PARTS, times, strict=True)))


def test_labels_are_looked_at_in_the_time_that_is_learnt_from() -> None:
    readings, problem = plant(), question()
    split = split_of(readings, problem)
    assert split.times is not None
    learnt = readings["time"] <= split.times["train"][1]
    with pytest.raises(DataError, match="'state' of the 5 train assets: all 720 readings are 'worn'"):
        readiness.check_labels(readings.assign(state=readings["state"].mask(learnt, "worn")), split, problem)


def test_a_benchmark_does_not_judge_records_that_every_part_has(tmp_path: Path) -> None:
    (tmp_path / "plant.yaml").write_text(yaml.safe_dump(content(reference=True)))
    protocol = Protocol(description="a plant", source="files", problem=str(tmp_path / "plant.yaml"), reference=True)
    with pytest.raises(ConfigurationError, match="its split by time has that in every part; leave reference out"):
        protocol.questions()


# What a model may be judged by


@pytest.fixture(scope="module")
def fitted() -> tuple[Problem, pd.DataFrame, Predictor]:
    """Two boosters that learnt from the past of machines m0 to m3, and were calibrated a little later."""
    problem = question()
    readings = plant().query("asset_id != 'm4'")
    learn, tune = (windows_of(readings, problem, part) for part in ("train", "validation"))
    predictor = Xgb(rounds=5, jobs=1).fit(learn, tune, problem, seed=1, watch=lambda *_: None)
    predictor.fitted_until = fitted_until(learn, tune)
    predictor.calibrate(tune)
    return problem, readings, predictor


def test_a_model_is_judged_by_windows_that_begin_after_what_it_has_seen(
    fitted: tuple[Problem, pd.DataFrame, Predictor],
) -> None:
    problem, readings, predictor = fitted
    until = predictor.fitted_until
    assert until is not None
    assert until == split_of(readings, problem).rows(readings, "validation")["time"].max()
    refuse_seen(predictor, windows_of(readings, problem, "test"))
    for hours, refused in ((0, True), (1, False)):
        rows = readings[readings["time"] >= until + pd.Timedelta(hours=hours)]
        windows = make_windows(rows, replace_stride(problem, 1), SENSORS)
        assert seen(predictor, windows).sum() == 4 * refused, "the first window of each machine reaches back to it"
        if refused:
            with pytest.raises(LeakError, match=r"fitted on 4 of the assets .* \(m0, m1, m2, m3\) until 2025-01"):
                refuse_seen(predictor, windows)
    refuse_seen(predictor, make_windows(machine("stranger"), problem, SENSORS))


def replace_stride(problem: Problem, stride: int) -> Problem:
    return problem.model_copy(update={"windows": problem.windows.model_copy(update={"stride": stride})})


def test_a_model_of_which_no_time_is_known_is_judged_by_other_assets_alone(
    fitted: tuple[Problem, pd.DataFrame, Predictor], tmp_path: Path
) -> None:
    problem, readings, predictor = fitted
    windows = windows_of(readings, problem, "test")
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path)
    assert loaded.fitted_until == predictor.fitted_until
    refuse_seen(loaded, windows)
    assert seen(loaded, replace(windows, begins=None)).all(), "nobody knows when these windows begin"

    stored = json.loads((tmp_path / "predictor.json").read_text())
    stored["fitted_until"] = None  # as of a split by asset
    (tmp_path / "predictor.json").write_text(json.dumps(stored))
    earlier = load_predictor(tmp_path)
    assert earlier.fitted_until is None
    with pytest.raises(LeakError):
        refuse_seen(earlier, windows)


def test_to_calibrate_on_later_windows_is_to_have_seen_them(
    fitted: tuple[Problem, pd.DataFrame, Predictor], tmp_path: Path
) -> None:
    problem, readings, predictor = fitted
    predictor.save(tmp_path)
    again, later = load_predictor(tmp_path), windows_of(readings, problem, "test")
    again.calibrate(later)
    assert again.fitted_until == later.rows["time"].max()
    with pytest.raises(LeakError):
        refuse_seen(again, later)


# Training runs


def telemetry(readings: pd.DataFrame) -> Telemetry:
    sensors = (Sensor("hour_h", "hour"), Sensor("vibration_mm_s", "mm/s"))
    return Telemetry(readings, sensors, ("state", "wear"), "telemetry", {"dataset": "plant"})


def planned(folder: Path, snapshot: str, run: str, problem: dict[str, Any]) -> dict[str, Any]:
    path = folder / f"{run}.yaml"
    path.write_text(yaml.safe_dump(problem | {"targets": {"state": 0.8, "wear": 20.0}, "features": ["vibration_mm_s"]}))
    return steps.plan(snapshot, str(path), f"test/{run}", families=(), preset="quick")


def test_a_run_learns_from_the_past_and_is_judged_by_the_future_and_so_is_the_champion(tmp_path: Path) -> None:
    readings = plant(machine("late", first=180, hours=60))
    snapshot = snapshots.store(Settings.load().data, "snapshots", telemetry(readings))
    late = planned(tmp_path, snapshot, "late", content(0.2, "2h", reference=True))
    early = planned(tmp_path, snapshot, "early", content(0.4, "2h", reference=True))
    whole = planned(tmp_path, snapshot, "whole", content(train=0.6, test=0.2, reference=True))
    trained = {plan["run_key"]: steps.train(plan, "baseline") for plan in (late, early, whole)}
    mine = trained["test/late"]
    client, model = registry.connect(), "pump-plant"

    def until(run: str) -> pd.Timestamp | None:
        return registry.predictor_of(registry.load_model(model, trained[run]["version"])).fitted_until

    judged = Work(late).judged()
    assert until("test/whole") is None
    assert until("test/early") < until("test/late") < judged.begins.min()  # type: ignore[operator, union-attr]
    steps.gate(late, mine)
    first = steps.evaluate(late, [mine])
    assert first["rows"] == len(judged)
    assert first["champion"] is None
    assert first["scorecards"][0]["test"]["state"] > 0.9
    assert set(judged.rows["asset_id"]) == {"late", *(f"m{number}" for number in range(5))}
    decision = steps.promote(late, first)
    assert decision["promoted"]
    steps.report(late, first, decision)

    # The champion learnt from later readings than the challenger is judged from: only what comes after them counts.
    contest = steps.evaluate(early, [trained["test/early"]])
    begins = Work(early).judged().begins
    assert begins is not None
    assert 0 < contest["champion"]["rows"] == (begins > until("test/late")).sum() < contest["rows"]
    with pytest.raises(LeakError, match="until 2025-01"):
        steps.evaluate(early, [mine])

    # A champion of whole machines has seen all of theirs, so only those that it does not know count.
    registry.crown(client, model, trained["test/whole"]["version"])
    contest = steps.evaluate(late, [mine])
    strangers = judged.rows["asset_id"].isin(Work(whole).split.test)
    assert 0 < contest["champion"]["rows"] == strangers.sum() < contest["rows"]


def test_a_benchmark_asks_about_the_future_too() -> None:
    root, readings, problem = Settings.load().data, plant(), question(embargo="2h")
    stored = snapshots.store(root, "snapshots", telemetry(readings))
    split, found = splits.store(root, stored, readings, problem.split, seed=7)
    work = Work({"snapshot": stored, "definition": problem.model_dump(mode="json"), "split": split})
    assert work.problem == problem
    assert work.split == found
    answers, _, _ = trial.learn_and_answer(work, hyper.make("baseline", "quick", {}), 7, lambda _: None)
    assert found.times is not None
    assert len(answers) == len(work.truth())
    assert answers["time"].min() >= found.times["test"][0]
    assert work.example()["asset_id"].unique().tolist() == ["m0"]


def test_there_is_no_limit_of_a_split_by_time(fleet: Telemetry, diagnosis: Problem) -> None:
    root = Settings.load().data
    stored = snapshots.store(root, "snapshots", fleet)
    test = {"by": "time", "share": 0.2}
    problem = Problem.model_validate(
        diagnosis.model_dump(mode="json") | {"split": {"train": 0.6, "validation": 0.2, "test": test}}
    )
    split, _ = splits.store(root, stored, fleet.readings, problem.split, seed=7, reference=problem.reference)
    work = Work({"snapshot": stored, "definition": problem.model_dump(mode="json"), "split": split})
    assert work.limit(lambda _: None) == {}
