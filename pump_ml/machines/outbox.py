"""What is to be written of a model, in one piece, before any of it is: the outbox of the artifact root.

Each machine and kind has one slot there. A bundle in it, a zip, is there whole or not at all, and waits to be finished.
Nobody may delete in a bucket: a few bytes that say "done" take its place. So the outbox stays as small as the plant,
however often its machines learn.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Self

from pump_ml import artifacts, ledger
from pump_ml.errors import ModelFileError
from pump_ml.machines.records import StoredFile, StoredModel
from pump_ml.object_store import Content, Store
from pump_ml.settings import Settings

OUTBOX = "outbox/"
RETIRED = b'{"done": 1}\n'
"""What takes the place of a bundle; no zip is as short, so a list of sizes tells which slots wait."""
TIMES = ("data_start", "data_end", "created_at")


@dataclass(frozen=True)
class Bundle:
    """All that is to be written of one model, decided and named; what the outbox holds.

    Args:
        model: without the content of its files, as the row will have it, but for MLflow's run and version.
        parameters: for MLflow.
        compared: version of the champion that it was compared with; None when there was none.
        content: of each file, by role.
    """

    model: StoredModel
    parameters: Mapping[str, str]
    compared: str | None
    content: Mapping[str, bytes]

    def pack(self) -> bytes:
        """As a zip."""
        told = {"model": asdict(self.model), "parameters": dict(self.parameters), "compared": self.compared}
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            file.writestr("bundle.json", json.dumps(told, default=datetime.isoformat, allow_nan=False))
            for role, content in self.content.items():
                file.writestr(role, content)
        return packed.getvalue()

    @classmethod
    def unpack(cls, packed: bytes, where: str) -> Self:
        """From a zip.

        Raises:
            ModelFileError: it is damaged.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(packed)) as file:
                told = json.loads(file.read("bundle.json"))
                content = {role: file.read(role) for role in told["model"]["files"]}
            told["model"]["files"] = {role: StoredFile(**each) for role, each in told["model"]["files"].items()}
            times = {name: datetime.fromisoformat(told["model"][name]) for name in TIMES}
            bundle = cls(StoredModel(**told["model"] | times), told["parameters"], told["compared"], content)
        except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"{where} is no bundle of a model ({error!r}); restore a former version of it, or a backup's, "
                'or put a file with the words {"done": 1} in its place and train the machine again'
            ) from error
        for role, each in bundle.model.files.items():
            artifacts.check(content[role], each.sha256, f"{role} in {where}")
        return bundle


@dataclass(frozen=True)
class Place:
    """A machine's models of one kind, and where they are written."""

    slot: str
    store: Store
    settings: Settings

    @classmethod
    def of(cls, machine: str, kind: str, settings: Settings) -> Self:
        """That of a machine."""
        return cls(f"{artifacts.safe_name(machine)}-{kind}", artifacts.store(settings), settings)

    @property
    def key(self) -> str:
        """Of the slot in the outbox."""
        return f"{OUTBOX}{self.slot}.zip"

    @property
    def name(self) -> str:
        """Of the registered model."""
        return f"machine-{self.slot}"

    def lock(self, wait_s: float = ledger.LOCK_WAIT_S) -> AbstractContextManager[None]:
        """Of those who publish this machine's models of this kind; see `pump_ml.ledger.lock`."""
        return ledger.lock(f"machines/{self.slot}", self.settings, wait_s=wait_s)

    def waiting(self) -> tuple[Bundle | None, Content | None]:
        """The bundle that waits to be finished, and what lies in the slot."""
        seen = self.store.read(self.key)
        if seen is None or seen.content.strip() == RETIRED.strip():
            return None, seen
        return Bundle.unpack(seen.content, self.store.address(self.key)), seen


def waiting(settings: Settings) -> list[Place]:
    """The slots of the outbox that hold a bundle."""
    store = artifacts.store(settings)
    found = [key for key, size in store.sizes(OUTBOX).items() if size != len(RETIRED)]
    return [Place(key.removeprefix(OUTBOX).removesuffix(".zip"), store, settings) for key in found]
