"""Where the models of single machines lie as files, what they are called, and when one of their pickles is read.

The files lie under ``models/`` of the artifact root: ``var/artifacts/models/…``, ``s3://plant/ml/models/…``. A bucket
that is itself called ``models`` needs no such folder: ``s3://models/…``. ``outbox/`` lies beside the files.

How they are written: `pump_ml.object_store`.
"""

import hashlib
import io
import pickle
import re
from collections.abc import Set
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pump_ml.errors import ConfigurationError, ModelFileError, UnknownNameError
from pump_ml.object_store import Bucket, Folder, Store
from pump_ml.settings import Settings

Kind = Literal["gru", "xgb"]
"""``gru``: health forecast; ``xgb``: pre-failure alarm."""
NAMES: dict[str, dict[str, str]] = {
    "gru": {
        "weights": "gru_model_weights_{machine}_{timestamp}.h5",
        "scaler": "gru_model_scaler_{machine}_{timestamp}.pkl",
        "network": "gru_model_{machine}_{timestamp}.keras",
        "scaling": "gru_model_scaler_{machine}_{timestamp}.json",
    },
    "xgb": {
        "model": "xgb_model_{machine}_{timestamp}.pkl",
        "booster": "xgb_model_{machine}_{timestamp}.ubj",
        "about": "xgb_model_{machine}_{timestamp}.json",
    },
}
"""Kind -> role of a file -> its name. The first is the main one, whose address and SHA-256 stand in the table."""
SAFE = {"gru": ("network", "scaling"), "xgb": ("booster", "about")}
"""Roles of the files that need no pickle: they travel in the registered model."""
TIMESTAMP = "%Y_%m_%d_%H_%M_%S"
PLAIN = re.compile(r"[A-Za-z0-9-]+(?:[._][A-Za-z0-9-]+)*")
LONGEST = 64
"""Characters of a name that stay as they are."""

NUMPY = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
    }
)
SCALER = NUMPY | {("sklearn.preprocessing._data", "MinMaxScaler")}
"""What the pickle of a scaler may name."""
BOOSTER = NUMPY | {
    ("builtins", "bytearray"),
    ("xgboost.core", "Booster"),
    ("xgboost.sklearn", "XGBClassifier"),
    ("xgboost.sklearn", "XGBRegressor"),
}
"""What the pickle of a gradient-boosted model may name."""


def roles(kind: str) -> tuple[str, ...]:
    """Roles of the files of a kind, the main one first.

    Raises:
        UnknownNameError: there is no such kind.
    """
    if kind not in NAMES:
        raise UnknownNameError("kind of model", kind, NAMES)
    return tuple(NAMES[kind])


def safe_name(name: str) -> str:
    """A machine's name as it stands in keys, and one that no other machine has.

    ASCII letters, digits and ``-`` stay, and so does a single ``_`` or ``.`` between them. In any other name, and in
    one of more than 64 characters, what may not stay becomes ``_``, and ``__`` and 12 digits of the SHA-256 of the
    name follow: no name that stayed has a double ``_``. Never longer than 78 characters.

    Raises:
        ConfigurationError: the name is empty.
    """
    if not name.strip():
        raise ConfigurationError(f"a machine is called {name!r}; expected a name with a letter or a digit")
    if len(name) <= LONGEST and PLAIN.fullmatch(name):
        return name
    kept = re.sub(r"[^A-Za-z0-9-]+", "_", name)[:LONGEST].strip("_")
    return f"{kept}__{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def names(kind: str, machine: str, timestamp: datetime) -> dict[str, str]:
    """Role -> name of each file of a model.

    Args:
        kind: ``gru`` or ``xgb``.
        machine: as the plant names it.
        timestamp: of the model, UTC; a model has a second of its own.
    """
    filled = {"machine": safe_name(machine), "timestamp": timestamp.strftime(TIMESTAMP)}
    return {role: name.format(**filled) for role, name in NAMES[kind].items()}


class _Listed(pickle.Unpickler):
    """Finds what is on a list and nothing else."""

    def __init__(self, content: bytes, allowed: Set[tuple[str, str]]) -> None:
        super().__init__(io.BytesIO(content))
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle names, if it may."""
        if (module, name) not in self._allowed:
            raise ModelFileError(
                f"a pickle names {module}.{name}, which is not on its list "
                f"({', '.join(sorted('.'.join(each) for each in self._allowed))}); nothing of it was run. "
                "Don't use the file: read the safe format beside it, and find out who wrote it"
            )
        return super().find_class(module, name)


def load_pickle(content: bytes, sha256: str, allowed: Set[tuple[str, str]]) -> Any:
    """The object in a pickle that was recorded, if it names nothing but what it may.

    Args:
        content: of the file.
        sha256: that was recorded when it was written, in hexadecimal digits.
        allowed: module and name of what it may name: `SCALER` or `BOOSTER`.

    Raises:
        ModelFileError: it is another file than was recorded, names something else, or is no pickle.
    """
    check(content, sha256, "a pickle")
    try:
        return _Listed(content, allowed).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, ImportError) as error:
        raise ModelFileError(f"a pickle cannot be read: {error}; read the safe format beside it") from error


def check(content: bytes, sha256: str, what: str) -> None:
    """See that a file is the one that was recorded.

    Raises:
        ModelFileError: its SHA-256 is another.
    """
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ModelFileError(
            f"{what} is not the file that was recorded: its SHA-256 is {found[:12]}…, expected {sha256[:12]}…; "
            "it was not read. Restore the file, or train again"
        )


def models_folder(root: Store) -> str:
    """Prefix of the models' keys: ``models/``, or none in a bucket of that name."""
    return "" if isinstance(root, Bucket) and (root.bucket, root.prefix) == ("models", "") else "models/"


def store(settings: Settings | None = None) -> Store:
    """The store of the deployment.

    Raises:
        ConfigurationError: the root is neither a folder nor a bucket.
    """
    root = (settings or Settings.load()).artifacts
    if root.startswith("s3://"):
        bucket, _, prefix = root.removeprefix("s3://").partition("/")
        return Bucket(bucket, prefix.strip("/"))
    if "://" in root:
        raise ConfigurationError(f"PUMP_ML_ARTIFACT_ROOT is {root}; expected a folder or s3://BUCKET, s3://BUCKET/…")
    return Folder(Path(root).resolve())
