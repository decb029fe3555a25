"""Which processes belong to a stack, and how they end.

Every process of a stack inherits one environment variable that names the stack's folder. That finds them all, in
whatever session or process group they are and whoever adopted them; a recycled process id never carries it.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types

from pump_ml.errors import StackError

MARK = "AIRFLOW_LOCAL_STACK"
"""The environment variable; its value is the absolute ``var`` folder."""


def of_stack(home: Path) -> list[psutil.Process]:
    """All living processes of the stack in `home` with their descendants, without the calling one."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(home):
                # a child may have been given a clean environment
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        except (psutil.Error, OSError):  # another user's, a zombie, or gone in the meantime
            continue
    found.pop(os.getpid(), None)
    return list(found.values())


def belongs(pid: int, home: Path) -> bool:
    """Whether `pid` is a living process of the stack in `home`."""
    try:
        return bool(psutil.Process(pid).environ().get(MARK) == str(home))
    except (psutil.Error, OSError):
        return False


def gone(process: psutil.Process) -> bool:
    """Whether `process` has ended, be it reaped or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def end(home: Path, *, grace_s: float, known: Iterable[psutil.Process] = ()) -> None:
    """End every process of the stack in `home`: ask, wait `grace_s` seconds, then kill, until none is left.

    Args:
        home: the stack's ``var`` folder.
        grace_s: how long a process that was asked may take.
        known: processes that belonged to the stack earlier; one with a clean environment cannot be found again once
            its parent has ended.

    Raises:
        StackError: some cannot be ended.
    """
    left = {*known, *of_stack(home)}
    for process in left:
        _send(process, psutil.Process.terminate)
    psutil.wait_procs(left, timeout=grace_s)
    for _ in range(5):  # a process may fork while its parent is killed
        left = {process for process in left | set(of_stack(home)) if not gone(process)}
        if not left:
            return
        for process in left:
            _send(process, psutil.Process.kill)
        psutil.wait_procs(left, timeout=5)
    pids = ",".join(str(process.pid) for process in left)
    raise StackError(f"processes {pids} of the stack in {home} do not end; look at them with `ps -fp {pids}`")


def _send(process: psutil.Process, signal: Callable[[psutil.Process], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        signal(process)  # psutil checks that the id still means the same process
