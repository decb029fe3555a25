"""How fast networks learn and answer and what memory it takes, against their bounds; ends with 1 where one is broken.

    .venv/bin/python tools/measure_training.py           # a quarter of an hour
    .venv/bin/python tools/measure_training.py --quick   # two to four, by fewer runs and a small network for memory

Each ratio is of two things that one run measures in turns, so that other work on the machine touches both; it is the
median over the runs. All of it is of `cnn1d` as the preset standard trains it, on windows of 64 readings of 12 sensors:

- throughput: windows a second in an epoch, the first left out, over those of `fit` of Keras alone: the same network,
  optimiser, losses and batches, on an array of all windows;
- answers: the time that `predict` of Keras alone takes for arrays that are prepared already, over the time from raw
  readings to answers, intervals included: `Predictor.ask` on arrays, `Predictor.predict` on a frame;
- memory: what a process of its own holds at most while it trains on windows that begin at each reading, beyond what it
  held after a small training of the same kind, over the raw readings, which are among it.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import keras
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from pump_ml.models import class_codes
from pump_ml.models.cnn1d import Cnn1d
from pump_ml.models.network import NetworkPredictor
from pump_ml.problems import Problem, parse_problem
from pump_ml.windows import Windows

LENGTH, SENSORS = 64, tuple(f"s{number}" for number in range(12))
CLASSES = ("0", "1", "2", "3")
EPOCHS = 5
"""Of which the first, which compiles, is left out."""
MANY = 1_000_000
"""Windows whose memory is measured."""
SMALL = Cnn1d(epochs=1, filters=8, dense=8, blocks=1)
"""What `--quick` trains where memory is measured: an epoch of many windows takes it seconds."""
SHOWN, PROGRESS = Console(width=110), Console(stderr=True)


@dataclass(frozen=True)
class Figure:
    """One line of the table; without a bound it is only told."""

    quantity: str
    measured: float
    least: float | None = None
    below: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the bound holds."""
        return (self.least is None or self.measured >= self.least) and (
            self.below is None or self.measured < self.below
        )

    @property
    def bound(self) -> str:
        """The bound in words."""
        return f">= {self.least:g}x" if self.least is not None else f"< {self.below:g}x" if self.below else ""


class Epochs(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        del epoch, logs
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop it."""
        del epoch, logs
        self.seconds.append(time.perf_counter() - self.begun)


def problem(*, records: bool) -> Problem:
    """A class and a value to answer; with commissioning records, by conditions like those of `diagnosis`."""
    content: dict[str, Any] = {
        "name": "measured",
        "windows": {"length": LENGTH, "stride": 1},
        "predicts": [
            {"name": "mode", "kind": "classes", "classes": CLASSES, "metric": "accuracy"},
            {"name": "rul", "kind": "regression", "metric": "mae"},
        ],
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
    }
    if records:
        conditions = {"relative": SENSORS[:2], "absolute": SENSORS[2:4], "levels": SENSORS[:1]}
        content |= {"reference": "commissioning", "conditions": conditions}
    return parse_problem(content, where="measured")


def windows(count: int, assets: int, *, records: bool) -> Windows:
    """So many windows, one at each reading, of assets with one run each; the readings are noise."""
    rng, each = np.random.default_rng(0), count // assets
    rows = each + LENGTH - 1
    names = [f"p{number:04d}" for number in range(assets)]
    numbers = np.repeat(np.arange(assets), each)
    keys = pd.array(names, dtype="str").take(numbers)
    starts = np.arange(assets * each) + (LENGTH - 1) * numbers
    labels = {
        "mode": pd.array(CLASSES, dtype="str").take(numbers % 4),
        "rul": np.tile(np.arange(each, 0.0, -1), assets),
    }
    return Windows(
        readings=100.0 + rng.standard_normal((assets * rows, len(SENSORS))),
        starts=starts,
        length=LENGTH,
        blocks={name: slice(number * rows, (number + 1) * rows) for number, name in enumerate(names)},
        commissioning={name: 100.0 + rng.standard_normal((120, len(SENSORS))) for name in names} if records else None,
        rows=pd.DataFrame({"asset_id": keys, "run_id": keys, "time": starts}),
        labels=pd.DataFrame(labels),
        sensors=SENSORS,
    )


def fitted(
    family: Cnn1d, train: Windows, validation: Windows, asked: Problem, watch: Callable[[], None] = lambda: None
) -> NetworkPredictor:
    """What the family learns from these windows."""
    made = family.fit(train, validation, asked, seed=7, watch=lambda *_: watch())
    assert isinstance(made, NetworkPredictor)  # noqa: S101 - for the types
    return made


def of_keras(predictor: NetworkPredictor) -> Any:
    """The network as Keras alone has it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        path.write_bytes(predictor.keras)
        return keras.saving.load_model(path, compile=False)


def throughput(runs: int, batch: int, told: str, least: float | None) -> Iterator[Figure]:
    """Both ways in turns."""
    asked, family = problem(records=False), Cnn1d(epochs=EPOCHS)
    train, validation = windows(family.steps * batch, 8, records=False), windows(64, 1, records=False)

    def ours() -> tuple[NetworkPredictor, float]:
        ends: list[float] = []
        made = fitted(family, train, validation, asked, lambda: ends.append(time.perf_counter()))
        return made, median(np.diff(ends[:EPOCHS]))

    def plain(network: Any, **options: Any) -> float:
        clock = Epochs()
        network.compile(
            keras.optimizers.AdamW(family.rate, weight_decay=family.decay),
            loss={"mode": "sparse_categorical_crossentropy", "rul": "mean_absolute_error"},
            loss_weights={"mode": 0.2, "rul": 3.0},
            **options,
        )
        network.fit({"readings": x}, y, batch_size=batch, epochs=EPOCHS, verbose=0, callbacks=[clock])
        return median(clock.seconds[1:])

    made, _ = ours()
    x = made.channels.transform(train)[train.starts[:, None] + made.channels.offsets(LENGTH)]
    mean, scale = made.scales["rul"]
    y = {
        "mode": class_codes(train.labels["mode"], CLASSES),
        "rul": ((train.labels["rul"].to_numpy() - mean) / scale).astype(np.float32)[:, None],
    }
    network = of_keras(made)
    seconds = [(ours()[1], plain(network), plain(network, jit_compile=False)) for _ in range(runs)]
    rates = [round(len(train) / median(each)) for each in zip(*seconds, strict=True)]
    PROGRESS.print(f"batch {batch}, windows/s: ours, Keras, Keras without XLA: {rates}")
    name = f"throughput / Keras' fit, batch {batch}{told}"
    yield Figure(name, median(plain / ours for ours, plain, _ in seconds), least)
    yield Figure(f"{name}, XLA off", median(plain / ours for ours, _, plain in seconds), least)


def answers(runs: int, *, records: bool) -> Iterator[Figure]:
    """From raw readings, against Keras' `predict` of what is prepared."""
    asked, assets = problem(records=records), 256
    made = windows(16 * assets, assets, records=records)
    predictor = fitted(Cnn1d(epochs=1), made, made, asked)
    predictor.calibrate(made)
    network = of_keras(predictor)
    for count, least in ((1, 20.0), (256, 2.0)):
        some = made.of_assets(list(made.blocks)[:count])
        last = some.where(~some.rows["asset_id"].duplicated(keep="last").to_numpy())
        kept = None if last.commissioning is None else np.stack(list(last.commissioning.values()))
        prepared = predictor.channels.transform(last)[last.starts[:, None] + predictor.channels.offsets(LENGTH)]
        frame = _frame(last.x, kept)
        ways: dict[str, Callable[[], Any]] = {
            "Keras": lambda x=prepared, n=count: network.predict({"readings": x}, batch_size=n, verbose=0),
            "raw arrays": lambda x=last.x, kept=kept: predictor.ask(x, kept),
            "raw frame": lambda frame=frame: predictor.predict(frame),
            "windows that are cut": lambda last=last: predictor.answer(last),
        }
        for call in ways.values():
            call()
        seconds = [{way: timed(call) for way, call in ways.items()} for _ in range(runs)]
        PROGRESS.print(
            f"{count} windows, records {records}, ms: "
            f"{ {way: round(1e3 * median(each[way] for each in seconds), 3) for way in ways} }"
        )
        for way in list(ways)[1:]:
            name = f"Keras' predict / answers, batch {count}, {way}{', records' if records else ''}"
            bound = least if way == "raw arrays" or (way == "raw frame" and not records) else None
            yield Figure(name, median(each["Keras"] / each[way] for each in seconds), bound)


def _frame(x: Any, records: Any) -> pd.DataFrame:
    """Readings as a frame, run by run, commissioning records before them."""
    parts = [x] if records is None else [records, x]
    frames = []
    for values in parts:
        commissioning = values is records
        runs, count, _ = values.shape
        names = pd.array([f"p{number:04d}" for number in range(runs)], dtype="str").take(np.repeat(range(runs), count))
        keys = {"asset_id": names, "run_id": names, "time": np.tile(np.arange(count), runs) - 1000 * commissioning}
        columns = dict(zip(SENSORS, values.reshape(-1, len(SENSORS)).T, strict=True))
        frames.append(pd.DataFrame({**keys, **columns, "commissioning": commissioning}))
    return pd.concat(frames, ignore_index=True)


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def mib(what: str) -> float:
    """What the kernel says of this process' memory."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[what].split()[0]) / 1024.0


def child(count: int, family: Cnn1d, *, records: bool) -> None:
    """Train on so many windows; prints MiB of the raw readings, before there are any, and at most while it trains."""
    asked = problem(records=records)
    small = windows(2048, 4, records=records)
    fitted(family, small, small, asked)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    base = mib("VmRSS")
    train = windows(count, 100, records=records)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    fitted(family, train, small, asked)
    json.dump({"raw": train.readings.nbytes / 2**20, "base": base, "peak": mib("VmHWM")}, sys.stdout)


def memory(runs: int, count: int, *, records: bool, quick: bool) -> Iterator[Figure]:
    """In processes of their own."""
    found = []
    for _ in range(runs):
        words = [sys.executable, __file__, "--child", str(count), *(["--records"] * records), *(["--quick"] * quick)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - this file
        if done.returncode:
            sys.exit(f"{count} windows were not learnt:\n{done.stderr}")
        told = json.loads(done.stdout)
        PROGRESS.print(f"{count:,} windows, records {records}, MiB: {told}")
        found.append((told["peak"] - told["base"]) / told["raw"])
    name = f"memory / raw readings, {count:,} windows{', small network' if quick else ''}"
    yield Figure(f"{name}{', records' if records else ''}", median(found), below=3.0)


def main() -> None:
    """Measure, print the table, and end with 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, and a small network for memory")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--records", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, SMALL if asked.quick else Cnn1d(epochs=1), records=asked.records)
        return
    learnt, calls, trained = (3, 30, 1) if asked.quick else (7, 200, 3)
    parts = [
        # The family's 128 batches an epoch are of about so many windows in the twin's standard fleets.
        throughput(learnt, 32, " (standard, v2)", 1.2),
        throughput(learnt, 128, " (standard, v3)", 1.2),
        throughput(learnt, 256, "", None),
        *(answers(calls, records=records) for records in (False, True)),
        *(memory(trained, MANY, records=records, quick=asked.quick) for records in (False, True)),
    ]
    table = Table("quantity", "measured", "bound", "ok", box=None)
    broken = False
    for figure in (figure for part in parts for figure in part):
        ok = ("yes" if figure.ok else "NO") if figure.bound else ""
        table.add_row(figure.quantity, f"{figure.measured:.2f}x", figure.bound, ok)
        broken = broken or not figure.ok
    SHOWN.print(table)
    SHOWN.print(f"Medians of {learnt} trainings, {calls} calls and {trained} processes.")
    sys.exit(broken)


if __name__ == "__main__":
    main()
