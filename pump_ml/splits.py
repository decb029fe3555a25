"""Which assets a model learns from, is tuned on, and is judged by. An asset is in one part only.

The one exception is a split by time, which a problem has to ask for: there, a moment is in one part only.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from upath import UPath

from pump_ml import files
from pump_ml.errors import ConfigurationError, DataError, LeakError
from pump_ml.schema import ASSET, COMMISSIONING, PART, RUN, TIME, natural
from pump_ml.split_policy import ByTime, Folds, SplitPolicy

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The assets of each part, and in a split by time the times of its readings.

    Args:
        train: the assets that are learnt from.
        validation: that stop and tune the learning.
        test: that are judged.
        times: first and last time of each part, both of it; None in a split by asset.
        records: whether commissioning records are what assets are compared with: then, in a split by time, an asset's
            record is in each of its parts.

    Raises:
        LeakError: an asset is in two parts, or in a split by time a part does not end before the next one begins.
        DataError: a part is empty.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    times: Mapping[str, tuple[pd.Timestamp, pd.Timestamp]] | None = field(default=None, kw_only=True)
    records: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.times:
            for earlier, later in pairwise(PARTS):
                end, begin = self.times[earlier][1], self.times[later][0]
                if end >= begin:
                    raise LeakError(
                        f"the {earlier} part lasts until {end}, and the {later} part begins at {begin}; a model would "
                        "learn from a time that it is judged by: let each part end before the next one begins"
                    )
        seen: dict[str, str] = {}
        for part in PARTS:
            assets: tuple[str, ...] = getattr(self, part)
            if not assets:
                raise DataError(f"the {part} part is empty; bring more assets, or change the shares of the split")
            for asset in assets:
                if asset in seen and not self.times:
                    raise LeakError(
                        f"asset {asset!r} is in {seen[asset]} and in {part}; a model would be judged on a pump it has "
                        "seen: give each asset to one part"
                    )
                seen[asset] = part

    def rows(self, readings: pd.DataFrame, part: str) -> pd.DataFrame:
        """The readings of a part: those of its assets and, in a split by time, of its time.

        There, the record that an asset is compared with is in each of its parts, as far as it was taken by the part's
        end.
        """
        here = readings[ASSET].isin(getattr(self, part))
        if self.times:
            begin, end = self.times[part]
            within = readings[TIME].between(begin, end)
            if self.records:
                within |= readings[COMMISSIONING].astype(bool) & (readings[TIME] <= end)
            here &= within
        return readings[here]

    def to_json(self) -> dict[str, Any]:
        """The split manifest."""
        content: dict[str, Any] = {part: list(getattr(self, part)) for part in PARTS}
        if self.times:
            content["times"] = {part: [time.isoformat() for time in self.times[part]] for part in PARTS}
            content["records"] = self.records
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The split of a manifest."""
        assets = (tuple(content[part]) for part in PARTS)
        if "times" not in content:
            return cls(*assets)
        times = {part: (pd.Timestamp(begin), pd.Timestamp(end)) for part, (begin, end) in content["times"].items()}
        return cls(*assets, times=times, records=content["records"])


def divide(
    readings: pd.DataFrame,
    policy: SplitPolicy,
    *,
    seed: int,
    fold: int = 0,
    reference: Literal["commissioning"] | None = None,
) -> Split:
    """Divide the assets or, where the policy asks for it, time.

    Args:
        readings: see `by_asset`, also for the other arguments and the errors, and `by_time`.
        policy: see `by_asset`.
        seed: see `by_asset`; time is always divided alike.
        fold: see `by_asset`.
        reference: of the problem: what assets are compared with.
    """
    if isinstance(policy.test, ByTime):
        return by_time(readings, policy.train, policy.validation, policy.test.gap, records=reference is not None)
    return by_asset(readings, policy, seed=seed, fold=fold)


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
    root: UPath,
    snapshot: str,
    readings: pd.DataFrame,
    policy: SplitPolicy,
    *,
    seed: int,
    fold: int = 0,
    reference: Literal["commissioning"] | None = None,
) -> tuple[str, Split]:
    """Divide a snapshot and write the split's manifest, once.

    Args:
        root: of the data.
        snapshot: key of the snapshot that the readings are of.
        readings: see `divide`, also for the other arguments and the errors.
        policy: see `divide`.
        seed: see `divide`.
        fold: see `divide`.
        reference: see `divide`.

    Returns:
        The split's key and the split.
    """
    split = divide(readings, policy, seed=seed, fold=fold, reference=reference)
    said = hashlib.sha256(policy.model_dump_json(exclude={"rotate"}).encode()).hexdigest()[:8]
    key = f"{snapshot}-{said}-s{seed}{f'-f{fold}' if isinstance(policy.test, Folds) else ''}"
    if split.records:
        key += "-records"
    files.write_once(root / "splits" / f"{key}.json", split.to_json())
    return key, split


def rotations(split: Split, readings: pd.DataFrame, policy: SplitPolicy) -> list[tuple[str, ...]]:
    """The assets that each model sets aside where the validation part is rotated; none where it is not.

    The first sets the validation part aside; the training part is dealt to the others, stratum by stratum, in an order
    that no seed changes.

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


def by_time(
    readings: pd.DataFrame, train: float, validation: float, gap: pd.Timedelta, *, records: bool = False
) -> Split:
    """Divide time by one pair of cuts for all assets: training comes first, then validation, then what is judged.

    Args:
        readings: of all assets.
        train: share of the readings before the first cut.
        validation: share between the cuts.
        gap: readings sooner than this after a cut are in no part. A reading at a cut comes after it.
        records: whether commissioning records are what assets are compared with. They do not count as readings then,
            and an asset is in no part that ended before its record began.

    Raises:
        DataError: the readings' times are no timestamps, or a part comes out empty.
    """
    if readings[TIME].dtype.kind != "M":
        raise DataError(
            "a split by time takes timestamps; these readings count cycles, and cycle 5 of two assets is not one "
            "moment: bring times, or split by asset"
        )
    apart = readings[COMMISSIONING].astype(bool) if records else pd.Series(data=False, index=readings.index)
    counted, begun = readings[~apart], readings[apart].groupby(ASSET)[TIME].min()
    ordered = counted[TIME].sort_values(ignore_index=True)
    places = [min(round(share * len(ordered)), len(ordered) - 1) for share in (train, train + validation)]
    first, second = ordered.iloc[places] if len(ordered) else (pd.NaT, pd.NaT)
    time = counted[TIME]
    inside = {
        "train": time < first,
        "validation": (time >= first + gap) & (time < second),
        "test": time >= second + gap,
    }
    assets, times = {}, {}
    for part, here in inside.items():
        rows = counted[here]
        if rows.empty:
            raise DataError(
                f"no reading is in the {part} part: the cuts of {len(counted)} readings are {first} and {second}, the "
                f"embargo is {gap}; bring readings of a longer time, change the shares, or shorten the embargo"
            )
        times[part] = rows[TIME].min(), rows[TIME].max()
        late = begun.index[begun > times[part][1]]
        assets[part] = tuple(sorted({str(asset) for asset in rows[ASSET].unique()} - {str(asset) for asset in late}))
    return Split(**assets, times=times, records=records)


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
