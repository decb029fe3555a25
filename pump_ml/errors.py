"""Every error that pump_ml raises on purpose.

    PumpMLError
    ├── ConfigurationError      a setting, a YAML file or a name is wrong: fix it and start again
    │   ├── UnknownNameError    a name that the catalog does not hold
    │   └── OutdatedModelError  a model of a version of pump_ml that this one cannot read: train it again
    ├── DataError               the data cannot be used as they are
    │   ├── SourceError         a source cannot be read: missing, empty, a wrong delimiter, a missing column
    │   │   └── EmptyPeriodError    what was asked for has no reading in the period
    │   ├── TooFewReadingsError there is something to learn from, and not enough of it
    │   ├── ContractError       the readings break the contract of their suite: nothing was trained
    │   ├── SnapshotError       a stored snapshot is missing, incomplete or altered
    │   └── ModelFileError      a model's file is missing, altered, or not one that may be read
    ├── LeakError               an answer would reach a model: a label among the features, an asset in two splits
    ├── GateError               the data do not carry a target: the baseline does not clearly beat the naive one
    ├── FleetError              machines of a fleet were not trained; the others were
    ├── StorageFullError        a disk, a database or a bucket takes nothing more
    ├── MemoryLimitError        the step needs more memory than it may have
    └── StackError              the local Airflow stack did not start, or a DAG run failed

    ConnectionError
    └── ArtifactStoreError      MLflow's server cannot keep or give artifacts: its bucket is full, or away

None of the former heals by itself, so a DAG never retries them; anything else (a lost connection, a killed
process) is retried.
Each message says what was given, what was expected, and the cure.
"""

import errno
import re
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


class OutdatedModelError(ConfigurationError):
    """A model was saved by a version of pump_ml whose format this one does not know."""


class DataError(PumpMLError):
    """The data cannot be used as they are."""


class SourceError(DataError):
    """A source cannot be read."""


class EmptyPeriodError(SourceError):
    """What was asked for has no reading in the period."""


class TooFewReadingsError(DataError):
    """There is something to learn from, and not enough of it."""


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


class StreamError(PumpMLError):
    """Rows of a stream could not be delivered."""


class SnapshotError(DataError):
    """A stored snapshot is missing, incomplete or altered."""


class ModelFileError(DataError):
    """A model's file is missing, altered, or not one that may be read."""


class LeakError(PumpMLError):
    """An answer would reach a model that must not know it."""


class GateError(PumpMLError):
    """The data do not carry a target: the baseline does not clearly beat the naive one."""


class FleetError(PumpMLError):
    """Machines of a fleet were not trained; the message has the reason of each."""


class StorageFullError(PumpMLError):
    """A disk, a database or a bucket takes nothing more."""


class MemoryLimitError(PumpMLError):
    """A step needs more memory than it may have."""


class ArtifactStoreError(ConnectionError):
    """MLflow's server cannot keep or give artifacts.

    Its client sees HTTP 500 alike for a bucket that is full and for one that is away, and the latter may heal.
    """


class StackError(PumpMLError):
    """The local or the full stack did not start, a DAG run on it failed, or its backup did."""


FULL = re.compile(
    r"no space left on device|disk quota exceeded|database or disk is full"  # the system, SQLite
    r"|\bDiskFull\b"  # psycopg2's name of SQLSTATE 53100
    # S3 errors of AWS, Ceph and MinIO, and their HTTP status where there is no body
    r"|QuotaExceeded|XMinioStorageFull|minimum free d\w+ threshold|InsufficientStorage|InsufficientCapacity|\(507\)",
    re.IGNORECASE,
)
OUT_OF_MEMORY = re.compile(r"\bbad_alloc\b|cannot allocate memory|\bResourceExhaustedError\b", re.IGNORECASE)
"""XGBoost and other C++, the system, TensorFlow."""
ARTIFACTS = re.compile(r"API request to \S*/mlflow-artifacts/artifacts/\S* failed")
"""What MLflow's client raises after its retries."""


def name_failure(error: BaseException, doing: str) -> PumpMLError | ArtifactStoreError | None:
    """The error that says that storage or memory ran out, if that is what `error` comes from.

    The libraries between wrap it, so the errors it was raised from, or raised while handling, are looked at too; their
    kinds are known by name, since none of the libraries is needed to look.

    Args:
        error: what was raised.
        doing: what was being done, for the message.

    Returns:
        The error to raise instead, or None: `error` has its name already, or is of another kind.
    """
    if isinstance(error, PumpMLError):
        return None
    link: BaseException | None = error
    while link is not None:
        text = " ".join([f"{type(link).__name__}: {link}", *getattr(link, "__notes__", ())])
        number = getattr(link, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or FULL.search(text):
            return StorageFullError(
                f"{doing}: there is no room left to store the result ({text}). What was stored before is whole; make "
                "room or raise the quota where the message says (a disk, the database, the S3 store), and try again "
                "(in Airflow, clear the task): it takes up where it stopped"
            )
        if isinstance(link, MemoryError) or number == errno.ENOMEM or OUT_OF_MEMORY.search(text):
            return MemoryLimitError(
                f"{doing}: the memory did not suffice ({text}). Raise the memory limit of the worker, let fewer tasks "
                "run at once (pools `training`, `machines`), or take a smaller snapshot; then try again (in Airflow, "
                "clear the task)"
            )
        if ARTIFACTS.search(text):
            return ArtifactStoreError(
                f"{doing}: MLflow's server did not keep or give an artifact ({text}). Its log says why: expected a "
                "bucket for its artifacts with room left, which answers and lets MLflow's user in; make room, or start "
                "the store"
            )
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return None
