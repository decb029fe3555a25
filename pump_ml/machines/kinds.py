"""What each kind of model gives when it was learnt, whatever is inside."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pump_ml.machines.policy import Policy
from pump_ml.machines.preparation import Prepared

Watch = Callable[[int, Mapping[str, float]], None]
"""Called with a step and the metrics there, while a model learns."""


class Learnt(Protocol):
    """A model of one machine."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """On its test part; NaN where there is nothing to measure."""
        ...

    @property
    def test_from(self) -> float:
        """When its test part begins, in seconds since 1970."""
        ...

    def files(self, told: Mapping[str, Any]) -> dict[str, bytes]:
        """Its files by role, see `pump_ml.artifacts.names`.

        Args:
            told: what else belongs into the file that says how to ask it: machine, ranges, limits.
        """
        ...

    def gate(self) -> tuple[bool, str]:
        """Whether it may become the machine's champion, and why or why not."""
        ...


class Kind(Protocol):
    """Learns one kind of model; `pump_ml.catalog.MACHINE_MODELS` has them."""

    def __call__(
        self, prepared: Prepared, policy: Policy, limits: Mapping[str, float], *, seed: int, watch: Watch | None = None
    ) -> Learnt:
        """Learn from a machine's readings and judge it on the latest of them.

        Args:
            prepared: the readings.
            policy: how it is done.
            limits: by sensor, the value at which the controller stops the machine.
            seed: of all that is random.
            watch: called with each step.
        """
        ...
