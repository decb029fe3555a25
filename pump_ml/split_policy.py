"""How a problem asks for its data to be split: shares of the assets, the data's own part, folds, or time."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator


class Frozen(BaseModel):
    """A part of a problem's YAML: no other keys, and nothing changes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Folds(Frozen):
    """The assets are divided; each fold is judged by models that learnt from the others.

    Args:
        number: how many folds, or ``each`` for one a group: leave one group out.
        groups: column that says which assets belong together; unset, each asset is a group.
        stratify: label by whose classes, at the end of each run, the folds are balanced.
        seed: of the division, which belongs to the protocol and not to a run.
    """

    number: Annotated[int, Field(ge=2)] | Literal["each"]
    groups: str | None = None
    stratify: str | None = None
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stratify is not None and self.number == "each":
            raise ValueError("folds: one fold a group cannot be balanced; leave stratify out, or give a number")
        return self


class ByTime(Frozen):
    """Time is divided instead of the assets: a model learns from the past of known assets, and the future judges it.

    The exception to the rule that an asset is in one part only. It says how known assets go on, and nothing of others.

    Args:
        by: ``time``.
        share: of the readings, the latest, that is judged.
        embargo: a duration, as pandas reads it; readings so soon after a cut are in no part.
    """

    by: Literal["time"]
    share: float = Field(gt=0, lt=1)
    embargo: str = "0s"

    @field_validator("embargo", mode="before")
    @classmethod
    def _duration(cls, embargo: Any) -> str:
        try:
            # To pandas a number without a unit is one of nanoseconds.
            usable = bool(re.search("[A-Za-z:]", embargo)) and pd.Timedelta(embargo) >= pd.Timedelta(0)
        except (TypeError, ValueError):
            usable = False
        if not usable:
            raise ValueError(f"embargo {embargo!r}; expected a duration of 0 or more with its unit, such as 0s, 1h, 7D")
        return str(embargo)

    @property
    def gap(self) -> pd.Timedelta:
        """The embargo."""
        return pd.Timedelta(self.embargo)


def _kind(test: Any) -> str:
    """What of these a value is meant to be, so that an error is about that alone."""
    if isinstance(test, ByTime) or (isinstance(test, Mapping) and "by" in test):
        return "time"
    return "folds" if isinstance(test, Folds | Mapping) else "part"


class SplitPolicy(Frozen):
    """How the assets are divided, or time.

    Args:
        train: share of the assets that are learnt from; of the readings, the earliest, in a split by time.
        validation: share that stops and tunes the learning.
        test: share that is judged; or ``own``, the data's own part; or folds, where train and validation divide the
            rest; or by time.
        stratify: label by which the parts are balanced.
        rotate: each asset that is not judged is set aside for validation once, by one of as many models as that takes,
            which answer together. The parts stay as they are, and are the first model's. ``calibrate``: that model
            answers alone, and the others only say how far off such a model is about assets that it has not seen.
    """

    train: float = Field(gt=0, lt=1)
    validation: float = Field(gt=0, lt=1)
    test: Annotated[
        Annotated[Annotated[float, Field(gt=0, lt=1)] | Literal["own"], Tag("part")]
        | Annotated[Folds, Tag("folds")]
        | Annotated[ByTime, Tag("time")],
        Discriminator(_kind),
    ] = 0.2
    stratify: str | None = None
    rotate: bool | Literal["calibrate"] = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        judged = self.test.share if isinstance(self.test, ByTime) else self.test
        total = self.train + self.validation + (judged if isinstance(judged, float) else 0.0)
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"split: the shares add up to {total:g}, expected 1")
        if isinstance(self.test, ByTime) and self.stratify is not None:
            raise ValueError(
                f"split: stratify {self.stratify!r} balances assets, and by: time divides none; drop stratify"
            )
        if isinstance(self.test, ByTime) and self.rotate:
            raise ValueError("split: rotate has assets take turns, and by: time divides none; drop rotate")
        return self
