"""Stored readings: raw data as they came, quarantined rows, and the immutable snapshots that models learn from.

A folder holds the data first and its ``manifest.json`` last: the manifest is the commit mark. A folder that has one is
never written again; a folder without one is what an interrupted step left, and the step's retry writes the same bytes.

Waveforms lie once under ``waveforms/`` of the data root, by their hash; what is stored refers to them.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from pump_ml import __version__, files
from pump_ml.errors import SnapshotError
from pump_ml.schema import ASSET, KEYS, RUN, TIME, Sensor, Telemetry, Waveforms
from pump_ml.settings import git_sha

MANIFEST, ROWS = "manifest.json", "readings.parquet"
USABLE = "usable"
"""Column of stored waveforms: whether one says something, see `pump_ml.schema.Waveforms.usable`."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
"""A key is one folder's name, so that no key leads out of the data root."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Readings that were stored, with their manifest."""

    key: str
    telemetry: Telemetry
    manifest: dict[str, Any]

    @property
    def content_hash(self) -> str:
        """SHA-256 of the rows, see `content_hash`."""
        return str(self.manifest["content_sha256"])


def content_hash(frame: pd.DataFrame) -> str:
    """SHA-256 over names, kinds and values of all columns in order; it does not depend on how the rows are stored."""
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            column = column.dt.tz_convert("UTC").dt.tz_localize(None).astype("datetime64[us]")
        if column.dtype.kind in "biufM":
            values = column.to_numpy()
            kind, content = values.dtype.str, values.astype(values.dtype.newbyteorder("<")).tobytes()
        else:
            # Each text once and its places, so that it shows where a text ends and which is missing (-1).
            places, texts = pd.factorize(column)
            kind, content = "text", json.dumps([str(text) for text in texts]).encode() + places.astype("<i8").tobytes()
        digest.update(f"{name}\n{kind}\n{len(column)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def store(
    root: UPath, kind: str, telemetry: Telemetry, *, waveforms: dict[str, Any] | None = None, **facts: Any
) -> str:
    """Store readings once, under a key made of their name, content and origin.

    Args:
        root: data root.
        kind: ``"raw"`` or ``"snapshots"``.
        telemetry: the readings, and their waveforms, unless these lie there already.
        waveforms: what the manifest of the readings that these come from says of their waveforms.
        facts: more for the manifest, JSON.

    Returns:
        The key; storing equal readings of equal origin again gives the same key and writes nothing.
    """
    frame = telemetry.readings.reset_index(drop=True)
    content = content_hash(frame)
    origin = json.dumps(telemetry.origin, sort_keys=True)
    name = telemetry.origin.get("dataset") or telemetry.origin.get("mapping", {}).get("name") or "readings"
    if telemetry.waveforms is not None:
        waveforms = _store_waveforms(root, telemetry.waveforms)
    taken = waveforms["sha256"] if waveforms else ""
    key = f"{name}-{hashlib.sha256(f'{content}{taken}{origin}'.encode()).hexdigest()[:12]}"
    folder = root / kind / key
    if files.exists(folder / MANIFEST):
        return key
    files.write_parquet(folder / ROWS, frame)
    manifest = {
        "key": key,
        "content_sha256": content,
        "origin": telemetry.origin,
        "suite": telemetry.suite,
        "rows": len(frame),
        "assets": int(frame[ASSET].nunique()) if ASSET in frame else 0,
        "schema": {column: str(dtype) for column, dtype in frame.dtypes.items()},
        "sensors": [{"name": s.name, "unit": s.unit, "description": s.description} for s in telemetry.sensors],
        "labels": list(telemetry.labels),
        "waveforms": waveforms,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_sha": git_sha(),
        "pump_ml": __version__,
        **facts,
    }
    files.write_once(folder / MANIFEST, manifest)
    return key


def read_manifest(root: UPath, kind: str, key: str) -> dict[str, Any]:
    """What is told of stored readings, without reading them.

    Raises:
        SnapshotError: there is no such key, or it was never finished.
    """
    folder = root / kind / key
    if not NAME.fullmatch(key) or not files.exists(folder / MANIFEST):
        known = ", ".join(files.names(root / kind))
        raise SnapshotError(f"no {kind} {key!r} under {root}; there are: {known or 'none'}")
    return dict(files.read_json(folder / MANIFEST))


def load(root: UPath, kind: str, key: str) -> Snapshot:
    """Read stored readings and check that they are what was stored.

    Raises:
        SnapshotError: there is no such key, it was never finished, or its rows were altered.
    """
    folder, manifest = root / kind / key, read_manifest(root, kind, key)
    frame = files.read_parquet(folder / ROWS)
    if (found := content_hash(frame)) != manifest["content_sha256"]:
        raise SnapshotError(
            f"{folder / ROWS} was altered after it was stored: its content hash is {found[:12]}…, the manifest says "
            f"{manifest['content_sha256'][:12]}…; restore the file, or make the dataset again under a new key"
        )
    telemetry = Telemetry(
        frame,
        tuple(Sensor(**sensor) for sensor in manifest["sensors"]),
        tuple(manifest["labels"]),
        manifest["suite"],
        manifest["origin"],
    )
    return Snapshot(key, telemetry, manifest)


def load_waveforms(root: UPath, snapshot: Snapshot, *, values: bool = True) -> Waveforms | None:
    """The waveforms that came with the readings of a snapshot, quarantined ones as well; None where there are none.

    Args:
        root: data root.
        snapshot: whose.
        values: whether to read them, or only when the usable ones were taken.

    Raises:
        SnapshotError: they are gone, or were altered.
    """
    told = snapshot.manifest.get("waveforms")
    if told is None:
        return None
    path = _waveforms(root, told["sha256"])
    if not files.exists(path):
        raise SnapshotError(f"{path} is gone; restore it, or make the dataset again")
    channels = tuple(Sensor(**channel) for channel in told["channels"])
    if not values:
        rows = files.read_parquet(path, [*KEYS, USABLE])
        return Waveforms(rows.loc[rows[USABLE], list(KEYS)].reset_index(drop=True), None, channels, told["rate_hz"])
    table = files.read_table(path)
    stacked = np.empty((table.num_rows, len(channels), told["samples"]), dtype=np.float32)
    for place, channel in enumerate(channels):
        flat = table.column(channel.name).combine_chunks().flatten()
        stacked[:, place] = flat.to_numpy().reshape(table.num_rows, told["samples"])
    found = Waveforms(table.select(list(KEYS)).to_pandas(), stacked, channels, told["rate_hz"])
    if (digest := _digest(found, stacked)) != told["sha256"]:
        raise SnapshotError(
            f"{path} was altered after it was stored: its content hash is {digest[:12]}…, the manifest says "
            f"{told['sha256'][:12]}…; restore the file, or make the dataset again"
        )
    return found


def _waveforms(root: UPath, sha256: str) -> UPath:
    return root / "waveforms" / f"{sha256[:16]}.parquet"


def _digest(waveforms: Waveforms, values: NDArray[np.float32]) -> str:
    """SHA-256 over keys, values, channels and rate."""
    named = json.dumps([[asdict(channel) for channel in waveforms.channels], float(waveforms.rate_hz)])
    digest = hashlib.sha256(f"{content_hash(waveforms.rows[list(KEYS)])}{named}".encode())
    digest.update(np.ascontiguousarray(values, dtype="<f4").view(np.uint8).data)
    return digest.hexdigest()


def _store_waveforms(root: UPath, waveforms: Waveforms) -> dict[str, Any]:
    """Write waveforms once; returns what the manifest says of them."""
    values = waveforms.values
    if values is None:
        raise SnapshotError("waveforms without their values cannot be stored; read them whole")
    sha256, (count, _, samples) = _digest(waveforms, values), values.shape
    path = _waveforms(root, sha256)

    def write(sink: BinaryIO) -> None:
        rows = waveforms.rows
        keys = [pa.array(rows[name].astype("str").to_numpy(), pa.string()) for name in (ASSET, RUN)]
        if isinstance(rows[TIME].dtype, pd.DatetimeTZDtype):
            at = pa.array(rows[TIME].dt.tz_convert(None).to_numpy()).cast(pa.timestamp("us", tz="UTC"))
        else:
            at = pa.array(rows[TIME].to_numpy())
        columns = [
            pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(values[:, place], dtype=np.float32).reshape(-1)), samples
            )
            for place in range(len(waveforms.channels))
        ]
        names = [channel.name for channel in waveforms.channels]
        table = pa.table([*keys, at, pa.array(waveforms.usable()), *columns], names=[*KEYS, USABLE, *names])
        pq.write_table(table, sink, compression="none", use_dictionary=list(KEYS), row_group_size=256)

    if not files.exists(path):
        files.write_stream(path, write)
    channels = [asdict(channel) for channel in waveforms.channels]
    return {
        "sha256": sha256, "count": count, "samples": samples, "rate_hz": float(waveforms.rate_hz), "channels": channels,
    }  # fmt: skip
