"""A simulated fleet, live: rows at a rate, to standard output, to a CSV log that rolls, or to an HTTP address.

Rows of an asset come in the order of time and carry a sequence number without gaps, so that a receiver sees what is
missing or doubled. What a sink does not take yet waits in a queue of bounded length; when that is full the twin's clock
stops, nothing is dropped.
"""

import base64
import csv
import heapq
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Protocol, TextIO

import httpx
import numpy as np

from pump_ml.errors import ConfigurationError, StreamError
from pump_ml.twin.datasets import Fleet, Record, Rows
from pump_ml.twin.degradation import MODES

log = logging.getLogger(__name__)

Row = dict[str, Any]
QUEUE_ROWS = 10_000
BATCH_ROWS = 500
FLUSH_S = 0.5
"""A batch that is not full goes out after so long."""
TIMEOUT_S = 60.0
"""An answer is waited for so long. A receiver that stalls for less never sees a batch twice."""
RETRY_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Waits between tries of a batch, the last one again and again until `GIVE_UP_S`."""
GIVE_UP_S = 300.0
DRAIN_S = 30.0
"""At the end, what is in the queue has so long to go out."""


def play(fleet: Fleet) -> Iterator[Row]:
    """Rows of a fleet in the order of time, without commissioning records; waveforms are rows of their own.

    Every row has ``kind`` ("reading" or "waveform"), ``asset_id``, ``sequence`` (from 0, by asset), ``run_id`` and
    ``time``; a missing reading is None. A waveform is float32, little-endian, in base64.
    """
    yield from heapq.merge(*(_asset(fleet, number) for number in range(fleet.pumps)), key=lambda row: row["time"])


def _asset(fleet: Fleet, number: int) -> Iterator[Row]:
    rows = fleet.rows(number)
    records = {record.time_us: record for record in rows.waveforms}
    sequence = 0
    for row in _readings(rows):
        time_us = row.pop("time_us")
        yield {"kind": "reading", "asset_id": rows.asset_id, "sequence": sequence, **row}
        sequence += 1
        if time_us in records:
            yield {"kind": "waveform", "asset_id": rows.asset_id, "sequence": sequence, **_waveform(records[time_us])}
            sequence += 1


def _readings(rows: Rows) -> Iterator[Row]:
    ends = np.cumsum([length for _, length in rows.runs])
    names = [name for name, _ in rows.runs]
    for at in np.flatnonzero(~rows.commissioning).tolist():
        values = {
            name: None if np.isnan(column[at]) else round(float(column[at]), 4) for name, column in rows.sensors.items()
        }
        labels = {name: column[at].item() for name, column in rows.labels.items()}
        labels["mode"] = MODES[labels["mode"]]
        time_us = int(rows.time_us[at])
        run_id = names[int(np.searchsorted(ends, at, side="right"))]
        yield {"time_us": time_us, "run_id": run_id, "time": _iso(time_us), **values, **labels}


def _waveform(record: Record) -> Row:
    def packed(wave: Any) -> str:
        return base64.b64encode(wave.astype("<f4").tobytes()).decode()

    return {
        "run_id": record.run_id,
        "time": _iso(record.time_us),
        "drive_end_g": packed(record.drive_end),
        "non_drive_end_g": packed(record.non_drive_end),
    }


def _iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Sink(Protocol):
    """Where rows go."""

    def send(self, number: int, batch: list[Row]) -> None:
        """Deliver a batch, whole.

        Raises:
            StreamError: it cannot be delivered.
        """

    def close(self) -> None:
        """Let go of what is open."""


class Lines:
    """JSON, one row a line."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout

    def send(self, number: int, batch: list[Row]) -> None:  # noqa: ARG002 - only a receiver may see a batch twice
        """Write and flush."""
        try:
            self.out.write("".join(json.dumps(row) + "\n" for row in batch))
            self.out.flush()
        except BrokenPipeError as error:
            raise StreamError("whoever read standard output is gone") from error

    def close(self) -> None:
        """Nothing is open."""


class RollingCsv:
    """``sensors_log_v3-000001.csv`` and so on in a folder, a new file after so many rows; none is ever deleted.

    Waveforms go to ``vibration_waveform/<asset_id>/<sequence>.npy``, ``(2, samples)`` float32: drive end, other end.
    """

    def __init__(self, folder: Path, dataset: str, roll_rows: int) -> None:
        if roll_rows < 1:
            raise ConfigurationError(f"roll_rows = {roll_rows}; expected 1 or more")
        self.folder, self.dataset, self.roll_rows = folder, dataset, roll_rows
        folder.mkdir(parents=True, exist_ok=True)
        self.number = max((int(path.stem[-6:]) for path in folder.glob(f"sensors_log_{dataset}-*.csv")), default=0)
        self.file: TextIO | None = None
        self.rows = 0

    def send(self, number: int, batch: list[Row]) -> None:  # noqa: ARG002 - as above
        """Append, and begin a new file where one is full."""
        for row in batch:
            if row["kind"] == "waveform":
                self._keep(row)
                continue
            shown = {name: value for name, value in row.items() if name != "kind"}
            file = self.file
            if file is None or self.rows >= self.roll_rows:
                file = self._roll(list(shown))
            csv.writer(file, lineterminator="\n").writerow(shown.values())
            self.rows += 1
        if self.file:
            self.file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.file:
            self.file.close()

    def _roll(self, header: list[str]) -> TextIO:
        self.close()
        self.number += 1
        path = self.folder / f"sensors_log_{self.dataset}-{self.number:06d}.csv"
        self.file = path.open("x", encoding="utf-8", newline="")
        csv.writer(self.file, lineterminator="\n").writerow(header)
        self.rows = 0
        return self.file

    def _keep(self, row: Row) -> None:
        path = self.folder / "vibration_waveform" / row["asset_id"] / f"{row['sequence']:09d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        ends = [np.frombuffer(base64.b64decode(row[name]), "<f4") for name in ("drive_end_g", "non_drive_end_g")]
        np.save(path, np.stack(ends))


class Http:
    """POST of newline-delimited JSON, one batch at a time.

    A batch that was not acknowledged (2xx) is sent again, the same bytes under the same ``Idempotency-Key``: a receiver
    that had taken it before the answer was lost knows it by that.
    """

    def __init__(self, address: str, stream: str, give_up_s: float = GIVE_UP_S) -> None:
        if httpx.URL(address).scheme not in ("http", "https"):
            raise ConfigurationError(f"address {address!r}; expected http://… or https://…")
        self.address, self.stream, self.give_up_s = address, stream, give_up_s
        self.client = httpx.Client(timeout=httpx.Timeout(TIMEOUT_S, connect=5.0))

    def send(self, number: int, batch: list[Row]) -> None:
        """Send until it is acknowledged.

        Raises:
            StreamError: the receiver refuses the batch (4xx), or takes none for `give_up_s`.
        """
        content = "".join(json.dumps(row) + "\n" for row in batch).encode()
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f"{self.stream}-{number}"}
        begun = time.monotonic()
        for tried in range(1_000_000):
            try:
                answer = self.client.post(self.address, content=content, headers=headers)
                if answer.is_success:
                    return
                said = f"answered {answer.status_code}: {answer.text[:200]}"
                if answer.is_client_error and answer.status_code not in (408, 425, 429):
                    raise StreamError(f"{self.address} {said}; it refuses these rows, so they are not sent again")
            except httpx.TransportError as error:
                said = f"did not answer: {type(error).__name__} {error}"
            if time.monotonic() - begun > self.give_up_s:
                raise StreamError(f"{self.address} {said}; given up after {self.give_up_s:g} s, batch {number}")
            wait = RETRY_S[min(tried, len(RETRY_S) - 1)]
            log.warning("%s %s; batch %d again in %g s", self.address, said, number, wait)
            time.sleep(wait)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


@dataclass
class Told:
    """What became of a stream.

    Args:
        made: rows that were taken from the fleet.
        delivered: rows that the sink took.
        last: sequence of each asset's last delivered row.
        seconds: how long it ran.
    """

    made: int = 0
    delivered: int = 0
    last: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def run(
    rows: Iterator[Row],
    sink: Sink,
    *,
    rate: float,
    stop: threading.Event,
    most: int | None = None,
    seconds: float | None = None,
    drain_s: float = DRAIN_S,
) -> Told:
    """Play rows to a sink until they end, enough are made, the time is over, or `stop` is set.

    Args:
        rows: in the order in which they go out.
        sink: where to.
        rate: rows a second.
        stop: set by whoever wants an end; what was made by then is delivered.
        most: rows.
        seconds: of time.
        drain_s: that the queue has at the end.

    Raises:
        StreamError: the sink takes no more; rows that were made are not delivered.
    """
    if not 0.001 <= rate <= 1_000_000:
        raise ConfigurationError(f"rate = {rate!r} rows/s; expected 0.001 to 1000000")
    queue: Queue[Row | None] = Queue(QUEUE_ROWS)
    told, failed = Told(), []
    begun = time.monotonic()

    def deliver() -> None:
        try:
            for number, batch in enumerate(_batches(queue)):
                sink.send(number, batch)
                told.delivered += len(batch)
                told.last |= {row["asset_id"]: row["sequence"] for row in batch}
        except Exception as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failed.append(error)
            stop.set()

    sender = threading.Thread(target=deliver, daemon=True)
    sender.start()
    due = begun
    for row in rows:
        if stop.is_set() or (most is not None and told.made >= most):
            break
        if seconds is not None and time.monotonic() - begun >= seconds:
            break
        if (wait := due - time.monotonic()) > 0.002:  # many rows a wake-up, where they come fast
            stop.wait(wait)
        due += 1.0 / rate
        if not _put(queue, row, failed):
            break
        told.made += 1
        due = max(due, time.monotonic() - 1.0)  # after a stall the twin's clock goes on from now
    _put(queue, None, failed)
    sender.join(drain_s if not failed else 1.0)
    told.seconds = time.monotonic() - begun
    sink.close()
    if failed or sender.is_alive() or told.delivered < told.made:
        why = failed[0] if failed else f"the sink did not take them within {drain_s:g} s"
        raise StreamError(f"{told.made - told.delivered} of {told.made} rows are not delivered: {why}")
    return told


def _put(queue: "Queue[Row | None]", row: Row | None, failed: list[Exception]) -> bool:
    """Wait for a place in the queue, unless the sender is gone."""
    while not failed:
        try:
            queue.put(row, timeout=0.5)
        except Full:
            continue
        return True
    return False


def _batches(queue: "Queue[Row | None]") -> Iterator[list[Row]]:
    """Batches as they fill; the last when the queue says that there is no more."""
    batch: list[Row] = []
    flush = time.monotonic() + FLUSH_S
    while True:
        try:
            row = queue.get(timeout=max(flush - time.monotonic(), 0.01))
        except Empty:
            row = {}
        if row is None:
            break
        if row:
            batch.append(row)
        if len(batch) >= BATCH_ROWS or time.monotonic() >= flush:
            if batch:
                yield batch
                batch = []
            flush = time.monotonic() + FLUSH_S
    if batch:
        yield batch
