"""Readings from the digital twin, dataset v2: independent samples at separated severity levels."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from pump_ml.errors import ConfigurationError
from pump_ml.schema import TIME, Telemetry
from pump_ml.twin.first import fleet

LABELS = ("severity", "mode", "rul_pct", "health_pct")


class SimulatedSource:
    """A fleet of simulated pumps.

    Args:
        pumps: how many; the fault modes take turns, so a multiple of 7 balances them.
        samples: one-hour samples a pump; a multiple of 4 balances the severity levels.
        seed: the same seed gives the same rows on any machine.
        progress: called with the share of pumps done, 0 to 1.

    Raises:
        ConfigurationError: a size is not positive or the seed is negative.
    """

    def __init__(
        self, *, pumps: int = 560, samples: int = 12, seed: int = 7, progress: Callable[[float], None] | None = None
    ) -> None:
        if pumps < 1 or samples < 1 or seed < 0:
            raise ConfigurationError(
                f"simulated source: pumps={pumps}, samples={samples}, seed={seed}; pumps and samples must be at least "
                "1, the seed at least 0"
            )
        self.pumps, self.samples, self.seed = pumps, samples, seed
        self.progress = progress or (lambda _: None)

    def origin(self) -> dict[str, Any]:
        """Source name and parameters."""
        return {
            "source": "simulated",
            "dataset": "v2",
            "pumps": self.pumps,
            "samples": self.samples,
            "seed": self.seed,
        }

    def fetch(self, start: datetime | None = None, end: datetime | None = None) -> Telemetry:
        """Simulate the fleet; each pump has a random stream of its own, so the work could be split by pump."""
        frames = []
        for number, stream in enumerate(np.random.SeedSequence(self.seed).spawn(self.pumps)):
            # The seed stands in the name: pump 12 of another seed is another pump.
            frames.append(fleet.samples_v2(f"v2-s{self.seed}-p{number:04d}", number, self.samples, stream))
            self.progress((number + 1) / self.pumps)
        readings = pd.concat(frames, ignore_index=True)
        if start is not None:
            readings = readings[readings[TIME] >= pd.Timestamp(start)]
        if end is not None:
            readings = readings[readings[TIME] < pd.Timestamp(end)]
        sensors = tuple(sensor for sensor, _ in fleet.SENSORS)
        return Telemetry(readings, sensors, LABELS, suite="readings", origin=self.origin())
