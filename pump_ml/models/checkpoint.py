"""Where a network's training stands after an epoch, so that a killed task goes on from there."""

import io
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from pump_ml import files

log = logging.getLogger(__name__)

STATE = "state"


@dataclass(frozen=True)
class Checkpoint:
    """One file that each epoch replaces: arrays, and JSON beside them. It is scratch, and goes when the model is kept.

    Args:
        path: of the file, below the data root.
        fingerprint: of all that the training follows from; another training's checkpoint is not taken up.
    """

    path: UPath
    fingerprint: str

    def save(self, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
        """Write it whole or not at all."""
        told = json.dumps({**state, "fingerprint": self.fingerprint}).encode()

        def write(sink: BinaryIO) -> None:
            np.savez(sink, allow_pickle=False, **arrays, **{STATE: np.frombuffer(told, dtype=np.uint8)})

        files.write_stream(self.path, write)

    def load(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """What `save` wrote; None where there is nothing, or nothing that can be used."""
        if not files.exists(self.path):
            return None
        try:
            with np.load(io.BytesIO(files.read_bytes(self.path)), allow_pickle=False) as found:
                arrays = dict(found)
            state = json.loads(arrays.pop(STATE).tobytes())
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read (%s): the training begins anew", self.path, error)
            return None
        if state.pop("fingerprint") != self.fingerprint:
            log.warning("%s is of another training: this one begins anew", self.path)
            return None
        return arrays, state

    def remove(self) -> None:
        """The model is kept elsewhere now."""
        files.remove_scratch(self.path)
