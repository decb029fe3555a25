"""What all steps share: their failures have names, their progress is logged."""

import functools
import logging
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
    """Progress as log lines, at most one every five seconds for each kind of work."""
    last: dict[str, float] = {}

    def report(what: str, share: float) -> None:
        if share >= 1.0 or time.monotonic() - last.get(what, 0.0) > 5.0:
            last[what] = time.monotonic()
            log.info("%s: %.0f %%", what, 100.0 * share)

    return report
