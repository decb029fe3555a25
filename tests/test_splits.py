"""Splits: whole assets, disjoint parts, shares, strata, repeatability."""

import numpy as np
import pandas as pd
import pytest

from pump_ml.errors import ConfigurationError, DataError, LeakError
from pump_ml.split_policy import SplitPolicy
from pump_ml.splits import PARTS, Split, by_asset, folds

SHARES = SplitPolicy(train=0.6, validation=0.2, test=0.2, stratify="mode")
OWN = SplitPolicy(train=0.8, validation=0.2, test="own")


def readings(assets: int, modes: str = "ab", rows: int = 3) -> pd.DataFrame:
    """Readings of pumps that begin healthy and end in a mode; the modes take turns."""
    count = assets * rows
    asset = np.repeat(np.arange(assets), rows)
    place = np.tile(np.arange(rows), assets)
    mode = np.array(list(modes))[asset % len(modes)]
    return pd.DataFrame(
        {
            "asset_id": [f"p{number}" for number in asset],
            "run_id": [f"p{number}/0" for number in asset],
            "time": np.arange(count),
            "mode": np.where(place < rows - 1, "healthy", mode),
        }
    )


def test_a_split_is_the_same_on_every_machine() -> None:
    assert by_asset(readings(10), SHARES, seed=7) == Split(
        train=("p0", "p1", "p3", "p4", "p5", "p8"), validation=("p6", "p9"), test=("p2", "p7")
    )


@pytest.mark.parametrize("seed", [0, 7, 123])
@pytest.mark.parametrize("assets", [15, 40, 101])
def test_every_asset_is_in_one_part_and_in_one_only(assets: int, seed: int) -> None:
    frame = readings(assets, "abc")
    split = by_asset(frame, SHARES, seed=seed)
    parts = [set(getattr(split, part)) for part in PARTS]
    assert set.union(*parts) == set(frame["asset_id"])
    assert sum(map(len, parts)) == assets


@pytest.mark.parametrize("modes", ["a", "ab", "abcdefg", "aaaaab"])
@pytest.mark.parametrize("assets", [30, 56, 99])
def test_shares_hold_in_the_whole_and_within_each_mode_up_to_rounding(assets: int, modes: str) -> None:
    frame = readings(assets, modes)
    mode = frame.groupby("asset_id")["mode"].last()
    split = by_asset(frame, SHARES, seed=3)
    for part, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        members = list(getattr(split, part))
        assert abs(len(members) - share * assets) <= 2
        for name, size in mode.value_counts().items():
            assert abs((mode[members] == name).sum() - share * size) <= (2 if part == "train" else 1)


def test_the_mode_of_an_asset_is_the_one_it_ended_in_whatever_the_order_of_rows() -> None:
    frame = readings(20, "ab")
    split = by_asset(frame, SHARES, seed=7)
    for seed in range(3):
        assert by_asset(frame.sample(frac=1, random_state=seed), SHARES, seed=7) == split


def test_another_seed_gives_another_split() -> None:
    assert by_asset(readings(30), SHARES, seed=7) != by_asset(readings(30), SHARES, seed=8)


def test_a_new_asset_moves_few_old_ones() -> None:
    before, after = (by_asset(readings(n, "a"), SHARES, seed=7) for n in (100, 101))
    moved = sum(len(set(getattr(before, part)) - set(getattr(after, part))) for part in PARTS)
    assert moved <= 3


def with_parts() -> pd.DataFrame:
    frame = readings(20, "a")
    return frame.assign(part=np.where(frame["asset_id"].str[1:].astype(int) < 15, "train", "test"))


def test_the_own_test_part_is_taken_as_it_is_and_the_rest_is_divided() -> None:
    split = by_asset(with_parts(), OWN, seed=7)
    assert split.test == tuple(sorted(f"p{number}" for number in range(15, 20)))
    assert (len(split.train), len(split.validation)) == (12, 3)


def test_an_asset_in_both_of_the_datas_own_parts_is_a_leak() -> None:
    frame = with_parts()
    frame.loc[frame.index[0], "part"] = "test"
    with pytest.raises(LeakError, match="'p0' is in the parts test, train"):
        by_asset(frame, OWN, seed=7)


def test_an_asset_in_two_parts_of_a_split_is_a_leak() -> None:
    with pytest.raises(LeakError, match="'p1' is in train and in test"):
        Split(train=("p0", "p1"), validation=("p2",), test=("p1",))


@pytest.mark.parametrize(
    ("frame", "policy", "message"),
    [
        pytest.param(readings(2), SHARES, "the (validation|test) part is empty", id="too few assets"),
        pytest.param(readings(20), OWN, "column 'part', which the readings lack", id="no own part"),
        pytest.param(readings(20).drop(columns="mode"), SHARES, "stratifies by column 'mode'", id="no stratum"),
        pytest.param(with_parts().assign(part="train"), OWN, "the test part is empty", id="own part is empty"),
    ],
)
def test_what_cannot_be_split_is_refused(frame: pd.DataFrame, policy: SplitPolicy, message: str) -> None:
    with pytest.raises(DataError, match=message):
        by_asset(frame, policy, seed=7)


def test_a_split_comes_back_from_its_manifest() -> None:
    split = by_asset(readings(20), SHARES, seed=7)
    assert Split.from_json(split.to_json()) == split


def bearings() -> pd.DataFrame:
    """Readings of 24 bearings in runs of one row: three faults, two sizes, four of each."""
    frame = readings(24, "abc", rows=1)
    number = frame["asset_id"].str[1:].astype(int)
    return frame.assign(size=np.where(number < 12, "7", "21"))


def folded(**changes: object) -> SplitPolicy:
    return SplitPolicy.model_validate({"train": 0.75, "validation": 0.25, "test": changes})


def test_one_group_is_left_out_at_a_time_and_the_rest_is_divided() -> None:
    frame, policy = bearings(), folded(number="each", groups="size")
    every = folds(frame, policy)
    sizes = frame.set_index("asset_id")["size"]
    assert [set(sizes[list(fold)]) for fold in every] == [{"7"}, {"21"}], "in the order of numbers"
    for number, fold in enumerate(every):
        split = by_asset(frame, policy, seed=7, fold=number)
        assert split.test == fold
        assert (len(split.train), len(split.validation), len(split.test)) == (9, 3, 12)


def test_without_groups_one_asset_is_left_out_at_a_time() -> None:
    assert folds(readings(5), folded(number="each")) == [(f"p{number}",) for number in range(5)]


@pytest.mark.parametrize("stratify", [None, "mode"])
def test_each_asset_is_judged_in_one_of_the_folds(stratify: str | None) -> None:
    frame, policy = bearings(), folded(number=4, stratify=stratify)
    every = folds(frame, policy)
    assert sorted(asset for fold in every for asset in fold) == sorted(frame["asset_id"])
    if stratify:
        mode = frame.set_index("asset_id")["mode"]
        assert all(mode[list(fold)].value_counts().tolist() == [2, 2, 2] for fold in every)
    shuffled = frame.sample(frac=1, random_state=3)
    assert folds(shuffled, policy) == every, "the order of the rows does not matter"


def test_the_seed_of_a_run_does_not_move_the_folds() -> None:
    frame, policy = bearings(), folded(number=4)
    one, other = (by_asset(frame, policy, seed=seed, fold=2) for seed in (7, 8))
    assert one.test == other.test
    assert one.train != other.train


@pytest.mark.parametrize(
    ("frame", "changes", "fold", "error", "message"),
    [
        pytest.param(bearings(), {"number": 4}, 4, ConfigurationError, "fold 4; expected 0 to 3", id="no such fold"),
        pytest.param(bearings(), {"number": 25}, 0, DataError, "24 groups of assets for 25 folds", id="too many"),
        pytest.param(bearings(), {"number": 2, "groups": "load"}, 0, DataError, "column 'load'", id="no such column"),
        pytest.param(bearings(), {"number": 2, "stratify": "x"}, 0, DataError, "balanced by column 'x'", id="no label"),
        pytest.param(
            readings(6), {"number": "each", "groups": "mode"}, 0, LeakError, "'p0' is in the groups a, healthy",
            id="an asset in two groups",
        ),
    ],
)  # fmt: skip
def test_folds_that_cannot_be_are_refused(
    frame: pd.DataFrame, changes: dict[str, object], fold: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        by_asset(frame, folded(**changes), seed=7, fold=fold)


def test_one_fold_a_group_cannot_be_balanced() -> None:
    with pytest.raises(ValueError, match="leave stratify out, or give a number"):
        folded(number="each", stratify="mode")
