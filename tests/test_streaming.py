"""A fleet, live: nothing lost, nothing doubled, order kept, whatever the receiver does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pump_ml import streaming
from pump_ml.errors import ConfigurationError, StreamError
from pump_ml.twin.datasets import Fleet

BIN = Path(sys.executable).parent
FLEET = Fleet("v3", 5, days=60, waveforms_h=24)


class Receiver:
    """Keeps what it is sent; stalls, fails, or takes a batch and loses the answer, by the number of the request."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self.keys: Counter[str] = Counter()
        self.requests = 0
        self.stall_s: dict[int, float] = {}
        self.status: dict[int, int] = {}
        self.lost: set[int] = set()
        self.address = ""


@contextmanager
def receiving() -> Iterator[Receiver]:
    told = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            number, told.requests = told.requests, told.requests + 1
            time.sleep(told.stall_s.get(number, 0.0))
            status = told.status.get(number, 204)
            key = self.headers["Idempotency-Key"]
            if status < 300:
                if not told.keys[key]:
                    told.rows += [json.loads(line) for line in body.decode().splitlines()]
                told.keys[key] += 1
            if number in told.lost:
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told.address = f"http://127.0.0.1:{server.server_port}/rows"
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()


def assert_whole(rows: list[dict[str, object]]) -> None:
    """By asset: sequence without gap or double, and times that do not go back."""
    frame = pd.DataFrame([{name: row[name] for name in ("asset_id", "sequence", "time")} for row in rows])
    for asset, part in frame.groupby("asset_id"):
        assert part["sequence"].tolist() == list(range(len(part))), asset
        assert part["time"].is_monotonic_increasing, asset


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "RETRY_S", (0.05,))


def stream(receiver: Receiver, rows: int, rate: float = 20_000.0, **options: float) -> streaming.Told:
    stop = threading.Event()
    sink = streaming.Http(receiver.address, "test")
    return streaming.run(streaming.play(FLEET), sink, rate=rate, stop=stop, most=rows, **options)


def test_a_receiver_gets_every_row_once_and_in_order() -> None:
    with receiving() as receiver:
        told = stream(receiver, 2600)
    assert (told.made, told.delivered, len(receiver.rows)) == (2600, 2600, 2600)
    assert_whole(receiver.rows)
    assert Counter(row["kind"] for row in receiver.rows)["waveform"] > 5


def test_a_receiver_that_stalls_fails_and_loses_answers_gets_every_row_once() -> None:
    with receiving() as receiver:
        receiver.stall_s = {1: 1.0, 3: 1.0}
        receiver.status = {2: 503, 5: 429}
        receiver.lost = {4}
        told = stream(receiver, 3000)
    assert told.delivered == 3000
    assert len(receiver.rows) == 3000
    assert max(receiver.keys.values()) == 2, "the batch whose answer was lost came twice, under one key"
    assert_whole(receiver.rows)


def test_the_twins_clock_waits_for_a_slow_receiver_and_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "QUEUE_ROWS", 100)
    monkeypatch.setattr(streaming, "BATCH_ROWS", 50)
    with receiving() as receiver:
        receiver.stall_s = {0: 1.0}
        begun = time.monotonic()
        told = stream(receiver, 600, rate=2_000.0)
        assert time.monotonic() - begun > 1.1
    assert len(receiver.rows) == told.made == 600
    assert_whole(receiver.rows)


def test_rows_come_at_the_rate() -> None:
    begun = time.monotonic()
    streaming.run(streaming.play(FLEET), streaming.Lines(StringIO()), rate=200.0, stop=threading.Event(), most=300)
    assert 1.3 < time.monotonic() - begun < 6.0


def test_a_receiver_that_refuses_or_never_answers_is_told() -> None:
    with receiving() as receiver:
        receiver.status = {0: 400}
        with pytest.raises(StreamError, match="answered 400"):
            stream(receiver, 1200)
    stop = threading.Event()
    nobody = streaming.Http("http://127.0.0.1:9/rows", "test", give_up_s=0.3)
    with pytest.raises(StreamError, match=r"given up after 0\.3 s"):
        streaming.run(streaming.play(FLEET), nobody, rate=1e5, stop=stop, most=10)


def test_a_csv_log_rolls_and_never_writes_over_what_is_there(tmp_path: Path) -> None:
    for _ in range(2):
        sink = streaming.RollingCsv(tmp_path, "v3", 100)
        streaming.run(streaming.play(FLEET), sink, rate=1e6, stop=threading.Event(), most=250)
    names = sorted(path.name for path in tmp_path.glob("*.csv"))
    assert names == [f"sensors_log_v3-{number:06d}.csv" for number in range(1, 7)]
    logs = [pd.read_csv(tmp_path / name) for name in names]
    waves = sorted((tmp_path / "vibration_waveform").rglob("*.npy"))
    assert sum(map(len, logs)) / 2 + len(waves) == 250
    assert np.load(waves[0]).shape == (2, 10_240)
    assert logs[0].columns[:4].tolist() == ["asset_id", "sequence", "run_id", "time"]


def test_rows_of_a_stream_are_those_of_the_dataset() -> None:
    rows = FLEET.rows(2)
    played = [row for row in islice(streaming.play(FLEET), 400) if row["asset_id"] == rows.asset_id]
    readings = [row for row in played if row["kind"] == "reading"]
    first = int((~rows.commissioning).argmax())
    for at, row in enumerate(readings[:20], start=first):
        flow = rows.sensors["flow_m3_h"][at]
        assert row["flow_m3_h"] == (None if np.isnan(flow) else pytest.approx(float(flow), abs=1e-3))
        assert row["health_pct"] == pytest.approx(float(rows.labels["health_pct"][at]))


def test_sigterm_ends_a_stream_cleanly_with_everything_delivered() -> None:
    with receiving() as receiver:
        words = ["twin", "stream", "--rate", "500", "--pumps", "5", "--days", "60", "--to", receiver.address]
        process = subprocess.Popen(  # noqa: S603 - fixed words
            [BIN / "pump-ml", *words], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while len(receiver.rows) < 700 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=40)
    assert process.returncode == 0, said
    assert f"{len(receiver.rows)} rows of 5 pumps delivered" in said
    assert_whole(receiver.rows)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_cannot_be_is_told(rate: float) -> None:
    with pytest.raises(ConfigurationError, match=r"rows/s; expected 0\.001 to"):
        streaming.run(iter(()), streaming.Lines(StringIO()), rate=rate, stop=threading.Event())


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(ConfigurationError, match="expected http"):
        streaming.Http("ftp://host/rows", "test")
