"""How fast the twin is and what memory it takes, against its bounds; ends with 1 where one is broken.

    .venv/bin/python tools/measure_twin.py           # three to seven minutes
    .venv/bin/python tools/measure_twin.py --quick   # about two minutes, by smaller fleets and fewer runs

A ratio is the processor time of one core over that of NumPy drawing as many float64 normals as numbers are made, both
in turns in the same run, so that other work on the machine touches both. Each is the median of its runs. Growth
and memory are those of `pump-ml twin generate`, hashes and Parquet included, in a fresh process for each run.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table
from upath import UPath

from pump_ml import generation
from pump_ml.cli import app
from pump_ml.twin import waveform
from pump_ml.twin.datasets import LABELS, SAMPLE, Fleet, draw_samples
from pump_ml.twin.instruments import NAMES
from pump_ml.twin.operation import operate
from pump_ml.twin.waveform import Excitation, Sampling

COLUMNS = len(NAMES) + len(LABELS["v3"]) - 2
"""Numeric columns of a row of v3: all sensors, and the labels but mode and censored."""
PUMP_ROWS = 8_000
"""Rows that a pump of v3 has at least on average: 8760 hours, but some pumps are withdrawn."""
RNG = np.random.default_rng(0)
SHOWN, PROGRESS = Console(width=110), Console(stderr=True)


@dataclass(frozen=True)
class Figure:
    """One line of the table; without a bound it is only told."""

    quantity: str
    measured: float
    bound: float | None = None
    unit: str = "x"

    @property
    def ok(self) -> bool:
        """Whether the bound holds."""
        return self.bound is None or self.measured <= self.bound


class Clock(defaultdict[str, float]):
    """Processor time in seconds that was spent on each thing."""

    def __init__(self) -> None:
        super().__init__(float)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Time what is done within."""
        begun = time.process_time()
        yield
        self[what] += time.process_time() - begun

    def normals(self, count: int) -> None:
        """Let NumPy draw so many."""
        with self.on("normals"):
            RNG.standard_normal(count)

    def written(self, fleet: Fleet) -> None:
        """Make a fleet with its hashes, in Parquet."""
        with tempfile.TemporaryDirectory() as folder, self.on("written"):
            generation.write_shard(UPath(folder), fleet, 0, 1)

    def ratio(self, *whats: str) -> float:
        """Time of these over that of the normals."""
        return sum(self[what] for what in whats) / self["normals"]


def rows(runs: int, pumps: int) -> Iterator[Figure]:
    """Readings of v3, a year of hours, over normals."""
    fleet = Fleet("v3", pumps)
    clocks = [Clock() for _ in range(runs)]
    for clock in clocks:
        for number in range(pumps):
            with clock.on("rows"):
                made = fleet.rows(number)
            clock.normals(len(made) * COLUMNS)
        clock.written(fleet)
    yield Figure("v3 rows / normals", median(clock.ratio("rows") for clock in clocks), 6.0)
    yield Figure("v3 rows, hashed, in Parquet / normals", median(clock.ratio("written") for clock in clocks))


def excitations(fleet: Fleet) -> Iterator[tuple[set[str], Excitation, Excitation]]:
    """The groups that each record of a fleet of v2 belongs to, and what shakes both ends."""
    for number in range(fleet.pumps):
        streams = fleet.streams(number)
        made = draw_samples(fleet, number, streams)
        state = operate(made.pump, made.fault, made.at_work[:, None], made.demand)
        levels = state.levels.scattered(streams.flicker).flat()
        for sample, severity in enumerate(made.severity):
            near, far = (levels.excitation(SAMPLE * (sample + 1) - 1, end) for end in ("drive", "far"))
            groups = {"all", made.fault.name if severity else "healthy"}
            groups |= {"any with bubbles"} if near.cavitation_g > 0 else set()
            yield groups | ({"any with blows"} if near.impacts else set()), near, far


def waveforms(runs: int, pumps: int) -> Iterator[Figure]:
    """Waveforms of v2, one a sample at both ends, over normals: all of them, and the worst group."""
    fleet = Fleet("v2", pumps, waveforms_h=1)
    wanted = list(excitations(fleet))
    clocks: list[dict[str, Clock]] = [defaultdict(Clock) for _ in range(runs)]
    for of_group in clocks:
        for groups, near, far in wanted:
            clock = Clock()
            for _ in range(2):
                clock.normals(Sampling().count)
            with clock.on("made"):
                one, other = waveform.synthesise(near, RNG), waveform.synthesise(far, RNG)
            with clock.on("figures"):
                waveform.measure(one, near.shaft_hz, near.vanes)
                waveform.velocity_rms_mm_s(other)
            for group in groups:
                for what, spent in clock.items():
                    of_group[group][what] += spent
        of_group["all"].written(fleet)
    for name, whats, bound in (
        ("waveforms", ["made"], 4.0),
        ("waveforms and their figures", ["made", "figures"], None),
    ):
        ratios = {group: median(each[group].ratio(*whats) for each in clocks) for group in clocks[0]}
        worst = max(ratios, key=lambda group: ratios[group])
        yield Figure(f"{name} / normals, real mix", ratios["all"], bound)
        yield Figure(f"{name} / normals, worst group: {worst}", ratios[worst], bound)
        PROGRESS.print(f"{name}: " + ", ".join(f"{group} {ratio:.2f}" for group, ratio in sorted(ratios.items())))
    yield Figure(
        "v2 with waveforms, hashed, in Parquet / normals", median(each["all"].ratio("written") for each in clocks)
    )


def peak_mib() -> float:
    """Most memory that this process ever held, by the kernel."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024.0


def child(pumps: int) -> None:
    """Make a fleet of v3 with the command line; prints its rows, its processor time in s, and memory in MiB."""
    base = peak_mib()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(io.StringIO()):
            _generate(1, Path(folder) / "first")  # what is loaded at first use is not for the pumps to pay
            with clock.on("all"):
                _generate(pumps, Path(folder) / "all")
        count = json.loads((Path(folder) / "all" / "manifest.json").read_text())["rows"]
    json.dump({"rows": count, "cpu_s": clock["all"], "base": base, "peak": peak_mib()}, sys.stdout)


def _generate(pumps: int, folder: Path) -> None:
    words = ["twin", "generate", "--dataset", "v3", "--preset", "standard", "--pumps", str(pumps), "--out", str(folder)]
    app(words, standalone_mode=False)


def generated(pumps: int) -> dict[str, float]:
    """What `child` tells of a fleet."""
    done = subprocess.run(  # noqa: S603 - this file
        [sys.executable, __file__, "--child", str(pumps)], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{pumps} pumps were not made:\n{done.stderr}")
    told: dict[str, float] = json.loads(done.stdout)
    PROGRESS.print(f"{pumps} pumps: {told}")
    return told


def growth(runs: int, pumps: int) -> Iterator[Figure]:
    """Time and memory of ten times as many pumps. Few pumps differ in their rows: 200 have 10.9 times those of 20."""
    pairs = [(generated(pumps), generated(10 * pumps)) for _ in range(runs)]
    name = f"v3, {10 * pumps} pumps / {pumps} pumps"
    yield Figure(f"{name}: processor time", median(large["cpu_s"] / small["cpu_s"] for small, large in pairs), 10.5)
    yield Figure(f"{name}: peak memory", median(large["peak"] / small["peak"] for small, large in pairs), 1.1)


def memory(millions: int) -> Iterator[Figure]:
    """Peak of a large fleet, and what of it the libraries take before the first pump."""
    told = generated(millions * 1_000_000 // PUMP_ROWS)
    if told["rows"] < millions * 1e6:
        sys.exit(f"{told['rows']} rows were made; expected {millions} million: lower PUMP_ROWS")
    yield Figure(f"v3, {told['rows'] / 1e6:.1f} million rows: peak memory", told["peak"], 1024.0, " MiB")
    yield Figure("of it before the first pump", told["base"], None, " MiB")


def main() -> None:
    """Measure, print the table, and end with 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller fleets and fewer runs, for CI")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child)
        return
    parts = [rows(11, 20)]
    parts += (
        [waveforms(5, 14), growth(5, 60), memory(1)] if asked.quick else [waveforms(11, 56), growth(5, 100), memory(10)]
    )
    table = Table("quantity", "measured", "bound", "ok", box=None)
    broken = False
    for figure in (figure for part in parts for figure in part):
        bound = "" if figure.bound is None else f"{figure.bound:g}{figure.unit}"
        ok = "" if figure.bound is None else "yes" if figure.ok else "NO"
        table.add_row(figure.quantity, f"{figure.measured:.2f}{figure.unit}", bound, ok)
        broken = broken or not figure.ok
    SHOWN.print(table)
    sys.exit(broken)


if __name__ == "__main__":
    main()
