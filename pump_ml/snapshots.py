"""Stored readings: raw data as they came, quarantined rows, and the immutable snapshots that models learn from.

A folder holds the data first and its ``manifest.json`` last: the manifest is the commit mark. A folder that has one is
never written again; a folder without one is what an interrupted step left, and the step's retry writes the same bytes.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from upath import UPath

from pump_ml import __version__, files
from pump_ml.errors import SnapshotError
from pump_ml.schema import ASSET, Sensor, Telemetry
from pump_ml.settings import git_sha

MANIFEST, ROWS = "manifest.json", "readings.parquet"
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


def store(root: UPath, kind: str, telemetry: Telemetry, **facts: Any) -> str:
    """Store readings once, under a key made of their name, content and origin.

    Args:
        root: data root.
        kind: ``"raw"`` or ``"snapshots"``.
        telemetry: the readings.
        facts: more for the manifest, JSON.

    Returns:
        The key; storing equal readings of equal origin again gives the same key and writes nothing.
    """
    frame = telemetry.readings.reset_index(drop=True)
    content = content_hash(frame)
    origin = json.dumps(telemetry.origin, sort_keys=True)
    name = telemetry.origin.get("dataset") or telemetry.origin.get("mapping", {}).get("name") or "readings"
    key = f"{name}-{hashlib.sha256(f'{content}{origin}'.encode()).hexdigest()[:12]}"
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
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_sha": git_sha(),
        "pump_ml": __version__,
        **facts,
    }
    files.write_once(folder / MANIFEST, manifest)
    return key


def load(root: UPath, kind: str, key: str) -> Snapshot:
    """Read stored readings and check that they are what was stored.

    Raises:
        SnapshotError: there is no such key, it was never finished, or its rows were altered.
    """
    folder = root / kind / key
    if not NAME.fullmatch(key) or not files.exists(folder / MANIFEST):
        known = ", ".join(files.names(root / kind))
        raise SnapshotError(f"no {kind} {key!r} under {root}; there are: {known or 'none'}")
    manifest = files.read_json(folder / MANIFEST)
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
