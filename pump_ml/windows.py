"""From readings to windows: the arrays that families learn from. Nothing here looks across two runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml.errors import DataError
from pump_ml.problems import Problem
from pump_ml.schema import ASSET, COMMISSIONING, KEYS, RUN, TIME, Waveforms

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one or many assets.

    Args:
        x: readings, float64 ``(windows, length, sensors)``.
        commissioning: commissioning record of each asset, float64 ``(readings, sensors)``, or None.
        rows: ``asset_id, run_id, time`` of each window's last reading.
        labels: the targets at each window's last reading; empty where the readings bring none.
        sensors: names of the last axis of `x`.
        waveforms: of many assets; None where the readings came without.
        taken: position in `waveforms` of the last record taken within each window, int64 ``(windows,)``.
    """

    x: Array
    commissioning: Mapping[str, Array] | None
    rows: pd.DataFrame
    labels: pd.DataFrame
    sensors: tuple[str, ...]
    waveforms: Waveforms | None = None
    taken: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """The windows that `mask` marks."""
        rows = self.rows[mask].reset_index(drop=True)
        kept = self.commissioning
        return replace(
            self,
            x=self.x[mask],
            commissioning=None if kept is None else {asset: kept[asset] for asset in rows[ASSET].unique()},
            rows=rows,
            labels=self.labels[mask].reset_index(drop=True),
            taken=None if self.taken is None else self.taken[mask],
        )

    def of_assets(self, assets: Sequence[str]) -> Self:
        """The windows of these assets."""
        return self.where(self.rows[ASSET].isin(list(assets)).to_numpy())


def make_windows(
    readings: pd.DataFrame,
    problem: Problem,
    sensors: Sequence[str],
    *,
    which: Literal["all", "last"] = "all",
    waveforms: Waveforms | None = None,
) -> Windows:
    """Cut each run into windows of the problem's length.

    A window ends at the last reading of its run, the one before it ``stride`` readings earlier, and so on. A run that
    is shorter than a window gives one window, filled at its start with its first reading. Where there are waveforms, a
    window in which none was taken is left out, whoever is asked: families are judged on the same rows.

    Args:
        readings: frame of `pump_ml.schema`; labels may be missing, as they are when a model is asked.
        problem: window length and stride, targets, and whether the commissioning record is used.
        sensors: the feature columns, and behind them those of the problem's derived quantities.
        which: every window, or the last of each run.
        waveforms: taken at some of the readings.

    Raises:
        DataError: a column is missing, a reading is not finite, or an asset has no commissioning record though the
            problem uses it.
    """
    measured = [name for name in sensors if name not in problem.derived]
    if missing := [name for name in (*KEYS, *measured) if name not in readings]:
        raise DataError(f"readings lack {', '.join(missing)}; expected {', '.join((*KEYS, *measured))}")
    commissioning = (
        readings[COMMISSIONING].to_numpy(dtype=bool)
        if COMMISSIONING in readings
        else np.zeros(len(readings), dtype=bool)
    )
    if problem.reference is None:
        # Nothing sets those readings apart, so they are readings as any other.
        commissioning = np.zeros(len(readings), dtype=bool)
    if bad := [name for name in measured if not np.isfinite(readings[name].to_numpy(dtype=np.float64)).all()]:
        raise DataError(
            f"readings of {', '.join(bad)} are not finite; validation quarantines such rows: validate first"
        )
    running = readings[~commissioning].sort_values(list(KEYS), kind="stable", ignore_index=True)
    values = problem.with_derived(sensors, running[measured].to_numpy(dtype=np.float64))

    ends, starts = _ends(running, problem, which)
    steps = np.arange(problem.windows.length) - (problem.windows.length - 1)
    index = np.maximum(ends[:, None] + steps, starts[:, None])
    last = running.iloc[ends].reset_index(drop=True)
    targets = [target.name for target in problem.targets if target.name in last]
    windows = Windows(
        x=values[index],
        commissioning=_records(readings[commissioning], last[ASSET], problem, sensors) if problem.reference else None,
        rows=last[list(KEYS)],
        labels=last[targets],
        sensors=tuple(sensors),
    )
    if waveforms is None:
        return windows
    taken = _last_taken(waveforms, last[list(KEYS)], running[TIME].iloc[index[:, 0]])
    return replace(windows, waveforms=waveforms, taken=taken).where(taken >= 0)


def _last_taken(waveforms: Waveforms, ends: pd.DataFrame, begins: "pd.Series[Any]") -> NDArray[np.int64]:
    """Position of the last usable waveform of the same run between two times, both included; -1 where there is none."""
    taken = waveforms.rows[list(KEYS)].assign(place=np.arange(len(waveforms)))[waveforms.usable()]
    asked = ends.assign(begin=begins.to_numpy(), window=np.arange(len(ends)))
    found = pd.merge_asof(
        asked.sort_values(TIME, kind="stable"),
        taken.assign(taken=taken[TIME]).sort_values(TIME, kind="stable"),
        on=TIME,
        by=[ASSET, RUN],
    ).sort_values("window")
    place = found["place"].where(found["taken"] >= found["begin"])
    return place.fillna(-1).to_numpy(dtype=np.int64)


def _ends(
    running: pd.DataFrame, problem: Problem, which: Literal["all", "last"]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the windows' last readings, and of the first readings of their runs."""
    if running.empty:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    new_run = (running[[ASSET, RUN]] != running[[ASSET, RUN]].shift()).any(axis=1).to_numpy()
    firsts = np.flatnonzero(new_run)
    lasts = np.append(firsts[1:], len(running)) - 1
    if which == "last":
        return lasts, firsts
    length, stride = problem.windows.length, problem.windows.stride
    per_run = [
        np.arange(last, min(first + length - 2, last - 1), -stride)[::-1]
        for first, last in zip(firsts, lasts, strict=True)
    ]
    return np.concatenate(per_run), np.repeat(firsts, [len(ends) for ends in per_run])


def _records(
    commissioning: pd.DataFrame, assets: "pd.Series[Any]", problem: Problem, sensors: Sequence[str]
) -> dict[str, Array]:
    measured = [name for name in sensors if name not in problem.derived]
    records = {
        str(asset): problem.with_derived(sensors, rows.to_numpy(dtype=np.float64))
        for asset, rows in commissioning.sort_values(list(KEYS), kind="stable").groupby(ASSET)[measured]
    }
    if unknown := sorted(set(assets) - set(records)):
        raise DataError(
            f"no commissioning record for {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}; the problem "
            f"compares each asset with its own: add its readings of the first healthy hours, marked "
            f"{COMMISSIONING} = true, or look for them in quarantine"
        )
    return records
