"""Committees: assets take turns at being set aside, and members answer together."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Trained
from test_baseline import PROBLEM, SEEN, rig

from pump_ml import files, registry, steps
from pump_ml.errors import DataError
from pump_ml.models import Answers, Predictor, Watch, committee, fitted_assets, load_predictor
from pump_ml.models.baseline import Baseline
from pump_ml.models.space import Choice, Range
from pump_ml.problems import Problem, load_problem, parse_problem
from pump_ml.settings import PACKAGE, Settings
from pump_ml.split_policy import SplitPolicy
from pump_ml.splits import by_asset, rotations, store
from pump_ml.windows import Windows
from pump_ml.work import Work

WEAR = parse_problem(
    {
        "name": "wear",
        "windows": {"length": 2, "stride": 2},
        "predicts": [{"name": "wear", "kind": "regression", "metric": "mae"}],
        "split": {"train": 0.6, "validation": 0.2, "rotate": True},
    },
    where="a test",
)


class RotePredictor(Predictor):
    """Answers 1 about an asset that it learnt from, and 0 about a stranger."""

    family = "rote"

    def answer(self, windows: Windows) -> Answers:
        return {"wear": windows.rows["asset_id"].isin(self.learnt).to_numpy(dtype=float)}

    learnt: tuple[str, ...] = ()

    def save_state(self, folder: Path) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def load_state(
        cls, folder: Path, state: dict[str, Any], problem: Problem, sensors: tuple[str, ...], assets: tuple[str, ...]
    ) -> Self:
        raise NotImplementedError


@dataclass(frozen=True)
class Rote:
    name: ClassVar[str] = "rote"
    inputs: ClassVar[Literal["readings", "waveform"]] = "readings"
    predictor: ClassVar[type[Predictor]] = RotePredictor
    requires: ClassVar[tuple[str, ...]] = ()
    space: ClassVar[dict[str, Range | Choice]] = {}

    def fit(
        self, train: Windows, validation: Windows, problem: Problem, *, seed: int, watch: Watch, **_: Any
    ) -> Predictor:
        watch(0, {"train/loss": float(seed), "progress": 0.5})
        made = RotePredictor(problem, train.sensors, fitted_assets(train, validation))
        made.learnt = fitted_assets(train)
        return made


def windows(assets: str, wear: float = 0.0) -> Windows:
    names = [asset for asset in assets for _ in range(3)]
    rows = pd.DataFrame({"asset_id": names, "run_id": names, "time": np.arange(len(names))})
    labels = pd.DataFrame({"wear": np.full(len(names), wear)})
    return Windows.stacked(np.zeros((len(names), 2, 1)), ("a",), rows, labels=labels)


def test_a_held_out_asset_is_answered_by_the_member_that_did_not_learn_from_it_and_others_by_all() -> None:
    made = committee.fit(Rote(), windows("abcd"), [("a", "c"), ("b",), ("d",)], WEAR, seed=0, watch=lambda *_: None)
    assert made.answer(windows("abcdx"))["wear"] == pytest.approx([2 / 3] * 12 + [0.0] * 3)
    assert made.answer_held_out(windows("dacbx"))["wear"].tolist() == [0.0] * 15
    assert made.assets == ("a", "b", "c", "d")


def test_a_member_that_is_far_out_counts_no_more_than_the_range_allows() -> None:
    ranged = WEAR.model_copy(update={"targets": (WEAR.targets[0].model_copy(update={"low": 0.0, "high": 0.5}),)})
    made = committee.fit(Rote(), windows("ab"), [("a",), ("b",)], ranged, seed=0, watch=lambda *_: None)
    assert made.answer(windows("ab"))["wear"].tolist() == [0.25] * 6


def test_intervals_are_as_wide_as_the_errors_about_assets_that_were_held_out() -> None:
    pool = windows("abcdefghijklmno", wear=4.0)
    made = committee.fit(Rote(), pool, [tuple("abcde"), tuple("fghij"), tuple("klmno")], WEAR, seed=0,
                         watch=lambda *_: None)  # fmt: skip
    made.calibrate(pool)
    answered = made.table(pool, held_out=True)
    assert answered["wear"].unique().tolist() == [0.0]
    assert answered["wear_high"].to_numpy() == pytest.approx(4.0)


def test_a_first_member_that_answers_alone_is_as_sure_as_all_members_were_right_about_what_they_held_out(
    tmp_path: Path,
) -> None:
    pool = rig(SEEN, 2)
    names = sorted(pool.rows["asset_id"].unique())
    turns = [tuple(names[place::5]) for place in range(5)]
    made = committee.fit(Baseline(trees=5, members=2), pool, turns, PROBLEM, seed=0, watch=lambda *_: None)
    first = made.first()
    first.calibrate(pool)
    made.calibrate(pool)
    assert first.calibration.intervals == made.calibration.intervals
    assert set(first.calibration.temperatures) == {"valve"}
    pd.testing.assert_frame_equal(first.table(pool, held_out=True)[["wear"]], made.table(pool, held_out=True)[["wear"]])
    first.save(tmp_path)
    loaded = load_predictor(tmp_path)
    assert not isinstance(loaded, committee.Committee)
    pd.testing.assert_frame_equal(loaded.table(pool), first.table(pool), check_exact=True)


@pytest.mark.parametrize("turns", [[("a", "b"), ()], [("a",), ("c",), ("b",)]], ids=["all", "none"])
def test_a_turn_that_leaves_nothing_to_learn_from_or_to_set_aside_is_refused(
    turns: list[tuple[str, ...]],
) -> None:
    with pytest.raises(DataError, match="drop rotate from the split"):
        committee.fit(Rote(), windows("ab"), turns, WEAR, seed=0, watch=lambda *_: None)


def test_where_a_group_is_judged_the_assets_of_the_others_take_turns() -> None:
    fold = {"number": "each", "groups": "size"}
    policy = SplitPolicy.model_validate({"train": 0.67, "validation": 0.33, "test": fold, "rotate": True})
    readings = pumps(9).assign(size=[str(number % 3) for number in range(9)])
    split = by_asset(readings, policy, seed=1, fold=0)
    turns = rotations(split, readings, policy)
    assert [len(turn) for turn in turns] == [2, 2, 2]
    assert sorted(asset for turn in turns for asset in turn) == sorted(set(readings["asset_id"]) - set(split.test))
    assert readings.loc[readings["asset_id"].isin(split.test), "size"].nunique() == 1


def test_members_have_seeds_of_their_own_and_report_side_by_side() -> None:
    seen: list[tuple[str, float]] = []
    committee.fit(Rote(), windows("ab"), [("a",), ("b",)], WEAR, seed=5, watch=lambda _, of: seen.extend(of.items()))
    assert seen == [("train/loss", 5.0), ("progress", 0.25), ("member_2/train/loss", 6.0), ("progress", 0.75)]


def test_a_committee_that_was_stored_answers_as_before(tmp_path: Path) -> None:
    pool = rig(SEEN, 2)
    names = sorted(pool.rows["asset_id"].unique())
    made = committee.fit(Baseline(trees=5, members=2), pool, [tuple(names[::2]), tuple(names[1::2])], PROBLEM, seed=0,
                         watch=lambda *_: None)  # fmt: skip
    made.calibrate(pool)
    made.save(tmp_path)
    loaded = load_predictor(tmp_path)
    assert isinstance(loaded, committee.Committee)
    assert loaded.family == "baseline"
    pd.testing.assert_frame_equal(loaded.table(pool), made.table(pool), check_exact=True)
    pd.testing.assert_frame_equal(loaded.table(pool, held_out=True), made.table(pool, held_out=True), check_exact=True)


def test_a_committee_has_intervals_and_no_temperature_which_its_members_alone_would_have() -> None:
    pool = rig(SEEN, 2)
    names = sorted(pool.rows["asset_id"].unique())
    assert len(names) >= 10
    made = committee.fit(Baseline(trees=5, members=2), pool, [tuple(names[::2]), tuple(names[1::2])], PROBLEM, seed=0,
                         watch=lambda *_: None)  # fmt: skip
    probabilities = made.answer(pool)["valve"]
    made.calibrate(pool)
    assert made.calibration.temperatures == {}
    assert set(made.calibration.intervals) == {"wear"}
    columns = [f"valve_p_{name}" for name in "012"]
    assert made.table(pool)[columns].to_numpy() == pytest.approx(probabilities, abs=1e-12)
    for member in made.members:
        member.calibrate(pool)
        assert set(member.calibration.temperatures) == {"valve"}


def pumps(count: int) -> pd.DataFrame:
    names = [f"p{number}" for number in range(count)]
    return pd.DataFrame({"asset_id": names, "run_id": names, "time": 0, "mode": [str(n % 2) for n in range(count)]})


@pytest.mark.parametrize(("train", "validation", "models"), [(0.6, 0.2, 4), (0.4, 0.4, 2), (0.7, 0.1, 8)])
def test_each_asset_that_is_not_judged_is_set_aside_once(train: float, validation: float, models: int) -> None:
    readings = pumps(40)
    policy = SplitPolicy(train=train, validation=validation, test=0.2, stratify="mode", rotate=True)
    split = by_asset(readings, policy, seed=1)
    turns = rotations(split, readings, policy)
    assert len(turns) == models
    assert turns[0] == split.validation
    assert sorted(asset for turn in turns for asset in turn) == sorted((*split.train, *split.validation))
    for turn in turns:
        share = np.mean([int(asset[1:]) % 2 for asset in turn])
        assert abs(share - 0.5) <= 1 / len(turn)


def test_without_rotation_there_are_no_turns_and_the_split_has_the_same_key_with_it() -> None:
    readings, root = pumps(20), Settings.load().data
    plain = SplitPolicy(train=0.6, validation=0.2, test=0.2)
    turning = plain.model_copy(update={"rotate": True})
    assert rotations(by_asset(readings, plain, seed=1), readings, plain) == []
    assert store(root, "s", readings, plain, seed=1) == store(root, "s", readings, turning, seed=1)


def test_a_problem_that_rotates_goes_all_the_way_and_leaves_no_checkpoint_to_go_on_from(
    crowned: Trained, tmp_path: Path
) -> None:
    content = yaml.safe_load((PACKAGE / "conf" / "problems" / "diagnosis.yaml").read_text())
    content["split"]["rotate"] = True
    content["targets"] = "none"
    (tmp_path / "turns.yaml").write_text(yaml.safe_dump(content | {"name": "turns"}))
    plan = steps.plan(
        crowned.stored["snapshot"], str(tmp_path / "turns.yaml"), "test/turns", families=("cnn1d",), preset="quick",
        hyper={"cnn1d": {"epochs": 1}},
    )  # fmt: skip
    candidates = [steps.train(plan, "baseline")]
    steps.gate(plan, candidates[0])
    candidates.append(steps.train(plan, "cnn1d"))
    assert steps.train(plan, "cnn1d") == candidates[1]
    predictor = registry.predictor_of(registry.load_model("pump-turns", candidates[1]["version"]))
    assert isinstance(predictor, committee.Committee)
    split = registry.connect().download_artifacts(candidates[1]["run"], "split.json")
    told = yaml.safe_load(Path(split).read_text())
    assert sorted(predictor.assets) == sorted(told["train"] + told["validation"])
    assert len(predictor.members) == 4

    (folder,) = (Settings.load().data / "checkpoints").iterdir()
    kept = files.names(folder)
    assert len(kept) == 4
    for name in kept:
        with np.load(folder / name) as found:
            assert json.loads(found["state"].tobytes()) == {"fingerprint": ""}

    evaluation = steps.evaluate(plan, candidates)
    assert {card["family"] for card in evaluation["scorecards"]} == {"baseline", "cnn1d"}


@pytest.mark.parametrize(("preset", "models"), [("quick", 0), ("standard", 4)])
def test_turns_that_only_calibrate_are_taken_where_the_preset_takes_the_time(
    crowned: Trained, preset: str, models: int
) -> None:
    definition = load_problem("diagnosis").model_dump(mode="json")
    definition["split"]["rotate"] = "calibrate"
    work = Work({**crowned.plan, "definition": definition, "preset": preset})
    assert len(work.rotations) == models
    learn, tune = work.learning()
    made = work.fit(Baseline(trees=5, members=2), learn, tune, seed=0, watch=lambda *_: None)
    assert not isinstance(made, committee.Committee)
    assert sorted(made.assets) == sorted((*work.split.train, *work.split.validation))
    held = tune.rows["asset_id"].nunique()
    assert held == len(made.assets) if models else held == len(work.split.validation)
