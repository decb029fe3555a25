"""The detached process that holds a stack together: ``python -m pump_ml.local.supervisor SPEC``.

It starts the components, and ends all of them when one dies, when it is asked to, or when its owner is gone. It
restarts nothing: a component that died has a reason, which stands in the record and in the component's log.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types

from pump_ml.local import processes
from pump_ml.local.record import Record, Spec, forget, tail

POLL_S = 0.5
GRACE_S = 4.0
"""Until components are asked a second time, which the scheduler and the triggerer take as: do not wait."""


def main(spec: Spec) -> int:
    """Run the components of `spec` until the end; the exit code is 1 when a component died."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    owner = psutil.Process(spec.owner) if spec.owner else None
    running = {name: _start(command, spec.log(name)) for name, command in spec.components.items()}
    record = Record.of(spec, supervisor=os.getpid(), pids={name: process.pid for name, process in running.items()})
    record.write()

    failure = None
    while not asked.wait(POLL_S) and not failure and not (owner and processes.gone(owner)):
        failure = next((_obituary(spec, name, p) for name, p in running.items() if p.poll() is not None), None)

    everybody = processes.of_stack(spec.home)
    for process in running.values():
        process.terminate()
    _wait(running.values(), GRACE_S)
    processes.end(spec.home, grace_s=1.0, known=everybody)
    if failure:
        record.failed(failure).write()
        return 1
    forget(spec.home)
    return 0


def _start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    if log.exists():
        log.replace(log.with_suffix(".log.1"))  # the last start's log stays readable
    with log.open("wb") as file:
        # a session each: Airflow's components signal their process group when they end
        return subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def _obituary(spec: Spec, name: str, process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    log = spec.log(name)
    return f"{name} {how}, so the whole stack was stopped. Its log is {log}, which ends:\n{tail(log)}"


def _wait(running: Iterable["subprocess.Popen[bytes]"], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))


if __name__ == "__main__":
    sys.exit(main(Spec.from_json(sys.argv[1])))
