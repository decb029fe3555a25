"""A simulated fleet's rows and waveforms as files: shard by shard, pump by pump as they are made.

A folder of a fleet holds::

    fleet.json                              what it is for; first
    readings-00000-of-00003.parquet …       one file a shard, whole pumps in a row group
    readings-00000-of-00003.json …          digest of each pump's columns; written after the shard's files
    vibration_waveform/<asset_id>.parquet   one file a pump, one row a record, in the order of time
    sensors_log_v2.csv                      where asked
    manifest.json                           last

What a pump's rows are does not depend on the shards, on who works them out, or on the size of the fleet.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq
import yaml
from upath import UPath

from pump_ml import files
from pump_ml.catalog import MOST_SHARDS
from pump_ml.errors import ConfigurationError, SnapshotError, UnknownNameError
from pump_ml.schema import ASSET, COMMISSIONING, KEYS, RUN, TIME, Sensor, Waveforms
from pump_ml.settings import PACKAGE, git_sha
from pump_ml.twin.datasets import LABELS, VERSION, Fleet, Record, Rows
from pump_ml.twin.datasheet import DataSheet, read
from pump_ml.twin.degradation import MODES
from pump_ml.twin.instruments import NAMES, Options
from pump_ml.twin.waveform import Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

Json = dict[str, Any]
WAVEFORMS = "vibration_waveform"
CHANNELS = (
    Sensor("drive_end_g", "standard_gravity", "acceleration at the drive end"),
    Sensor("non_drive_end_g", "standard_gravity", "acceleration at the other end"),
)
"""Of a waveform."""
OWN = {"v2": ("samples",), "v3": ("days", "step_minutes")}
"""Options of one dataset alone."""
GROUP_ROWS = 50_000
"""A row group of the readings has so many rows or a few more. A writer keeps 45 kB of each group until the file is
whole; with a group for each pump its memory would grow with the fleet."""


def plan(dataset: str, preset: str = "small", *, sheets: Sequence[str] = (), **given: Any) -> Fleet:
    """A fleet of a preset.

    Args:
        dataset: v2 or v3.
        preset: of `pump_ml.catalog.FLEETS`.
        sheets: pump types, each a shipped name or the path of a YAML.
        given: fields of `pump_ml.twin.datasets.Fleet`, or ``step_minutes``, that go before the preset's; None does not.

    Raises:
        ConfigurationError: something is unknown or out of its bounds.
    """
    for other, own in OWN.items():
        if other != dataset and (strange := [name for name in own if given.get(name) is not None]):
            raise ConfigurationError(
                f"{strange[0]} = {given[strange[0]]!r} is an option of dataset {other}; leave it out for {dataset}"
            )
    presets = yaml.safe_load((PACKAGE / "conf" / "fleets.yaml").read_text(encoding="utf-8"))
    if preset not in presets:
        raise UnknownNameError("fleet preset", preset, presets)
    if dataset not in presets[preset]:
        raise UnknownNameError("dataset", dataset, presets[preset])
    chosen = {**presets[preset][dataset], **{name: value for name, value in given.items() if value is not None}}
    if "step_minutes" in chosen:
        chosen["step_s"] = 60.0 * chosen.pop("step_minutes")
    return Fleet(dataset, sheets=tuple(map(load_sheet, sheets)), **chosen)  # type: ignore[arg-type]


def load_sheet(name: str) -> DataSheet:
    """A data sheet by the name of a shipped one, or from a YAML.

    Raises:
        ConfigurationError: there is none, or it is impossible.
    """
    shipped = sorted(path.stem for path in (PACKAGE / "conf" / "pumps").glob("*.yaml"))
    path = PACKAGE / "conf" / "pumps" / f"{name}.yaml" if name in shipped else Path(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"data sheet {name!r} cannot be read: {error}; give a YAML, or one of {', '.join(shipped)}"
        ) from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"data sheet {name!r} holds no fields; expected name, rated, points, motor, bearings")
    return read(content)


def origin(fleet: Fleet) -> Json:
    """What the rows of a fleet follow from, JSON."""
    # As floats: 365 and 365.0 days are one fleet.
    own = (
        {"samples": fleet.samples}
        if fleet.dataset == "v2"
        else {"days": float(fleet.days), "step_s": float(fleet.step_s)}
    )
    named: Json = {"dataset": fleet.dataset, "twin": VERSION, "pumps": fleet.pumps, "seed": fleet.seed, **own}
    if fleet.waveforms_h:
        named["waveforms_h"] = float(fleet.waveforms_h)
    if fleet.sheets:
        named["sheets"] = [
            f"{sheet.name}-{hashlib.sha256(sheet.model_dump_json().encode()).hexdigest()[:8]}" for sheet in fleet.sheets
        ]
    if fleet.options != Options():
        named["instruments"] = asdict(fleet.options)
    return {"source": "simulated", **named}


def fleet_of(origin: Json) -> Fleet | None:
    """The fleet whose `origin` this is; None where this version of the twin cannot make it again.

    That is so for data from elsewhere, for another version's, and for pump types from data sheets, of which an origin
    keeps but the hash.
    """
    if (origin.get("source"), origin.get("twin")) != ("simulated", VERSION) or "sheets" in origin:
        return None
    named = {name: value for name, value in origin.items() if name not in ("source", "twin", "instruments")}
    return Fleet(**named, options=Options(**origin.get("instruments", {})))


def claim(folder: UPath, fleet: Fleet, shards: int) -> None:
    """Say what a folder is for, once.

    Raises:
        ConfigurationError: it holds another fleet, or the same in other shards.
    """
    files.write_once(folder / "fleet.json", {**origin(fleet), "shards": shards})
    if (found := files.read_json(folder / "fleet.json")) != {**origin(fleet), "shards": shards}:
        raise ConfigurationError(
            f"{folder} holds another fleet: {found}; expected an empty folder, or the same options"
        )


def finish(folder: UPath, fleet: Fleet, shards: int, *, csv: bool = False) -> Json:
    """Write the manifest, and before it the CSV; returns the manifest."""
    told = {**origin(fleet), "shards": shards, **reports(folder, fleet, shards), "git_sha": git_sha()}
    if csv and not files.exists(folder / f"sensors_log_{fleet.dataset}.csv"):
        write_csv(folder, fleet, shards)
    files.write_once(folder / "manifest.json", told)
    return told


def pumps_of(fleet: Fleet, shard: int, shards: int) -> range:
    """Numbers of the pumps of one shard: neighbours, and as many as in any other shard or one less.

    Raises:
        ConfigurationError: there can be no such shard.
    """
    most = min(fleet.pumps, MOST_SHARDS)
    if not isinstance(shards, int) or not 1 <= shards <= most:
        raise ConfigurationError(f"shards = {shards!r}; expected 1 to {most}, for a fleet of {fleet.pumps} pumps")
    if not 0 <= shard < shards:
        raise ConfigurationError(f"shard = {shard}; expected 0 to {shards - 1}, for {shards} shards")
    return range(fleet.pumps * shard // shards, fleet.pumps * (shard + 1) // shards)


def part(shard: int, shards: int, suffix: str = ".parquet") -> str:
    """File name of a shard's readings."""
    return f"readings-{shard:05d}-of-{shards:05d}{suffix}"


def write_shard(
    folder: UPath, fleet: Fleet, shard: int, shards: int, progress: Callable[[float], None] | None = None
) -> Json:
    """Make the pumps of one shard and write what they show; a shard that is there is left as it is.

    Args:
        folder: of the fleet.
        fleet: what to make.
        shard: which, from 0.
        shards: of how many.
        progress: gets the share that is done.

    Returns:
        ``rows``, ``sha256`` of the file of readings, and ``digests`` by pump: SHA-256 of its columns.
    """
    numbers = pumps_of(fleet, shard, shards)
    mark = folder / part(shard, shards, ".json")
    if files.exists(mark):
        return dict(files.read_json(mark))
    digests: dict[str, str] = {}
    waiting: list[pa.Table] = []
    made, count = hashlib.sha256(), 0

    def write(file: BinaryIO) -> None:
        nonlocal count
        sink = _Hashing(file, made)
        with pq.ParquetWriter(sink, schema(fleet), compression="zstd", use_dictionary=[ASSET, RUN, "mode"], store_schema=False, write_statistics=False) as writer:  # fmt: skip  # noqa: E501
            for done, number in enumerate(numbers, start=1):
                rows = fleet.rows(number)
                waiting.append(table(rows, fleet))
                if (ready := sum(map(len, waiting))) >= GROUP_ROWS or done == len(numbers):
                    writer.write_table(pa.concat_tables(waiting), row_group_size=ready)
                    waiting.clear()
                digests[rows.asset_id] = digest(rows)
                count += len(rows)
                if fleet.waveforms_h:
                    _write_waveforms(folder / WAVEFORMS / f"{rows.asset_id}.parquet", rows.waveforms)
                if progress:
                    progress(done / len(numbers))

    files.write_stream(folder / part(shard, shards), write)
    report = {"rows": count, "sha256": made.hexdigest(), "digests": digests}
    files.write_once(mark, report)
    return report


class _Hashing:
    """A file that is written to, and a hash that takes in what is."""

    def __init__(self, file: BinaryIO, digest: "hashlib._Hash") -> None:
        self.file, self.digest = file, digest

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self.file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def read_shard(folder: UPath, shard: int, shards: int) -> pd.DataFrame:
    """Rows of a shard, after a look that they are what was written.

    Raises:
        SnapshotError: the file is gone, or was altered.
    """
    path = folder / part(shard, shards)
    if not files.exists(path):
        raise SnapshotError(f"{path} is gone; restore it, or remove its folder, which is then made again")
    return files.read_parquet(path, sha256=files.read_json(folder / part(shard, shards, ".json"))["sha256"])


def read_waveforms(folder: UPath, fleet: Fleet) -> Waveforms:
    """The waveforms of a fleet, pump after pump.

    Raises:
        SnapshotError: a file is no Parquet any more.
    """
    rows: list[pd.DataFrame] = []
    values: list[NDArray[np.float32]] = []
    for number in range(fleet.pumps):
        asset = fleet.asset_id(number)
        table = files.read_table(folder / WAVEFORMS / f"{asset}.parquet")
        shape = (table.num_rows, Sampling().count)
        wave = [table.column(end.name).combine_chunks().flatten().to_numpy().reshape(shape) for end in CHANNELS]
        values.append(np.stack(wave, axis=1))
        rows.append(table.select([RUN, TIME]).to_pandas().assign(**{ASSET: asset}))
    return Waveforms(
        pd.concat(rows, ignore_index=True)[list(KEYS)], np.concatenate(values), CHANNELS, Sampling().rate_hz
    )


def reports(folder: UPath, fleet: Fleet, shards: int) -> Json:
    """What `write_shard` said of all shards together: ``rows``, and ``columns_sha256`` of all pumps in their order.

    Raises:
        ConfigurationError: a shard was not made.
    """
    digest, count = hashlib.sha256(), 0
    for shard in range(shards):
        mark = folder / part(shard, shards, ".json")
        if not files.exists(mark):
            raise ConfigurationError(f"shard {shard} of {shards} was not made: there is no {mark}")
        made = files.read_json(mark)
        count += made["rows"]
        for number in pumps_of(fleet, shard, shards):
            digest.update(made["digests"][fleet.asset_id(number)].encode())
    return {"rows": count, "columns_sha256": digest.hexdigest()}


def write_csv(folder: UPath, fleet: Fleet, shards: int) -> UPath:
    """All readings as one CSV, pump after pump, time as ISO 8601 in UTC; nothing for a reading that is missing."""
    path = folder / f"sensors_log_{fleet.dataset}.csv"

    def write(sink: BinaryIO) -> None:
        with pyarrow.csv.CSVWriter(sink, schema(fleet)) as writer:
            for batch in _batches(folder, shards):
                # Arrow's CSV knows null, not NaN.
                columns = [
                    pa.compute.if_else(pa.compute.is_nan(column), None, column)
                    if pa.types.is_floating(column.type)
                    else column
                    for column in batch.columns
                ]
                writer.write_table(pa.table(columns, schema=schema(fleet)))

    files.write_stream(path, write)
    return path


def _batches(folder: UPath, shards: int) -> Iterator[pa.Table]:
    for shard in range(shards):
        with (folder / part(shard, shards)).open("rb") as file:
            reader = pq.ParquetFile(file)
            for group in range(reader.num_row_groups):
                yield reader.read_row_group(group)


def schema(fleet: Fleet) -> pa.Schema:
    """Columns of the readings; v2 in float64, v3, of which there is much more, in float32."""
    real = pa.float64() if fleet.dataset == "v2" else pa.float32()
    kinds = {"severity": pa.int64(), "mode": pa.string(), "censored": pa.bool_()}
    return pa.schema([
        (ASSET, pa.string()), (RUN, pa.string()), (TIME, pa.timestamp("us", tz="UTC")), (COMMISSIONING, pa.bool_()),
        *((name, real) for name in NAMES),
        *((name, kinds.get(name, real)) for name in LABELS[fleet.dataset]),
    ])  # fmt: skip


def table(rows: Rows, fleet: Fleet) -> pa.Table:
    """A pump's rows in the columns of `pump_ml.schema`."""
    wanted = schema(fleet)
    places = np.repeat(np.arange(len(rows.runs), dtype=np.int32), [length for _, length in rows.runs])
    columns = {
        ASSET: _texts(np.zeros(len(rows), dtype=np.int32), [rows.asset_id]),
        RUN: _texts(places, [name for name, _ in rows.runs]),
        TIME: pa.array(rows.time_us).cast(pa.timestamp("us", tz="UTC")),
        COMMISSIONING: pa.array(rows.commissioning),
        **{name: pa.array(values) for name, values in rows.sensors.items()},
        **{name: pa.array(values) for name, values in rows.labels.items()},
        "mode": _texts(rows.labels["mode"].astype(np.int32), list(MODES)),
    }
    return pa.table([columns[name] for name in wanted.names], schema=wanted)


def digest(rows: Rows) -> str:
    """SHA-256 over the names and little-endian values of a pump's columns."""
    made = hashlib.sha256(repr(rows.runs).encode())
    for name, values in (("time", rows.time_us), (COMMISSIONING, rows.commissioning), *rows.sensors.items(), *rows.labels.items()):  # fmt: skip  # noqa: E501
        made.update(name.encode())
        made.update(np.ascontiguousarray(values).view(np.uint8).data)
    for record in rows.waveforms:
        made.update(record.time_us.to_bytes(8, "little"))
        made.update(record.drive_end.view(np.uint8).data)
        made.update(record.non_drive_end.view(np.uint8).data)
    return made.hexdigest()


def _texts(places: Any, texts: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(places), pa.array(texts)).dictionary_decode()


def _write_waveforms(path: UPath, records: tuple[Record, ...]) -> None:
    wave = pa.list_(pa.float32(), Sampling().count)
    kinds = pa.schema([
        (RUN, pa.string()), (TIME, pa.timestamp("us", tz="UTC")), ("drive_end_g", wave), ("non_drive_end_g", wave),
    ])  # fmt: skip

    def stacked(name: str) -> pa.Array:
        values = np.concatenate([getattr(record, name) for record in records]) if records else np.empty(0, np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(values), Sampling().count)

    def write(sink: BinaryIO) -> None:
        made = pa.table([
            pa.array([record.run_id for record in records], pa.string()),
            pa.array([record.time_us for record in records], pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            stacked("drive_end"), stacked("non_drive_end"),
        ], schema=kinds)  # fmt: skip
        pq.write_table(made, sink, compression="none", use_dictionary=False, row_group_size=64, store_schema=False)

    files.write_stream(path, write)
