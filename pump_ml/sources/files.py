"""Readings and waveforms from files: tables and arrays in a folder or an archive, named and converted by a YAML."""

import gzip
import hashlib
import lzma
import re
import tarfile
import zlib
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast

import numpy as np
import pandas as pd
from pandas.api.types import is_timedelta64_dtype

from pump_ml.errors import ConfigurationError, SourceError
from pump_ml.schema import (
    ASSET,
    COMMISSIONING,
    KEYS,
    PART,
    RUN,
    TIME,
    Sensor,
    Telemetry,
    Waveforms,
    convert,
    natural,
)
from pump_ml.sources.mapping import FileMapping, Files, Label, load_mapping
from pump_ml.sources.tables import Table, read_table

ARCHIVE = re.compile(r"\.(tar(\.(gz|bz2|xz))?|tgz)$")
_FILE = "_file"
"""Working column: where the row stands; no sensor can have this name."""


class FilesSource:
    """Files, as a mapping describes them.

    Rows are never dropped, sorted or repaired: they come in the order of the mapping's entries, of the names of their
    files (numbers in names count as numbers) and of the lines, so that validation can see what is wrong with them. A
    cell that is not a number becomes NaN, a time that cannot be read becomes NaT, and a warning counts them.
    ``time`` is int64 for cycles, float64 only where a cycle is missing.

    Args:
        mapping: name of a shipped mapping, or the path of a ``.yaml`` file.
        path: a folder, a file, or a tar archive, which is read in memory and never unpacked.

    Raises:
        ConfigurationError: the mapping is unknown or breaks its schema.
    """

    def __init__(self, *, mapping: str | Path, path: str | Path) -> None:
        self.mapping = load_mapping(mapping)
        self.path = Path(path).expanduser()

    def origin(self) -> dict[str, Any]:
        """The mapping, the limits it states, and the SHA-256 of each file as it is stored.

        Raises:
            SourceError: the files cannot be read, or no file matches a pattern.
        """
        claimed = self._claim()
        return self._origin({name: _sha256(stored) for name, stored in _walk(self.path, claimed) if name in claimed})

    def fetch(self, start: datetime | None = None, end: datetime | None = None) -> Telemetry:
        """All readings with ``start <= time < end``, and those without a time; labels look at the whole run.

        Raises:
            SourceError: the files cannot be read: see the message for the file, the column and the cure.
            ConfigurationError: `start` or `end` has no time zone, or the mapping's time counts cycles.
        """
        for side in (start, end):
            if side is not None and (self.mapping.time.kind == "cycle" or side.tzinfo is None):
                raise ConfigurationError(
                    f"start/end {side.isoformat()}: expected a time with a zone, such as 2026-01-01T00:00:00+00:00; "
                    "readings whose time counts cycles have neither start nor end"
                )
        whole, left, hashes = self._load()
        readings = whole.rows
        for name, sensor in self.mapping.sensors.items():
            if sensor.derive:
                readings[name] = convert(_elapsed(readings, sensor.factor or 1.0), sensor.unit, sensor.final_unit)
        for name, label in self.mapping.labels.items():
            if label.derive:
                readings[name] = _time_left(readings, label, left)
        first = self.mapping.commissioning.first if self.mapping.commissioning else 0
        readings[COMMISSIONING] = (readings.groupby(ASSET).cumcount() < first) & readings[RUN].notna()
        # A run of its own, so that no window mixes the reference with what is held against it.
        readings[RUN] = readings[RUN].where(~readings[COMMISSIONING], readings[RUN] + "/commissioning")
        parts = [PART] if self.mapping.files[0].part else []
        sensors = self.mapping.schema_sensors()
        names = [sensor.name for sensor in sensors]
        readings = readings[[ASSET, RUN, TIME, COMMISSIONING, *parts, *names, *self.mapping.labels]]
        window = {}
        if start is not None:
            readings, window["start"] = readings[~(readings[TIME] < start)], start.isoformat()
        if end is not None:
            readings, window["end"] = readings[~(readings[TIME] >= end)], end.isoformat()
        return Telemetry(
            readings.reset_index(drop=True),
            sensors,
            tuple(self.mapping.labels),
            suite=self.mapping.suite,
            origin=self._origin(hashes) | window,
            waveforms=_waveforms(readings, whole, self.mapping),
        )

    def _load(self) -> tuple[Table, dict[str, float], dict[str, str]]:
        """All files as one table, without what follows from time; the life left of assets; the hash of each file."""
        claimed = self._claim()
        hashes: dict[str, str] = {}
        tables: dict[str, Table] = {}
        lives: dict[str, list[float]] = {}
        for name, stored in _walk(self.path, claimed):
            if name in claimed:
                hashes[name] = _sha256(stored)
                content, files = _unpacked(name, stored), claimed[name]
                if files.life_left and _matches(name, files.life_left):
                    lives[name] = _life_left(name, content)
                else:
                    tables[name] = read_table(name, content, files, self.mapping)
        names = [name for name in claimed if name in tables]
        whole = _joined({name: tables.pop(name) for name in names})
        readings = whole.rows
        if self.mapping.time.kind == "cycle" and readings[TIME].notna().all():
            readings[TIME] = readings[TIME].astype("int64")
        _check_assets(readings)
        if self.mapping.waveforms and whole.waves is not None:
            # At a reading without a waveform the indicators are gaps.
            readings = readings.join(self.mapping.waveforms.columns(whole.waves, readings.iloc[whole.taken]))
        left: dict[str, float] = {}
        for life, values in lives.items():
            siblings = [name for name in names if claimed[name] is claimed[life]]
            left |= _by_asset(life, values, readings[readings[_FILE].isin(siblings)])
        return replace(whole, rows=readings), left, hashes

    def _origin(self, hashes: Mapping[str, str]) -> dict[str, Any]:
        mapping = self.mapping.model_dump(mode="json", exclude_none=True)
        origin: dict[str, Any] = {"source": "files", "mapping": mapping, "files": dict(sorted(hashes.items()))}
        return origin | ({"limits": self.mapping.limits} if self.mapping.limits else {})

    def _claim(self) -> dict[str, Files]:
        """The entry of each file that is asked for, in the order in which their rows stand."""
        if not self.path.exists():
            raise SourceError(f"{self.path} does not exist; give a folder, a file or a tar archive with the readings")
        names = sorted((name for name, _ in _walk(self.path, ())), key=natural)
        there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "") or "nothing"
        claimed: dict[str, Files] = {}
        for files in self.mapping.files:
            for pattern in filter(None, (files.pattern, files.life_left)):
                found = [name for name in names if _matches(name, pattern)]
                if not found or (pattern == files.life_left and len(found) > 1):
                    raise SourceError(
                        f"{self.path}: {len(found) or 'no'} files match {pattern!r}, expected "
                        f"{'one' if pattern == files.life_left else 'one or more'}; there: {there}. "
                        f"Correct the path, or the pattern in the mapping"
                    )
                for name in found:
                    if name in claimed:
                        raise SourceError(f"{name} matches {pattern!r} and an earlier pattern too; make them narrower")
                    claimed[name] = files
        return claimed


def _walk(path: Path, wanted: Container[str]) -> Iterator[tuple[str, bytes]]:
    """Each file that is not hidden, with its content if its name is wanted, else with none.

    An archive is passed once, in its own order: seeking back in it would decompress it again.
    """
    try:
        if path.is_file() and ARCHIVE.search(path.name.lower()):
            with tarfile.open(path) as tar:
                for member in tar:
                    name = _inside(path, member.name)
                    if member.isfile() and not name.name.startswith("."):
                        content = tar.extractfile(member) if str(name) in wanted else None
                        yield str(name), content.read() if content else b""
            return
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                name = PurePosixPath(file.name if file == path else file.relative_to(path).as_posix())
                yield str(name), file.read_bytes() if str(name) in wanted else b""
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise SourceError(f"{path} cannot be read, it may be damaged or cut off: {error}; copy it again") from error


def _inside(path: Path, name: str) -> PurePosixPath:
    """The name of an archive's member, unless it would leave the archive."""
    for flavour in (PurePosixPath(name), PureWindowsPath(name)):
        if flavour.anchor or ".." in flavour.parts:
            raise SourceError(
                f"{path}: member {name!r} points outside the archive, which is refused as a whole; pack it anew with "
                "relative names"
            )
    return PurePosixPath(name)


def _unpacked(name: str, stored: bytes) -> bytes:
    """The content of a file, decompressed where its name ends in ``.gz``."""
    try:
        content = gzip.decompress(stored) if name.endswith(".gz") else stored
    except (EOFError, OSError, zlib.error) as error:
        raise SourceError(f"{name} is not a whole gzip file: {error}; copy it again") from error
    if not content or content.isspace():
        raise SourceError(f"{name} is empty; remove it or copy it again")
    return content


def _sha256(stored: bytes) -> str:
    return hashlib.sha256(stored).hexdigest()


def _matches(name: str, pattern: str) -> bool:
    """Whether the name, or its end after a folder, is what the pattern says; ``.gz`` does not count."""
    names = (name, name.removesuffix(".gz"))
    return any(fnmatchcase(one, p) for one in names for p in (pattern, f"*/{pattern}"))


def _life_left(name: str, content: bytes) -> list[float]:
    words = content.decode("utf-8-sig", errors="replace").split()
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise SourceError(
            f"{name}: {error}; expected one number per asset, the life left after its last row"
        ) from error
    if any(not 0 <= value < float("inf") for value in values):
        raise SourceError(f"{name}: a life left is negative or not finite; expected numbers from 0 up")
    return values


def _by_asset(name: str, values: list[float], readings: pd.DataFrame) -> dict[str, float]:
    """The value of each asset of `readings`; their natural order is that of the values."""
    assets = sorted(readings[ASSET].dropna().unique(), key=natural)
    if len(assets) != len(values):
        files = ", ".join(readings[_FILE].unique())
        raise SourceError(
            f"{name} holds {len(values)} numbers for the {len(assets)} assets of {files}; one each expected"
        )
    return dict(zip(assets, values, strict=True))


def _time_left(readings: pd.DataFrame, label: Label, left: Mapping[str, float]) -> pd.Series:
    """Cycles, hours or percent to the last time of the run, and beyond it what is known to be left."""
    last = readings.groupby([ASSET, RUN])[TIME].transform("max")
    beyond = readings[ASSET].map(left).fillna(0.0)
    amount = _amount(last - readings[TIME]) + beyond
    if label.derive == "percent_to_last_row":
        amount = 100 * amount / (last + beyond)
    return amount.clip(upper=label.cap)


def _elapsed(readings: pd.DataFrame, factor: float) -> pd.Series:
    """Cycles or hours since the first row of the run, times `factor`."""
    return factor * _amount(readings[TIME] - readings.groupby([ASSET, RUN])[TIME].transform("first"))


def _amount(span: pd.Series) -> pd.Series:
    """Cycles as they are, else hours."""
    return span.dt.total_seconds() / 3600 if is_timedelta64_dtype(span) else span.astype("float64")


def _waveforms(readings: pd.DataFrame, whole: Table, mapping: FileMapping) -> Waveforms | None:
    """The waveforms taken at `readings`, rows of the whole table; one without asset or time belongs to no window."""
    told, waves = mapping.waveforms, whole.waves
    if told is None or waves is None:
        return None
    kept = np.isin(whole.taken, readings.index[readings[list(KEYS)].notna().all(axis=1)])
    rows = readings.loc[whole.taken[kept], list(KEYS)]
    if mapping.time.kind == "cycle":
        rows = rows.astype({TIME: "int64"})
    channels = tuple(Sensor(name, channel.unit, channel.description) for name, channel in told.channels.items())
    return Waveforms(rows.reset_index(drop=True), waves if kept.all() else waves[kept], channels, told.rate_hz)


def _joined(tables: Mapping[str, Table]) -> Table:
    """The tables of all files, one below the other; each row knows its file."""
    given = {name: table.waves for name, table in tables.items() if table.waves is not None}
    first = next(iter(given), "")
    for name, each in given.items():
        if each.shape[2] != given[first].shape[2]:
            raise SourceError(
                f"{name} has {each.shape[2]} samples a waveform, {first} has {given[first].shape[2]}; waveforms have "
                "one length: state waveforms.samples, and others count as missing; or narrow files.pattern"
            )
    begins = np.cumsum([0, *(len(table.rows) for table in tables.values())])
    taken = [begin + table.taken for begin, table in zip(begins, tables.values(), strict=False)]
    rows = pd.concat([table.rows.assign(**{_FILE: name}) for name, table in tables.items()], ignore_index=True)
    return Table(rows, np.concatenate(list(given.values())) if given else None, np.concatenate(taken))


def _check_assets(readings: pd.DataFrame) -> None:
    """Refuse an asset in two parts, in two files at the same time, and a run of two assets."""
    if PART in readings:
        placed = readings.dropna(subset=[ASSET]).drop_duplicates([ASSET, PART])
        for asset, rows in placed[placed[ASSET].duplicated(keep=False)].groupby(ASSET):
            places = " and ".join(f"{part} ({file})" for part, file in zip(rows[PART], rows[_FILE], strict=True))
            raise SourceError(
                f"asset {asset!r} stands in {places}: put {{part}} into asset_id if these are two assets, else move "
                "all its rows into one part"
            )
    runs = readings.dropna(subset=[RUN]).drop_duplicates([ASSET, RUN])
    if len(twice := runs[runs[RUN].duplicated(keep=False)]):
        raise SourceError(
            f"run {twice[RUN].iloc[0]!r} stands for assets {twice[ASSET].iloc[0]!r} and {twice[ASSET].iloc[1]!r}; "
            "make the template run_id tell them apart"
        )
    files = readings[[ASSET, _FILE]].drop_duplicates()
    shared = readings[readings[ASSET].isin(files.loc[files[ASSET].duplicated(), ASSET].dropna())]
    # The outer twentieths may overlap: a stray time or a shared first row is a matter for validation.
    times = shared.groupby([ASSET, _FILE], sort=False)[TIME]
    begin, end = times.quantile(0.05), times.quantile(0.95).groupby(level=ASSET).shift()
    if len(early := begin[begin <= end]):
        asset, file = cast("tuple[str, str]", early.index[0])
        raise SourceError(
            f"asset {asset!r} stands in {file} from about {early.iloc[0]}, and in an earlier file up to about "
            f"{end[early.index[0]]}: put {{stem}} into asset_id if these are two assets, else list the files "
            "in order of time"
        )
