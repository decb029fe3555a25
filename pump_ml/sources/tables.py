"""One file's bytes as typed columns: cells become names, times, sensors and labels; no row is lost."""

import csv
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import PurePosixPath
from string import Formatter

import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_float_dtype, is_numeric_dtype
from pandas.errors import ParserError, ParserWarning

from pump_ml.errors import SourceError, UnknownNameError
from pump_ml.schema import ASSET, PART, RUN, TIME, convert
from pump_ml.sources.mapping import FileMapping, Files, Format, Label, TimeColumn

logger = logging.getLogger(__name__)

MISSING = ["", "-", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]
"""What a cell of numbers or times may hold in place of a value."""
OFFSET = r"(?:Z|:\d\d(?:\.\d+)? ?[+-]\d\d(?::?\d\d)?)$"
"""The end of an ISO 8601 time that carries its zone."""


def read_table(name: str, content: bytes, files: Files, mapping: FileMapping) -> pd.DataFrame:
    """Keys, time, sensors and labels from columns of one file, row by row as they stand in it."""
    raw = _columns(name, content, mapping)
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
        columns[key] = convert(_numbers(raw[sensor.column], mapping.format, name), sensor.unit, sensor.final_unit)
    for key, label in mapping.labels.items():
        if label.column:
            columns[key] = _label(raw[label.column], label, mapping.format, name)
    return pd.DataFrame(columns)


def _columns(name: str, content: bytes, mapping: FileMapping) -> pd.DataFrame:
    """The columns that the mapping asks for: names and times as text, the rest as pandas finds them."""
    written = mapping.format
    try:
        if written.kind == "parquet":
            # Without its metadata pandas makes no index of a column, such as the time.
            raw = pd.read_parquet(io.BytesIO(content), engine="pyarrow", to_pandas_kwargs={"ignore_metadata": True})
            header = [str(column) for column in raw.columns]
            _check_header(name, header, mapping)
            return raw.set_axis(header, axis="columns")
        header = _header(name, content, written)
        _check_header(name, header, mapping)
        return _delimited(content, header, mapping)
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
            if len(cells) != len(written.columns):
                guess = _other_delimiter(" ".join(cells), written)
                raise SourceError(
                    f"{name}: the first row has {len(cells)} cells, format.columns names {len(written.columns)}; "
                    + (f"it looks divided by {guess!r}: kind csv or tsv" if guess else "correct format.columns")
                )
            return list(written.columns)
        rows = csv.reader(text, delimiter=_delimiter(written))
        return [cell.strip() for cell in next((row for row in rows if row), [])]


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
            header=None if mapping.format.kind == "text" else 0,
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
        times = _timestamps(cells, time, where)
        _count_lost(cells, cells.notna() & times.isna(), "a time", where)
        cure = f"{time.format!r} does not fit" if time.format else "it is not ISO 8601"
        cure += "; state time.format, such as '%d/%m/%Y %H:%M:%S'"
    if times.isna().all():
        example = cells.iloc[0]
        raise SourceError(f"{where}: no cell of column {cells.name!r} is a time, the first is {example!r}: {cure}")
    return times


def _timestamps(cells: pd.Series, time: TimeColumn, where: str) -> pd.Series:
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


def _label(cells: pd.Series, label: Label, written: Format, where: str) -> pd.Series:
    """A label from a column: float64, or str for a class."""
    if label.map is None:
        return _text(cells) if label.type == "class" else _numbers(cells, written, where)
    text = _text(cells)
    values: pd.Series = text.map(label.map)
    _count_lost(cells, text.notna() & values.isna(), f"in the label's map ({', '.join(label.map)})", where)
    typed: pd.Series = values.astype("str" if label.type == "class" else "float64")
    return typed
