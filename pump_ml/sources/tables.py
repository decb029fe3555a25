"""One file's bytes as typed columns: cells become names, times, sensors and labels; no row is lost."""

import csv
import io
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pandas.api.types import is_datetime64_any_dtype, is_float_dtype, is_numeric_dtype
from pandas.errors import ParserError, ParserWarning

from pump_ml.errors import SourceError, UnknownNameError
from pump_ml.schema import ASSET, PART, RUN, TIME, convert
from pump_ml.sources.arrays import Cells, read_arrays
from pump_ml.sources.mapping import FileMapping, Files, Format, Label, SensorColumn, TimeColumn
from pump_ml.sources.waveforms import WaveformColumns

logger = logging.getLogger(__name__)

MISSING = ["", "-", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]
"""What a cell of numbers or times may hold in place of a value."""
OFFSET = r"(?:Z|:\d\d(?:\.\d+)? ?[+-]\d\d(?::?\d\d)?)$"
"""The end of an ISO 8601 time that carries its zone."""


@dataclass(frozen=True, eq=False)
class Table:
    """What one file holds, named and converted.

    Args:
        rows: keys, time, sensors and labels, row by row as they stand in it.
        waves: float32 ``(waveforms, channels, samples)``; None where the mapping has none.
        taken: place in `rows` of the one that each waveform was taken at.
    """

    rows: pd.DataFrame
    waves: NDArray[np.float32] | None
    taken: NDArray[np.int64]


def read_table(name: str, content: bytes, files: Files, mapping: FileMapping) -> Table:
    """Columns and waveforms of one file.

    Raises:
        SourceError: the file is not what the mapping says.
    """
    cells = _cells(name, content, files, mapping)
    raw = cells.table
    if raw.empty:
        raise SourceError(f"{name} has a header and no rows; remove it or copy it again")
    stem = PurePosixPath(name.removesuffix(".gz")).stem
    given = {"part": files.part or "", "stem": stem}
    asset = _fill(mapping.asset_id, raw, given)
    columns = {ASSET: asset, RUN: _fill(mapping.run_id, raw, given) if mapping.run_id else asset}
    columns[TIME] = _times(raw[mapping.time.column], mapping.time, mapping.format, name)
    if files.part:
        columns[PART] = pd.Series(files.part, index=raw.index, dtype="str")
    for key, sensor in mapping.sensors.items():
        if sensor.column:
            numbers = _reading(raw[sensor.column], sensor, mapping.format, name)
            columns[key] = convert(numbers, sensor.unit, sensor.final_unit)
    for key, label in mapping.labels.items():
        if label.column:
            columns[key] = _label(raw[label.column], label, mapping.format, name)
    waves = mapping.waveforms.stacked(cells.records, name) if mapping.waveforms else None
    taken = np.arange(len(raw), dtype=np.int64) if cells.taken is None else cells.taken
    return Table(pd.DataFrame(columns), waves, taken)


def _cells(name: str, content: bytes, files: Files, mapping: FileMapping) -> Cells:
    """The columns that the mapping asks for: names and times as text, the rest as pandas finds them."""
    written = mapping.format
    given = _from_name(name, files)
    told = mapping.waveforms
    channels = [channel.column for channel in told.channels.values()] if told else []
    try:
        if mapping.arrays and written.kind in ("npz", "npy"):
            cells = read_arrays(name, content, written.kind, mapping.arrays)
            _check_header(name, [*cells.table, *cells.records, *given], mapping)
        elif written.kind == "parquet":
            header = pq.read_schema(io.BytesIO(content)).names
            _check_header(name, [*header, *given], mapping)
            cells = _parquet(name, content, [each for each in header if each in mapping.columns], channels, told)
        else:
            header = _header(name, content, written)
            _check_header(name, [*header, *given], mapping)
            raw = _delimited(content, header, mapping)
            if told:
                records = {column: _numbers(raw[column], written, name).to_numpy()[None] for column in channels}
                raw = raw.drop(columns=channels).head(1)  # the file is one waveform, taken at one reading
                cells = Cells(raw, records)
            else:
                cells = Cells(raw)
    except UnicodeDecodeError as error:
        cure = "state format.encoding, often cp1252"
        raise SourceError(f"{name} is not {written.encoding}: {error.reason} at byte {error.start}; {cure}") from error
    except (ParserError, ParserWarning, csv.Error) as error:
        cure = "every row needs as many cells as the header; a decimal comma needs another delimiter or quotes"
        raise SourceError(f"{name} cannot be divided into columns: {error}; {cure}") from error
    except (ValueError, OSError) as error:
        raise SourceError(
            f"{name} is not a {written.kind} file: {error}; correct format.kind in the mapping"
        ) from error
    return replace(cells, table=cells.table.assign(**given))


def _from_name(name: str, files: Files) -> dict[str, str]:
    """Columns from the file's name, the same in all its rows."""
    if files.name is None:
        return {}
    if match := re.search(files.name, name):
        return match.groupdict()
    raise SourceError(f"{name} matches {files.pattern!r} but not files.name {files.name!r}; correct one of them")


def _parquet(
    name: str, content: bytes, asked: Sequence[str], channels: Sequence[str], told: WaveformColumns | None
) -> Cells:
    """Columns of cells, and those of lists as records of the rows that have one."""
    plain = [column for column in asked if column not in channels]
    # Without its metadata pandas makes no index of a column, such as the time.
    to_pandas = {"ignore_metadata": True}
    table = pd.read_parquet(io.BytesIO(content), engine="pyarrow", columns=plain, to_pandas_kwargs=to_pandas)
    if told is None:
        return Cells(table)
    lists = pq.read_table(io.BytesIO(content), columns=list(channels))
    given = np.any([lists.column(column).is_valid().to_numpy() for column in channels], axis=0)
    lists = lists.filter(pa.array(given))
    records = {column: _records(name, column, lists.column(column), told.samples) for column in channels}
    lengths = {column: record.shape[1] for column, record in records.items()}
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"{column!r} {length}" for column, length in lengths.items())
        raise SourceError(f"{name}: the channels of a waveform have one length; samples: {each}")
    return Cells(table, records, np.flatnonzero(given))


def _records(name: str, column: str, lists: "pa.ChunkedArray[Any]", samples: int | None) -> NDArray[np.float32]:
    """Samples ``(rows, samples)`` of a column of lists; NaN where a row has none, or another number of them."""
    kind: Any = lists.type
    is_list = any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
    if not is_list or not (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
        raise SourceError(f"{name}: column {column!r} is of type {kind}; expected lists of numbers, a waveform a row")
    lengths = pc.list_value_length(lists).to_pandas()
    given = lengths.notna().to_numpy()
    if samples is None and not given.any():
        raise SourceError(
            f"{name}: column {column!r} holds no waveform; state waveforms.samples where some files have none, else "
            "copy the file again"
        )
    wanted = samples or int(lengths[given].iloc[0])
    fitting = (lengths == wanted).to_numpy()
    if len(other := lengths[given & ~fitting]):
        if samples is None:
            raise SourceError(
                f"{name}: column {column!r} has waveforms of {wanted} and of {int(other.iloc[0])} samples; they have "
                "one length: state waveforms.samples, and others count as missing"
            )
        logger.warning(
            "%s: %d of %d waveforms of column %r have not %d samples and count as missing; the first has %d",
            *(name, len(other), given.sum(), column, wanted, other.iloc[0]),
        )
    records = np.full((len(lists), wanted), np.nan, dtype=np.float32)
    records[fitting] = pc.list_flatten(lists.filter(pa.array(fitting))).to_numpy().reshape(-1, wanted)
    return records


def _check_header(name: str, header: list[str], mapping: FileMapping) -> None:
    """Refuse a header that lacks a column that the mapping asks for, or has it twice."""
    for column, key in mapping.columns.items():
        if header.count(column) > 1:
            raise SourceError(f"{name}: column {column!r} ({key}) stands twice in the header; rename one")
        if column not in header:
            line = _delimiter(mapping.format).join(header)
            guess = _other_delimiter(line, mapping.format)
            if guess and (len(header) == 1 or column in line.split(guess)):
                raise SourceError(
                    f"{name} is not divided by {_delimiter(mapping.format)!r} but, as it looks, by {guess!r}: "
                    f"{line[:80]!r}; correct format.delimiter or format.kind"
                )
            raise SourceError(f"{name}: {key}: {UnknownNameError('column', column, header)}")


def _header(name: str, content: bytes, written: Format) -> list[str]:
    """The names of the columns: of the first line, or of the mapping, once their number is right."""
    with io.TextIOWrapper(io.BytesIO(content), written.encoding, newline="") as text:
        if written.kind == "text":
            cells = next((line for line in text if line.strip()), "").split()
        else:
            rows = csv.reader(text, delimiter=_delimiter(written))
            cells = [cell.strip() for cell in next((row for row in rows if row), [])]
        if not written.columns:
            return cells
        if len(cells) != len(written.columns):
            guess = _other_delimiter(" ".join(cells), written)
            raise SourceError(
                f"{name}: the first row has {len(cells)} cells, format.columns names {len(written.columns)}; "
                + (f"it looks divided by {guess!r}: kind csv or tsv" if guess else "correct format.columns")
            )
        return list(written.columns)


def _delimiter(written: Format) -> str:
    return "\t" if written.kind == "tsv" else written.delimiter or ","


def _other_delimiter(line: str, written: Format) -> str | None:
    """What seems to divide `line`, other than what should."""
    own = None if written.kind == "text" else _delimiter(written)
    return next((guess for guess in (";", "\t", ",", "|") if guess in line and guess != own), None)


def _delimited(content: bytes, header: list[str], mapping: FileMapping) -> pd.DataFrame:
    """The table; one cell too many is an error, cells too few are missing values of their row.

    ``usecols`` would let rows with too many cells pass, so all columns are read.
    """
    # pandas refuses names that stand twice, which is nobody's concern in columns that nobody asks for.
    names = [cell if cell in mapping.columns and header.count(cell) == 1 else f"#{n}" for n, cell in enumerate(header)]
    as_text = mapping.text_columns | ({mapping.time.column} if mapping.time.kind == "timestamp" else set())
    with warnings.catch_warnings():
        warnings.simplefilter("error", ParserWarning)
        return pd.read_csv(
            io.BytesIO(content),
            sep=r"\s+" if mapping.format.kind == "text" else _delimiter(mapping.format),
            names=names,
            header=None if mapping.format.columns else 0,
            index_col=False,
            dtype={column: "str" for column in names if column in as_text},
            keep_default_na=False,
            na_values={column: [""] if column in mapping.text_columns else MISSING for column in names},
            decimal=mapping.format.decimal,
            encoding=mapping.format.encoding,
            low_memory=False,
        )


def _text(cells: pd.Series) -> pd.Series:
    """Cells as trimmed text, whole floats without ``.0``; a blank one is missing."""
    if is_float_dtype(cells) and (cells.dropna() % 1 == 0).all():
        cells = cells.astype("Int64")
    text = cells.astype("str").str.strip()
    return text.mask(cells.isna() | (text == ""))


def _fill(template: str, raw: pd.DataFrame, given: Mapping[str, str]) -> pd.Series:
    """The template for each row; missing where a cell is."""
    text = pd.Series("", index=raw.index, dtype="str")
    for literal, field, _, _ in Formatter().parse(template):
        text = text + literal
        if field is not None:
            text = text + (given[field] if field in given else _text(raw[field]))
    return text


def _numbers(cells: pd.Series, written: Format, where: str) -> pd.Series:
    """Cells as float64; what is not a number becomes NaN and is counted in a warning."""
    if is_numeric_dtype(cells):
        return cells.astype("float64")
    text = _text(cells)
    text = text.mask(text.isin(MISSING))
    given = int(text.notna().sum())
    if written.decimal == ",":
        # A point among decimal commas may divide thousands: 1.234 is not guessed at.
        text = text.str.replace(".", "?", regex=False).str.replace(",", ".", regex=False)
    elif given and text.str.fullmatch(r"[+-]?\d+,\d+").sum() > given / 2:
        example = text.dropna().iloc[0]
        raise SourceError(
            f"{where}: column {cells.name!r} has decimal commas, such as {example!r}; state format.decimal: ','"
        )
    numbers: pd.Series = pd.to_numeric(text, errors="coerce").astype("float64")
    _count_lost(cells, text.notna() & numbers.isna(), "a number", where)
    return numbers


def _count_lost(cells: pd.Series, lost: pd.Series, expected: str, where: str) -> None:
    if count := int(lost.sum()):
        row = int(lost.to_numpy().argmax())
        logger.warning(
            "%s: %d of %d cells of column %r are not %s and count as missing; the first is %r in row %d of the data",
            *(where, count, len(cells), cells.name, expected, cells.iloc[row], row + 1),
        )


def _times(cells: pd.Series, time: TimeColumn, written: Format, where: str) -> pd.Series:
    """Cycles as float64, timestamps as datetime64[us, UTC]; what cannot be read is missing."""
    if time.kind == "cycle":
        numbers = _numbers(cells, written, where)
        times = numbers.where(numbers % 1 == 0)
        _count_lost(cells, numbers.notna() & times.isna(), "a whole number", where)
        cure = "a cycle is a whole number"
    else:
        times = timestamps(cells, time, where)
        _count_lost(cells, cells.notna() & times.isna(), "a time", where)
        cure = f"{time.format!r} does not fit" if time.format else "it is not ISO 8601"
        cure += "; state time.format, such as '%d/%m/%Y %H:%M:%S'"
    if times.isna().all():
        example = cells.iloc[0]
        raise SourceError(f"{where}: no cell of column {cells.name!r} is a time, the first is {example!r}: {cure}")
    return times


def timestamps(cells: pd.Series, time: TimeColumn, where: str) -> pd.Series:
    """Times in UTC; NaT also where the clock showed the same local time twice or never, at a change of season."""
    style = time.format or "ISO8601"
    times: pd.Series
    if isinstance(cells.dtype, pd.DatetimeTZDtype):
        times, local = cells.dt.tz_convert("UTC"), pd.Series(pd.NaT, index=cells.index)
    elif is_datetime64_any_dtype(cells):
        times, local = pd.Series(pd.NaT, index=cells.index, dtype="datetime64[us, UTC]"), cells
    else:
        text = _text(cells)
        text = text.mask(text.isin(MISSING))
        zoned = pd.Series("%z" in style, index=cells.index) if time.format else text.str.contains(OFFSET, na=False)
        times = pd.to_datetime(text.where(zoned), format=style, errors="coerce", utc=True)
        local = pd.to_datetime(text.mask(zoned), format=style, errors="coerce")
    if local.notna().any():
        if time.timezone is None:
            example = cells[local.notna()].iloc[0]
            raise SourceError(
                f"{where}: column {cells.name!r} carries no time zone, such as {str(example)!r}; state time.timezone, "
                "UTC or a zone such as America/Sao_Paulo"
            )
        local = local.dt.tz_localize(time.timezone, ambiguous="NaT", nonexistent="NaT").dt.tz_convert("UTC")
        times = times.fillna(local)
    times = times.dt.as_unit("us")
    return times


def _reading(cells: pd.Series, sensor: SensorColumn, written: Format, where: str) -> pd.Series:
    """A sensor from a column, float64, in the unit of the file."""
    if sensor.map is None:
        return _numbers(cells, written, where)
    return _mapped(cells, sensor.map, where).astype("float64")


def _label(cells: pd.Series, label: Label, written: Format, where: str) -> pd.Series:
    """A label from a column: float64, or str for a class."""
    if label.map is None:
        return _text(cells) if label.type == "class" else _numbers(cells, written, where)
    typed: pd.Series = _mapped(cells, label.map, where).astype("str" if label.type == "class" else "float64")
    return typed


def _mapped(cells: pd.Series, values: Mapping[str, float | str], where: str) -> pd.Series:
    """What stands in the map for the text of each cell."""
    text = _text(cells)
    found: pd.Series = text.map(dict(values))
    _count_lost(cells, text.notna() & found.isna(), f"in the map ({', '.join(values)})", where)
    return found
