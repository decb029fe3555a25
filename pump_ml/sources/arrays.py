"""Arrays of NumPy files as rows: axes get their meaning from the mapping, and nothing is ever unpickled."""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pump_ml.errors import SourceError, UnknownNameError
from pump_ml.sources.strict import Regex, Strict, Text, groups

AXES = ("run", "row", "column", "sample")
"""What an axis of an array may be; this is also the order in which they are read."""
NUMBERS, CELLS = "biuf", "biufUM"
"""Kinds of dtype that a signal may have, and that a column beside it may have."""

Names = tuple[Text, ...] | Text
Stored = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Cells:
    """What stands in a file, before anything is converted.

    Args:
        table: cells, row by row.
        records: samples ``(waveforms, samples)`` by column; empty where there are none.
        taken: place in `table` of the row that each waveform was taken at; None where each row has one.
    """

    table: pd.DataFrame
    records: Mapping[str, Stored] = field(default_factory=dict)
    taken: NDArray[np.int64] | None = None

    @property
    def told(self) -> str:
        """Columns and samples in words; cells of one kind have the same."""
        samples = {record.shape[1] for record in self.records.values()}
        return f"the columns {', '.join(map(str, self.table))}" + "".join(
            f" and {count} samples a row" for count in samples
        )


class Beside(Strict):
    """Another array of the file, whose values are columns of the same rows.

    Args:
        array: its name, a template over the groups of `Arrays.pattern`.
        axes: what its axes are: ``row``, ``run`` (one value for all rows of a run) and ``column``.
        columns: as in `Arrays`.
    """

    array: Text
    axes: tuple[Literal["run", "row", "column"], ...] = Field(min_length=1)
    columns: Names


class Arrays(Strict):
    """How the arrays of a file are rows.

    Rows also have the columns ``run`` and ``row``, their places from 0, and the groups of the pattern.

    Args:
        pattern: regular expression of the whole name of the arrays to read; its named groups are columns. A ``npy``
            file has one array, with the name of the file.
        axes: what the axes of each are, from the first.
        columns: names along the axis ``column``, or the name of an array that holds them; without that axis one name.
        cut: samples of a piece, where an array is one long record: each piece is a row, a shorter rest is not read.
        beside: arrays with more columns.
    """

    pattern: Regex
    axes: tuple[Literal["run", "row", "column", "sample"], ...] = Field(min_length=1)
    columns: Names
    cut: int | None = Field(None, gt=1)
    beside: tuple[Beside, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for place, (axes, columns) in enumerate(self._parts):
            where = f"beside.{place - 1}: " if place else ""
            if twice := [axis for axis in axes if axes.count(axis) > 1]:
                raise ValueError(f"{where}axes: {twice[0]!r} stands twice")
            if "column" not in axes and (isinstance(columns, str) or len(columns) != 1):
                raise ValueError(f"{where}columns: without an axis 'column' there is one, as in [signal]")
        if self.cut and (len(set(self.axes) & {"row", "sample"}) != 1 or "sample" not in self.axes):
            raise ValueError("cut: makes rows of samples, so axes needs 'sample' and no 'row'")
        names = self.known
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"column {twice[0]!r} stands twice; run and row are columns too, choose another name")
        return self

    @property
    def known(self) -> tuple[str, ...]:
        """The columns whose names do not come from the files."""
        listed = [columns for _, columns in self._parts if not isinstance(columns, str)]
        return ("run", "row", *groups(self.pattern), *(name for names in listed for name in names))

    @property
    def needs_archive(self) -> bool:
        """True where several arrays of a file belong together."""
        return bool(self.beside) or not self.names_columns

    @property
    def names_columns(self) -> bool:
        """True where no names come from the files."""
        return not any(isinstance(columns, str) for _, columns in self._parts)

    @property
    def _parts(self) -> list[tuple[tuple[str, ...], Names]]:
        """Axes and columns, its own and those of the arrays beside."""
        return [(self.axes, self.columns), *((other.axes, other.columns) for other in self.beside)]


def read_arrays(name: str, content: bytes, kind: Literal["npz", "npy"], arrays: Arrays) -> Cells:
    """The rows of one file, array by array in the order of the file.

    Raises:
        SourceError: the file is damaged, or its arrays are not what the mapping says.
    """
    file = _File(name, content, kind)
    pattern = re.compile(arrays.pattern)
    found = [(key, match.groupdict()) for key in file.keys if (match := pattern.fullmatch(key))]
    if not found:
        there = ", ".join(file.keys[:10]) + (", …" if len(file.keys) > 10 else "")
        raise SourceError(f"{name}: no array matches {arrays.pattern!r}; there: {there}; correct arrays.pattern")
    parts = {key: _rows(file, key, given, arrays) for key, given in found}
    first, like = next(iter(parts.items()))
    for key, part in parts.items():
        if part.told != like.told:
            raise SourceError(
                f"{name}: array {key!r} has {part.told}, {first!r} has {like.told}; narrow arrays.pattern to arrays "
                "that are alike"
            )
    records = {column: np.concatenate([part.records[column] for part in parts.values()]) for column in like.records}
    return Cells(pd.concat([part.table for part in parts.values()], ignore_index=True), records)


class _File:
    """The arrays of one file by name, each read when it is asked for."""

    def __init__(self, name: str, content: bytes, kind: str) -> None:
        self.name, self.kind = name, kind
        stem = PurePosixPath(name.removesuffix(".gz")).stem
        with _reading(name, kind, stem if kind == "npy" else None):
            loaded = np.load(io.BytesIO(content), allow_pickle=False)
            if isinstance(loaded, np.ndarray) != (kind == "npy"):
                raise ValueError("it is a file of the other kind")
        self._arrays: Mapping[str, Stored] = {stem: loaded} if kind == "npy" else loaded
        self.keys = list(self._arrays)

    def get(self, key: str, axes: Sequence[str], kinds: str, asked: str) -> Stored:
        """One array, with an axis for each of `AXES`; those it lacks have length 1.

        Args:
            key: its name.
            axes: what its axes are.
            kinds: of dtype that it may have.
            asked: key of the mapping that asks for it.
        """
        if key not in self._arrays:
            raise SourceError(f"{self.name}: {asked}: {UnknownNameError('array', key, self.keys)}")
        with _reading(self.name, self.kind, key):
            values = self._arrays[key]
            if not isinstance(values, np.ndarray):  # NumPy gives other members of an archive as bytes
                raise TypeError("it is no array")
        # The byte order of another machine is a matter of storage; pandas and Arrow do not compute with it.
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if values.dtype.kind not in kinds:
            raise SourceError(
                f"{self.name}: array {key!r} is of type {values.dtype}; expected numbers"
                f"{', text or times' if kinds == CELLS else ''}; correct {asked}, or save it anew"
            )
        if values.ndim != len(axes):
            raise SourceError(
                f"{self.name}: array {key!r} has {values.ndim} dimensions {values.shape}, the mapping names "
                f"{len(axes)}: {', '.join(axes)}; correct {asked} or its axes"
            )
        if not values.size:
            raise SourceError(f"{self.name}: array {key!r} of shape {values.shape} is empty; narrow {asked}")
        ordered = [axis for axis in AXES if axis in axes]
        sizes = dict(zip(axes, values.shape, strict=True))
        return values.transpose([axes.index(axis) for axis in ordered]).reshape([sizes.get(axis, 1) for axis in AXES])


@contextmanager
def _reading(name: str, kind: str, key: str | None) -> Iterator[None]:
    """Say which file and array it was when NumPy cannot read one."""
    array = f"array {key!r}" if key else "the file"
    try:
        yield
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        # RuntimeError: the archive has a password, or a compression that zipfile lacks.
        if "Object arrays" in str(error):
            raise SourceError(
                f"{name}: {array} holds Python objects, which only pickle reads; that could run foreign code and is "
                "refused: save it anew as numbers or text"
            ) from error
        raise SourceError(
            f"{name} is not a whole {kind} file, {array} cannot be read: {error}; copy it again, or correct "
            "format.kind in the mapping"
        ) from error


def _rows(file: _File, key: str, given: Mapping[str, str], arrays: Arrays) -> Cells:
    """The rows of one array and of those beside it."""
    values = file.get(key, arrays.axes, NUMBERS, "arrays.pattern")
    if arrays.cut:
        values = _cut(file.name, key, values, arrays.cut)
    runs, rows = values.shape[:2]
    columns: dict[str, Any] = {
        "run": np.repeat(np.arange(runs), rows), "row": np.tile(np.arange(rows), runs), **given,
    }  # fmt: skip
    signals = dict(_columns(file, key, values, arrays.columns, "arrays.columns"))
    records = {column: signal.reshape(runs * rows, -1) for column, signal in signals.items()}
    cells = {} if "sample" in arrays.axes else {column: record[:, 0] for column, record in records.items()}
    for place, beside in enumerate(arrays.beside):
        asked = f"arrays.beside.{place}"
        other = beside.array.format_map(given)
        more = file.get(other, beside.axes, CELLS, f"{asked}.array")
        for axis, size, wanted in zip(("runs", "rows"), more.shape, (runs, rows), strict=False):
            if size != wanted and axis[:-1] in beside.axes:
                raise SourceError(
                    f"{file.name}: array {other!r} has {size} {axis}, {key!r} has {wanted}; correct {asked} or the file"
                )
        for column, part in _columns(file, other, more, beside.columns, f"{asked}.columns"):
            cells[column] = np.broadcast_to(part[..., 0], (runs, rows)).reshape(-1)
    if twice := sorted(columns.keys() & cells.keys()):
        raise SourceError(f"{file.name}: array {key!r}: column {twice[0]!r} stands twice; rename one")
    table = pd.DataFrame(columns | cells)
    return Cells(table, records if "sample" in arrays.axes else {})


def _cut(name: str, key: str, values: Stored, cut: int) -> Stored:
    """Pieces of so many samples along the axis of the rows."""
    runs, _, columns, samples = values.shape
    pieces = samples // cut
    if not pieces:
        raise SourceError(f"{name}: array {key!r} has {samples} samples, fewer than arrays.cut, {cut}; lower it")
    return values[..., : pieces * cut].reshape(runs, columns, pieces, cut).swapaxes(1, 2)


def _columns(file: _File, key: str, values: Stored, columns: Names, asked: str) -> Iterator[tuple[str, Stored]]:
    """Name and values ``(runs, rows, samples)`` along the axis of the columns."""
    if isinstance(columns, str):
        names = tuple(str(name) for name in file.get(columns, ("column",), CELLS, asked).reshape(-1))
    else:
        names = columns
    if len(names) != values.shape[2] or len(set(names)) < len(names):
        raise SourceError(
            f"{file.name}: array {key!r} has {values.shape[2]} columns, {asked} gives {len(names)} names, "
            f"{', '.join(names)}; give each column one of its own"
        )
    yield from ((name, values[:, :, place]) for place, name in enumerate(names))
