"""Which assets a model learns from, is tuned on, and is judged by. An asset is in one part only, always."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import pandas as pd

from pump_ml.errors import DataError, LeakError
from pump_ml.problems import SplitPolicy
from pump_ml.schema import ASSET, PART, TIME

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


def by_asset(readings: pd.DataFrame, policy: SplitPolicy, *, seed: int) -> Split:
    """Divide the assets by the policy's shares, within each stratum.

    An asset's stratum is its label in the policy's `stratify` column at its last reading: how it ended. The order
    within a stratum is that of a hash of seed and name, so the same seed gives the same split on any machine, and a
    new asset moves few old ones.

    Raises:
        LeakError: the data's own parts share an asset.
        DataError: a part comes out empty, or the policy needs a column that the readings lack.
    """
    for column in (PART,) if policy.test == "own" else ():
        if column not in readings:
            raise DataError(f"the split takes the data's own test part, but the readings have no column {column!r}")
    own_test: set[str] = set()
    if policy.test == "own":
        parts = readings.groupby(ASSET)[PART].unique()
        for asset, found in parts.items():
            if len(found) > 1:
                raise LeakError(
                    f"asset {asset!r} is in the parts {', '.join(sorted(found))}; give each asset to one part"
                )
        own_test = {str(asset) for asset, found in parts.items() if list(found) == ["test"]}
    strata = _strata(readings, policy)
    shares = {"train": policy.train, "validation": policy.validation}
    if policy.test != "own":
        shares["test"] = float(policy.test)
    chosen: dict[str, list[str]] = {part: [] for part in PARTS}
    chosen["test"] = sorted(own_test)
    left_over = dict.fromkeys(shares, 0.0)
    for stratum in sorted(set(strata.values())):
        members = sorted((a for a, s in strata.items() if s == stratum and a not in own_test), key=_order(seed))
        # What rounding owes a part in one stratum it gets in the next.
        position = 0
        for part, share in list(shares.items())[::-1]:
            wanted = share * len(members) + left_over[part]
            count = min(round(wanted), len(members) - position) if part != "train" else len(members) - position
            left_over[part] = wanted - count
            chosen[part] += members[position : position + count]
            position += count
    return Split(*(tuple(sorted(chosen[part])) for part in PARTS))


def _strata(readings: pd.DataFrame, policy: SplitPolicy) -> dict[str, str]:
    if policy.stratify is None:
        return {str(asset): "" for asset in readings[ASSET].unique()}
    if policy.stratify not in readings:
        raise DataError(f"the split stratifies by {policy.stratify!r}, which the readings lack")
    last = readings.sort_values(TIME, kind="stable").groupby(ASSET)[policy.stratify].last()
    return {str(asset): str(value) for asset, value in last.items()}


def _order(seed: int) -> Any:
    return lambda asset: hashlib.sha256(f"{seed}:{asset}".encode()).digest()
