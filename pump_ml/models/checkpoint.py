"""Where a network's training stands after an epoch, so that a killed task goes on from there."""

import io
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from pump_ml import files

log = logging.getLogger(__name__)

STATE = "state"


@dataclass(frozen=True)
class Checkpoint:
    """One file that each epoch replaces: arrays, and JSON beside them.

    It is scratch, and next to nothing takes its place when the model is kept. It is not deleted, since nobody who
    trains may delete in a bucket.

    Args:
        path: of the file, below the data root.
        fingerprint: of all that the training follows from; another training's checkpoint is not taken up.
    """

    path: UPath
    fingerprint: str

    def save(self, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
        """Write it whole or not at all. A store that is full or away costs the checkpoint and not the training."""
        told = json.dumps({**state, "fingerprint": self.fingerprint}).encode()

        def write(sink: BinaryIO) -> None:
            np.savez(sink, allow_pickle=False, **arrays, **{STATE: np.frombuffer(told, dtype=np.uint8)})

        try:
            files.write_stream(self.path, write)
        except Exception as error:  # noqa: BLE001 - whatever a store raises, the training is worth more
            log.warning("%s was not kept (%s: %s); the training goes on", self.path, type(error).__name__, error)

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
        of = state.pop("fingerprint")
        if of != self.fingerprint:
            if of:
                log.warning("%s is of another training: this one begins anew", self.path)
            return None
        return arrays, state

    def of_member(self, place: int) -> "Checkpoint":
        """That of one of several models that are learnt one after the other."""
        path = self.path.with_name(f"{self.path.stem}-{place + 1}{self.path.suffix}")
        return Checkpoint(path, f"{self.fingerprint}-{place + 1}")

    def retire(self) -> None:
        """The model is kept elsewhere now: nobody goes on from here."""
        if files.exists(self.path):
            replace(self, fingerprint="").save({}, {})
