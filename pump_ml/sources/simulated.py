"""Readings from the digital twin: dataset v2, samples at separated severity levels, or v3, whole lives."""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import pandas as pd
from upath import UPath

from pump_ml import generation
from pump_ml.schema import TIME, Telemetry
from pump_ml.settings import Settings
from pump_ml.twin.datasets import LABELS
from pump_ml.twin.instruments import SENSORS

PRESET = "standard"
"""Of conf/fleets.yaml: what is not given is as there."""
SUITES = {"v2": "readings", "v3": "lives"}


class SimulatedSource:
    """A fleet of simulated pumps, made once: its files lie in ``fleets/`` of the data root, one or more shards.

    Args:
        dataset: v2 or v3.
        pumps: how many; a multiple of 7 balances the fault modes. None: 560 in v2, 140 in v3.
        samples: one-hour samples a pump, v2 only; a multiple of 4 balances the severity levels. None: 12.
        days: how long each pump is watched, v3 only. None: 365.
        step_minutes: from one reading to the next, v3 only. None: 60.
        seed: the same seed gives the same rows on any machine.
        shards: parts that can be made apart, by several workers; the rows do not depend on it.
        waveforms_h: v3: hours between two waveforms; v2: above 0, one a sample. 0 for none.
        sheets: pump types, each a shipped name or the path of a YAML; empty draws a type for each pump.
        progress: called with the share of pumps done, 0 to 1.

    Raises:
        ConfigurationError: an option is unknown or out of its bounds; the message names option, value and bound.
    """

    def __init__(
        self,
        *,
        dataset: str = "v2",
        pumps: int | None = None,
        samples: int | None = None,
        days: float | None = None,
        step_minutes: float | None = None,
        seed: int = 7,
        shards: int = 1,
        waveforms_h: float = 0.0,
        sheets: Sequence[str] = (),
        progress: Callable[[float], None] | None = None,
    ) -> None:
        sizes = {"pumps": pumps, "samples": samples, "days": days, "step_minutes": step_minutes}
        self.fleet = generation.plan(dataset, PRESET, sheets=sheets, seed=seed, waveforms_h=waveforms_h, **sizes)
        generation.pumps_of(self.fleet, 0, shards)
        self.shards = shards
        self.progress = progress or (lambda _: None)

    def origin(self) -> dict[str, Any]:
        """Source name and what the rows follow from, which the shards are not part of."""
        return generation.origin(self.fleet)

    @cached_property
    def folder(self) -> UPath:
        """Where the fleet's files lie."""
        named = json.dumps({**self.origin(), "shards": self.shards}, sort_keys=True)
        key = f"{self.fleet.dataset}-{hashlib.sha256(named.encode()).hexdigest()[:12]}"
        return Settings.load().data / "fleets" / key

    def make(self, shard: int) -> int:
        """Make one shard, unless it is there; returns its rows."""
        numbers = generation.pumps_of(self.fleet, shard, self.shards)
        generation.claim(self.folder, self.fleet, self.shards)

        def report(share: float) -> None:
            self.progress((numbers.start + share * len(numbers)) / self.fleet.pumps)

        made = generation.write_shard(self.folder, self.fleet, shard, self.shards, report)
        report(1.0)
        return int(made["rows"])

    def fetch(self, start: datetime | None = None, end: datetime | None = None) -> Telemetry:
        """Make what is not there yet, and read it; pumps in the order of their numbers.

        All numbers come as float64, the kind that everybody after this expects, though the files of v3 hold float32.

        Raises:
            SnapshotError: a file of the fleet is gone, or was altered.
        """
        for shard in range(self.shards):
            self.make(shard)
        generation.finish(self.folder, self.fleet, self.shards)
        parts = [generation.read_shard(self.folder, shard, self.shards) for shard in range(self.shards)]
        readings = pd.concat(parts, ignore_index=True)
        readings = readings.astype(dict.fromkeys(readings.select_dtypes("float32"), "float64"))
        if start is not None:
            readings = readings[readings[TIME] >= pd.Timestamp(start)]
        if end is not None:
            readings = readings[readings[TIME] < pd.Timestamp(end)]
        dataset = self.fleet.dataset
        return Telemetry(
            readings,
            tuple(sensor for sensor, _ in SENSORS),
            LABELS[dataset],
            suite=SUITES[dataset],
            origin=self.origin(),
            waveforms=generation.read_waveforms(self.folder, self.fleet) if self.fleet.waveforms_h else None,
        )
