"""Which assets a model learns from, is tuned on, and is judged by. An asset is in one part only, always."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from upath import UPath

from pump_ml import files
from pump_ml.errors import ConfigurationError, DataError, LeakError
from pump_ml.problems import Folds, SplitPolicy
from pump_ml.schema import ASSET, PART, RUN, TIME, natural

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The assets of each part.

    Raises:
        LeakError: an asset is in two parts.
        DataError: a part is empty.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for part in PARTS:
            assets: tuple[str, ...] = getattr(self, part)
            if not assets:
                raise DataError(f"the {part} part is empty; bring more assets, or change the shares of the split")
            for asset in assets:
                if asset in seen:
                    raise LeakError(
                        f"asset {asset!r} is in {seen[asset]} and in {part}; a model would be judged on a pump it has "
                        "seen: give each asset to one part"
                    )
                seen[asset] = part

    def to_json(self) -> dict[str, Any]:
        """The split manifest."""
        return {part: list(getattr(self, part)) for part in PARTS}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The split of a manifest."""
        return cls(*(tuple(content[part]) for part in PARTS))


def by_asset(readings: pd.DataFrame, policy: SplitPolicy, *, seed: int, fold: int = 0) -> Split:
    """Divide the assets as the policy says.

    An asset's stratum is its label in the policy's `stratify` column at its last reading: how it ended. The order
    within a stratum is that of a hash of seed and name, so the same seed gives the same split on any machine, and a
    new asset moves few old ones.

    Args:
        readings: of all assets.
        policy: shares, the data's own test part, or folds.
        seed: of train and validation, and of a test part that is a share.
        fold: which fold is judged, of `folds`.

    Raises:
        LeakError: the data's own parts share an asset, or the groups of folds do.
        DataError: a part comes out empty, or the policy needs a column that the readings lack.
        ConfigurationError: there is no such fold.
    """
    test: tuple[str, ...] | None = None
    if policy.test == "own":
        test = _own_test(readings)
    elif isinstance(policy.test, Folds):
        every = folds(readings, policy)
        if not 0 <= fold < len(every):
            raise ConfigurationError(f"fold {fold}; expected 0 to {len(every) - 1}, for {len(every)} folds")
        test = every[fold]
    strata = _strata(readings, policy)
    shares = {"train": policy.train, "validation": policy.validation}
    if isinstance(policy.test, float):
        shares["test"] = policy.test
    chosen: dict[str, list[str]] = {part: [] for part in PARTS}
    chosen["test"] = sorted(test or ())
    judged = set(chosen["test"])
    left_over = dict.fromkeys(shares, 0.0)
    for stratum in sorted(set(strata.values())):
        members = sorted((a for a, s in strata.items() if s == stratum and a not in judged), key=_order(seed))
        # What rounding owes a part in one stratum it gets in the next.
        position = 0
        for part, share in list(shares.items())[::-1]:
            wanted = share * len(members) + left_over[part]
            count = min(round(wanted), len(members) - position) if part != "train" else len(members) - position
            left_over[part] = wanted - count
            chosen[part] += members[position : position + count]
            position += count
    return Split(*(tuple(sorted(chosen[part])) for part in PARTS))


def store(
    root: UPath, snapshot: str, readings: pd.DataFrame, policy: SplitPolicy, *, seed: int, fold: int = 0
) -> tuple[str, Split]:
    """Divide a snapshot's assets and write the split's manifest, once.

    Args:
        root: of the data.
        snapshot: key of the snapshot that the readings are of.
        readings: see `by_asset`, also for the other arguments and the errors.
        policy: see `by_asset`.
        seed: see `by_asset`.
        fold: see `by_asset`.

    Returns:
        The split's key and the split.
    """
    split = by_asset(readings, policy, seed=seed, fold=fold)
    said = hashlib.sha256(policy.model_dump_json(exclude={"rotate"}).encode()).hexdigest()[:8]
    key = f"{snapshot}-{said}-s{seed}{f'-f{fold}' if isinstance(policy.test, Folds) else ''}"
    files.write_once(root / "splits" / f"{key}.json", split.to_json())
    return key, split


def rotations(split: Split, readings: pd.DataFrame, policy: SplitPolicy) -> list[tuple[str, ...]]:
    """The assets that each model sets aside where the validation part is rotated; none where it is not.

    The first sets the validation part aside; the training part is dealt to the others, stratum by stratum.

    Args:
        split: what the policy made of the readings.
        readings: see `by_asset`.
        policy: see `by_asset`.
    """
    if not policy.rotate:
        return []
    strata = _strata(readings, policy)
    dealt = sorted(split.train, key=lambda asset: (strata[asset], hashlib.sha256(asset.encode()).digest()))
    others = max(1, round(len(split.train) / len(split.validation)))
    return [split.validation, *(tuple(sorted(dealt[place::others])) for place in range(others))]


def folds(readings: pd.DataFrame, policy: SplitPolicy) -> list[tuple[str, ...]]:
    """The assets that each fold judges; none where the policy has no folds.

    Raises:
        LeakError: an asset is in two groups.
        DataError: the readings lack a column that the policy names, or hold fewer groups than folds.
    """
    asked = policy.test
    if not isinstance(asked, Folds):
        return []
    groups = _groups(readings, asked)
    names = sorted(set(groups.values()), key=natural)
    if asked.number == "each":
        return [tuple(sorted(asset for asset, group in groups.items() if group == name)) for name in names]
    if len(names) < asked.number:
        raise DataError(f"{len(names)} groups of assets for {asked.number} folds; bring more, or ask for fewer folds")
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold  # the core does without scikit-learn

    ends = readings.sort_values(TIME, kind="stable").groupby([ASSET, RUN], sort=False).tail(1)
    labels = None
    if asked.stratify is not None:
        labels = _column(ends, asked.stratify, "the folds are balanced by").astype(str).to_numpy()
    places = ends[ASSET].astype(str).map(groups).map({name: place for place, name in enumerate(names)}).to_numpy()
    kind = GroupKFold if labels is None else StratifiedGroupKFold
    cut = kind(asked.number, shuffle=True, random_state=asked.seed)
    assets = ends[ASSET].astype(str).to_numpy()
    return [tuple(sorted(set(assets[test]))) for _, test in cut.split(np.zeros(len(ends)), labels, places)]


def _groups(readings: pd.DataFrame, asked: Folds) -> dict[str, str]:
    """The group of each asset."""
    if asked.groups is None:
        return {str(asset): str(asset) for asset in readings[ASSET].unique()}
    pairs = readings[[ASSET]].assign(group=_column(readings, asked.groups, "the folds are of").astype(str))
    pairs = pairs.drop_duplicates()
    if len(twice := pairs[pairs[ASSET].duplicated(keep=False)]):
        asset = twice[ASSET].iloc[0]
        raise LeakError(
            f"asset {asset!r} is in the groups {', '.join(sorted(twice.loc[twice[ASSET] == asset, 'group']))} of "
            f"{asked.groups!r}; a fold would judge an asset that it has seen: give each asset to one group"
        )
    return {str(asset): str(group) for asset, group in pairs.itertuples(index=False)}


def _own_test(readings: pd.DataFrame) -> tuple[str, ...]:
    _column(readings, PART, "the split takes the data's own parts of")
    parts = readings.groupby(ASSET)[PART].unique()
    for asset, found in parts.items():
        if len(found) > 1:
            raise LeakError(f"asset {asset!r} is in the parts {', '.join(sorted(found))}; give each asset to one part")
    return tuple(str(asset) for asset, found in parts.items() if list(found) == ["test"])


def _column(readings: pd.DataFrame, name: str, needed: str) -> "pd.Series[Any]":
    if name not in readings:
        raise DataError(f"{needed} column {name!r}, which the readings lack; they have {', '.join(readings.columns)}")
    return readings[name]


def _strata(readings: pd.DataFrame, policy: SplitPolicy) -> dict[str, str]:
    if policy.stratify is None:
        return {str(asset): "" for asset in readings[ASSET].unique()}
    _column(readings, policy.stratify, "the split stratifies by")
    last = readings.sort_values(TIME, kind="stable").groupby(ASSET)[policy.stratify].last()
    return {str(asset): str(value) for asset, value in last.items()}


def _order(seed: int) -> Any:
    return lambda asset: hashlib.sha256(f"{seed}:{asset}".encode()).digest()
