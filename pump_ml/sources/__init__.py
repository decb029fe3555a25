"""Where readings come from. Each source answers to one protocol and gives the same rows for the same arguments."""

from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from pump_ml.schema import Telemetry


@runtime_checkable
class Source(Protocol):
    """A repeatable origin of readings."""

    def origin(self) -> dict[str, Any]:
        """Name, parameters and content hashes, JSON: equal origins give equal rows."""
        ...

    def fetch(self, start: datetime | None = None, end: datetime | None = None) -> Telemetry:
        """All readings with ``start <= time < end``; None leaves a side open.

        Raises:
            SourceError: the source cannot be read.
        """
        ...


@runtime_checkable
class Sharded(Source, Protocol):
    """A source whose readings are made in parts, which several workers may make before somebody fetches them all."""

    shards: int

    def make(self, shard: int) -> int:
        """Make one part, from 0, unless it is there; returns its rows."""
        ...
