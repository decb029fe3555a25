"""From readings to windows: the arrays that families learn from. Nothing here looks across two runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
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
    """Windows of one or many assets: the readings once, and where in them each window begins.

    Args:
        readings: float64 ``(readings, sensors)``, those of an asset together.
        starts: position in `readings` of each window's first, int64 ``(windows,)``.
        length: readings in a window.
        blocks: the readings of each asset.
        commissioning: commissioning record of each asset, float64 ``(readings, sensors)``, or None.
        rows: ``asset_id, run_id, time`` of each window's last reading.
        labels: the targets at each window's last reading; empty where the readings bring none.
        sensors: names of the last axis of `readings`.
        waveforms: of many assets; None where the readings came without.
        taken: position in `waveforms` of the last record taken within each window, int64 ``(windows,)``.
        begins: time of each window's first reading; None where it is not known.
    """

    readings: Array
    starts: NDArray[np.int64]
    length: int
    blocks: Mapping[str, slice]
    commissioning: Mapping[str, Array] | None
    rows: pd.DataFrame
    labels: pd.DataFrame
    sensors: tuple[str, ...]
    waveforms: Waveforms | None = None
    taken: NDArray[np.int64] | None = None
    begins: "pd.Series[Any] | None" = None

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def stacked(
        cls,
        x: Array,
        sensors: tuple[str, ...],
        rows: pd.DataFrame,
        *,
        commissioning: Mapping[str, Array] | None = None,
        labels: pd.DataFrame | None = None,
    ) -> Self:
        """Windows that are cut already, those of an asset together.

        Args:
            x: float64 ``(windows, length, sensors)``; it is not copied where it is in one piece.
            sensors: names of the last axis.
            rows: keys of each window's last reading.
            commissioning: record of each asset.
            labels: of each window.
        """
        count, length, _ = x.shape
        return cls(
            readings=x.reshape(count * length, -1),
            starts=np.arange(count, dtype=np.int64) * length,
            length=length,
            blocks=_blocks(rows[ASSET], np.full(count, length - 1)),
            commissioning=commissioning,
            rows=rows,
            labels=pd.DataFrame(index=rows.index) if labels is None else labels,
            sensors=sensors,
        )

    @property
    def x(self) -> Array:
        """All windows as an array of its own, float64 ``(windows, length, sensors)``; large where windows overlap."""
        return gather(self.readings, self.starts, self.length)

    @property
    def uses(self) -> NDArray[np.int64]:
        """How many windows each reading is in, ``(readings,)``."""
        edges = np.bincount(self.starts, minlength=len(self.readings) + 1)
        edges -= np.bincount(self.starts + self.length, minlength=len(self.readings) + 1)
        return np.cumsum(edges[:-1])

    def chunks(self, size: int = 4096) -> Iterator[slice]:
        """Places of windows, so many at a time, for what would be large over all of them."""
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """The windows that `mask` marks, and the readings in them."""
        rows = self.rows[mask].reset_index(drop=True)
        kept = self.commissioning
        some = replace(
            self,
            starts=self.starts[mask],
            commissioning=None if kept is None else {asset: kept[asset] for asset in rows[ASSET].unique()},
            rows=rows,
            labels=self.labels[mask].reset_index(drop=True),
            taken=None if self.taken is None else self.taken[mask],
            begins=None if self.begins is None else self.begins[mask].reset_index(drop=True),
        )
        used = some.uses > 0
        before = np.concatenate([[0], np.cumsum(used)])
        blocks = {asset: slice(int(before[at.start]), int(before[at.stop])) for asset, at in self.blocks.items()}
        return replace(
            some,
            readings=self.readings[used],
            starts=before[some.starts],
            blocks={asset: at for asset, at in blocks.items() if at.stop > at.start},
        )

    def of_assets(self, assets: Sequence[str]) -> Self:
        """The windows of these assets."""
        return self.where(self.rows[ASSET].isin(list(assets)).to_numpy())


def gather(readings: NDArray[Any], starts: NDArray[np.int64], length: int) -> NDArray[Any]:
    """Windows of rows, ``(windows, length, columns)``: a copy.

    Args:
        readings: ``(readings, columns)``.
        starts: first row of each window.
        length: rows in a window.
    """
    if not len(starts):
        return np.empty((0, length, readings.shape[1]), dtype=readings.dtype)
    views = np.lib.stride_tricks.sliding_window_view(readings, length, axis=0)
    found: NDArray[Any] = views[starts].transpose(0, 2, 1)
    return found


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

    ends, firsts = _ends(running, problem, which)
    begins = np.maximum(ends - problem.windows.length + 1, firsts)
    last = running.iloc[ends].reset_index(drop=True)
    targets = [target.name for target in problem.targets if target.name in last]
    # A short run's first reading stands as often as is missing, so that a window is a stretch of rows.
    wanting = np.zeros(len(running), dtype=np.int64)
    wanting[begins] = begins - (ends - problem.windows.length + 1)
    if wanting.any():
        values = np.repeat(values, 1 + wanting, axis=0)
    moved = np.cumsum(wanting)
    windows = Windows(
        readings=values,
        starts=ends + moved[ends] - problem.windows.length + 1,
        length=problem.windows.length,
        blocks=_blocks(running[ASSET], wanting),
        commissioning=_records(readings[commissioning], last[ASSET], problem, sensors) if problem.reference else None,
        rows=last[list(KEYS)],
        labels=last[targets],
        sensors=tuple(sensors),
        begins=running[TIME].iloc[begins].reset_index(drop=True),
    )
    if waveforms is None:
        return windows
    taken = _last_taken(waveforms, last[list(KEYS)], running[TIME].iloc[begins])
    return replace(windows, waveforms=waveforms, taken=taken).where(taken >= 0)


def last_windows(x: Array, problem: Problem, sensors: Sequence[str], records: Array | None = None) -> Windows:
    """The last window of each run, as `make_windows` cuts it, from arrays; each run is an asset of its own.

    Args:
        x: raw readings in order of time, ``(runs, readings, sensors)``, without the problem's derived quantities.
        problem: as there.
        sensors: as there.
        records: commissioning record of each run's asset, of the same sensors; looked at where the problem uses it.

    Raises:
        DataError: an array is of another shape, a reading is not finite, or the records are missing.
    """
    measured, given = [name for name in sensors if name not in problem.derived], {"readings": x}
    if problem.reference is not None:
        if records is None or len(records) != len(x):
            raise DataError(f"the problem compares each asset with its own record: give one for each of {len(x)} runs")
        given["records"] = records
    for what, values in given.items():
        if values.ndim != 3 or values.shape[2] != len(measured) or 0 in values.shape:
            raise DataError(f"{what} of shape {values.shape}; expected (runs, readings, {len(measured)}): {measured}")
        if not np.isfinite(values).all():
            raise DataError(f"{what} are not finite; validation quarantines such rows: validate first")
    length = problem.windows.length
    if (wanting := length - x.shape[1]) > 0:
        x = np.concatenate([np.repeat(x[:, :1], wanting, axis=1), x], axis=1)
    runs, count, _ = x.shape
    names, nothing = [str(run) for run in range(runs)], pd.DataFrame(index=pd.RangeIndex(runs))
    return Windows(
        readings=problem.with_derived(sensors, np.asarray(x.reshape(runs * count, -1), dtype=np.float64)),
        starts=np.arange(1, runs + 1, dtype=np.int64) * count - length,
        length=length,
        blocks={name: slice(run * count, (run + 1) * count) for run, name in enumerate(names)},
        commissioning={
            name: problem.with_derived(sensors, np.asarray(record, dtype=np.float64))
            for name, record in zip(names, given["records"], strict=True)
        }
        if "records" in given
        else None,
        rows=nothing,
        labels=nothing,
        sensors=tuple(sensors),
    )


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


def _blocks(assets: "pd.Series[Any]", wanting: NDArray[np.int64]) -> dict[str, slice]:
    """Where each asset's readings stand, which are together."""
    codes, names = pd.factorize(assets)
    stops = np.cumsum(np.bincount(codes, weights=1 + wanting, minlength=len(names)).astype(np.int64))
    edges = pairwise([0, *stops])
    return {str(name): slice(int(start), int(stop)) for name, (start, stop) in zip(names, edges, strict=True)}


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
