"""Every error that pump_ml raises on purpose.

    PumpMLError
    ├── ConfigurationError      a setting, a YAML file or a name is wrong: fix it and start again
    │   └── UnknownNameError    a name that the catalog does not hold
    ├── DataError               the data cannot be used as they are
    │   ├── SourceError         a source cannot be read: missing, empty, a wrong delimiter, a missing column
    │   ├── ContractError       the readings break the contract of their suite: nothing was trained
    │   └── SnapshotError       a stored snapshot is missing, incomplete or altered
    ├── LeakError               an answer would reach a model: a label among the features, an asset in two splits
    ├── GateError               the data do not carry a target: the baseline does not beat the naive predictor
    └── StackError              the local Airflow stack did not start, or a DAG run failed

None of them heals by itself, so a DAG never retries them; anything else (a lost connection, a killed
process) is retried.
Each message says what was given, what was expected, and the cure.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


class PumpMLError(Exception):
    """Base of all errors that pump_ml raises on purpose."""


class ConfigurationError(PumpMLError):
    """A setting, a YAML file or a parameter is wrong."""


class UnknownNameError(ConfigurationError):
    """A name that was asked for is not among the known ones.

    Args:
        kind: what was asked for, such as ``"family"``.
        name: the name that was given.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        near = get_close_matches(name, self.known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(self.known) or 'none'}.{hint}")


class DataError(PumpMLError):
    """The data cannot be used as they are."""


class SourceError(DataError):
    """A source cannot be read."""


class ContractError(DataError):
    """The readings break the contract of their suite; training must not start.

    Args:
        message: each broken rule, with what was observed, what was expected and the cure.
        report: the validation's report, JSON.
        quarantined: the rows that broke a rule, with the ids of the rules.
    """

    def __init__(
        self, message: str, *, report: dict[str, Any] | None = None, quarantined: "DataFrame | None" = None
    ) -> None:
        self.report, self.quarantined = report, quarantined
        super().__init__(message)


class SnapshotError(DataError):
    """A stored snapshot is missing, incomplete or altered."""


class LeakError(PumpMLError):
    """An answer would reach a model that must not know it."""


class GateError(PumpMLError):
    """The data do not carry a target: the baseline does not beat the naive predictor."""


class StackError(PumpMLError):
    """The local stack did not start, or a DAG run on it failed."""
