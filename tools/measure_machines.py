"""What a fleet costs through Airflow, in batches, over the same in one process; and whether memory stays flat.

    .venv/bin/python tools/measure_machines.py --machines 1000            # hours
    .venv/bin/python tools/measure_machines.py --machines 40 --epochs 3   # minutes, by forecasts that learn less
    .venv/bin/python tools/measure_machines.py --machines 1000 --epochs 1 --windows 1500   # an hour

The less a forecast learns, the more of the time is Airflow's: short ones make the ratio harder to keep, not easier.

Simulates machines of one day each into a database, trains all of them by `pump-ml train-machines` and by the DAG
machines in the embedded Airflow, each with stores of its own, and compares the wall times; the second is that of the
DAG run, without the start of Airflow. On a machine that does other work too, look at the CPU time of the processes that
train instead. Memory is the resident set of the largest process, its peaks in the first and in
the last quarter of the time. Ends with 1 where a bound is broken.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from pump_ml.machines.policy import Forecast, load_policy

RATIO, GROWTH = 1.3, 1.25
"""Most that Airflow's wall time may be over the shell's, and the last quarter's memory over the first's."""
COMMAND = [sys.executable, "-c", "from pump_ml.cli import main; main()"]
STAMP = re.compile(r"\[ *([\d.]+) s\] machines  (started|success|failed)")
TASK = "airflow worker"
"""How Airflow calls the processes of its tasks."""
POLL_S = 0.5
SHOWN, PROGRESS = Console(width=110), Console(stderr=True)


@dataclass
class Watched:
    """A command that was run to its end.

    Args:
        seconds: wall time.
        printed: what it printed.
        cpu_s: CPU seconds of each process that trains, by its id.
        megabytes: resident set of its largest process over time.
    """

    seconds: float = 0.0
    printed: str = ""
    cpu_s: dict[int, float] = field(default_factory=dict)
    megabytes: list[float] = field(default_factory=list)

    @property
    def trained_s(self) -> float:
        """CPU seconds of all that trained."""
        return sum(self.cpu_s.values())

    def peak(self, part: slice) -> float:
        """The most in a part of the samples, MB."""
        return max(self.megabytes[part], default=float("nan"))

    @property
    def first(self) -> float:
        """The peak in the first quarter of the time, MB."""
        return self.peak(slice(0, max(len(self.megabytes) // 4, 1)))

    @property
    def last(self) -> float:
        """The peak in the last quarter of the time, MB."""
        return self.peak(slice(-max(len(self.megabytes) // 4, 1), None))


def run(arguments: Sequence[str], home: Path, telemetry: str, *, train: bool) -> Watched:
    """Run pump-ml with stores of its own.

    Args:
        arguments: of the command.
        home: its ``var`` folder.
        telemetry: address of the telemetry.
        train: whether its processes are watched.
    """
    found = Watched()
    environment = {**os.environ, "PUMP_ML_VAR": str(home), "PUMP_ML_TELEMETRY_URL": telemetry, "COLUMNS": "160"}
    begun = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - our own command
        [*COMMAND, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        done = threading.Event()
        sampler = threading.Thread(target=_sample, args=(process.pid, found, done), daemon=True)
        if train:
            sampler.start()
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            PROGRESS.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)
        code = process.wait()
        done.set()
    found.seconds, found.printed = time.perf_counter() - begun, "".join(lines)
    if code:
        raise SystemExit(f"pump-ml {' '.join(arguments)} ended with {code}")
    return found


def _sample(pid: int, found: Watched, done: threading.Event) -> None:
    """Note the resident set of the largest of a process and its descendants, and the CPU time of those that train."""
    parent = psutil.Process(pid)
    while not done.wait(POLL_S):
        sizes = [0.0]
        try:
            family = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            try:
                sizes.append(process.memory_info().rss / 1e6)
                if "".join(process.cmdline()[:1]).startswith(TASK) or process.pid == pid:
                    found.cpu_s[process.pid] = sum(process.cpu_times()[:2])
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        found.megabytes.append(max(sizes))


def measure(folder: Path, machines: int, days: float, learnt: dict[str, int]) -> bool:
    """Print the figures; whether they keep to the bounds."""
    telemetry = f"sqlite:///{folder / 'telemetry.db'}"
    policy = load_policy()
    forecast = Forecast.model_validate({**policy.forecast.model_dump(), **learnt})
    fleet = ["--machines", str(machines), "--days", str(days), "--skip-present"]
    run(["machines", "simulate", *fleet], folder / "simulated", telemetry, train=False)
    file = folder / "policy.yaml"
    file.write_text(policy.model_copy(update={"forecast": forecast}).model_dump_json())  # JSON is YAML
    moment = f"{time.time():.0f}"
    asked = ["--policy", str(file), "--least-share", "0"]
    shell = run(["train-machines", *asked], folder / f"shell-{moment}", telemetry, train=True)
    airflow = run(["local", "machines", *asked], folder / f"airflow-{moment}", telemetry, train=True)
    stamps = {word: float(seconds) for seconds, word in STAMP.findall(airflow.printed)}
    ran = stamps.get("success", float("nan")) - stamps["started"]
    ratio = ran / shell.seconds
    size = f"{forecast.epochs} epochs of at most {forecast.windows} windows"
    table = Table(title=f"{machines} machines of {days:g} days, {size}", title_justify="left")
    for column in ("", "wall time", "CPU", "memory, first quarter", "last quarter"):
        table.add_column(column)
    for name, seconds, watched in (("one process", shell.seconds, shell), ("Airflow, in batches", ran, airflow)):
        times = (f"{seconds:.0f} s", f"{watched.trained_s:.0f} s")
        table.add_row(name, *times, f"{watched.first:.0f} MB", f"{watched.last:.0f} MB")
    SHOWN.print(table)
    SHOWN.print(
        f"ratio {ratio:.2f}, expected {RATIO:g} or less; of CPU {airflow.trained_s / shell.trained_s:.2f}; Airflow "
        f"with its start and stop {airflow.seconds:.0f} s; memory in one process {shell.last / shell.first:.2f} times, "
        f"expected {GROWTH:g} or less"
    )
    return ratio <= RATIO and shell.last <= GROWTH * shell.first


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=100, help="how many")
    parser.add_argument("--days", type=float, default=1.0, help="how long each is watched")
    parser.add_argument("--epochs", type=int, help="of a forecast; unset, the shipped policy's")
    parser.add_argument("--windows", type=int, help="most that a forecast learns from; unset, the shipped policy's")
    parser.add_argument("--folder", type=Path, help="kept, and its telemetry taken again; unset, one that goes")
    asked = parser.parse_args()
    learnt = {name: value for name in ("epochs", "windows") if (value := getattr(asked, name)) is not None}
    if asked.folder is not None:
        asked.folder.mkdir(parents=True, exist_ok=True)
        return 0 if measure(asked.folder.resolve(), asked.machines, asked.days, learnt) else 1
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measure(Path(folder), asked.machines, asked.days, learnt) else 1


if __name__ == "__main__":
    raise SystemExit(main())
