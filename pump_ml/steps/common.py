"""What all steps share: their failures have names, their progress is logged."""

import functools
import hashlib
import logging
import re
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pump_ml.errors import name_failure

Json = dict[str, Any]
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0 to 1."""

log = logging.getLogger("pump_ml.steps")
P = ParamSpec("P")
R = TypeVar("R")


def step(function: Callable[P, R]) -> Callable[P, R]:
    """A step gives a failure for want of room or memory its name, see `pump_ml.errors.name_failure`."""

    @functools.wraps(function)
    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if failure := name_failure(error, f"step {function.__name__}"):
                raise failure from error
            raise

    return named


def log_progress() -> Progress:
    """Progress as log lines with the time left, at most one every five seconds for each kind of work."""
    begun: dict[str, tuple[float, float]] = {}
    last: dict[str, float] = {}

    def report(what: str, share: float) -> None:
        now = time.monotonic()
        at, before = begun.setdefault(what, (now, share))
        if share >= 1.0:
            log.info("%s: done in %.0f s", what, now - at)
        elif now - last.get(what, 0.0) > 5.0:
            last[what] = now
            left = f", about {(now - at) * (1.0 - share) / (share - before):.0f} s left" if share > before else ""
            log.info("%s: %.0f %%%s", what, 100.0 * share, left)

    return report


def readable(run_key: str) -> str:
    """A name for files that tells the training run, and is that of no other."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", run_key)
    return f"{name}-{hashlib.sha256(run_key.encode()).hexdigest()[:8]}"
