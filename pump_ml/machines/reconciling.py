"""Publications that died half way are finished; files, rows and versions are held against each other.

Nothing is deleted: what does not agree is reported, with its address, for a person to look at.
"""

import hashlib
import logging
from typing import Any, Literal

from pump_ml import artifacts, ledger
from pump_ml.errors import ModelFileError
from pump_ml.machines import outbox, publishing, records
from pump_ml.machines.records import StoredModel
from pump_ml.object_store import Store
from pump_ml.settings import Settings

Check = Literal["nothing", "presence", "content"]
"""What is held against each other after all is finished: nothing; what is there; and each file's SHA-256 too."""
BUSY_S = 1.0
"""How long to wait for a slot's lock: whoever holds it is finishing it."""

log = logging.getLogger(__name__)


def reconcile(settings: Settings | None = None, *, check: Check = "content") -> dict[str, Any]:
    """Finish what died half way, and see that files, rows and versions agree.

    Args:
        settings: of the deployment.
        check: how much is looked at; ``content`` reads every file, ``nothing`` costs a list of the outbox.

    Returns:
        ``finished``: run keys; ``busy``: slots that another process is publishing in; ``failed``: slot -> error. And
        unless `check` is ``nothing``: ``files_without_row``, ``files_missing``, ``files_altered``,
        ``versions_without_row``, ``versions_missing``, and whether all ``agree``.
    """
    settings = settings or Settings.load()
    ledger.prepare(settings)
    report = _finish(settings)
    if check != "nothing":
        found = _compare(settings, content=check == "content")
        report |= found | {"agree": not any(found.values()) and not report["failed"]}
    return report


def _finish(settings: Settings) -> dict[str, Any]:
    report: dict[str, Any] = {"finished": [], "busy": [], "failed": {}}
    for place in outbox.waiting(settings):
        try:
            with place.lock(BUSY_S):
                if stored := publishing.complete(place):
                    report["finished"].append(stored.run_key)
        except TimeoutError as error:
            log.info("%s is busy: %s", place.slot, error)
            report["busy"].append(place.slot)
        except Exception as error:  # noqa: BLE001 - one that cannot be finished now must not keep the others waiting
            log.warning("%s cannot be finished: %s: %s", place.slot, type(error).__name__, error)
            report["failed"][place.slot] = f"{type(error).__name__}: {error}"
    return report


def _compare(settings: Settings, *, content: bool) -> dict[str, list[str]]:
    """What does not agree. Models may be published meanwhile: the rows, which come last there, are read last here."""
    from pump_ml import registry

    store, client = artifacts.store(settings), registry.connect(settings)
    there = set(store.sizes(artifacts.models_folder(store)))
    versions = {(version.name, version.version): version for version in registry.versions(client)}
    under_way = [bundle.model for bundle in _bundles(settings)]
    rows = list(records.every(settings))

    known = {file.key for model in (*under_way, *rows) for file in model.files.values()}
    keys = {model.run_key for model in (*under_way, *rows)}
    names = {model.run_key: outbox.Place.of(model.machine, model.kind, settings).name for model in rows}
    missing = [m for m in rows if (names[m.run_key], m.model_version) not in versions]
    return {
        "files_without_row": [store.address(key) for key in sorted(there - known)],
        "files_missing": [store.address(key) for model in rows for key in _missing(store, model, there)],
        "files_altered": [store.address(key) for model in rows for key in _altered(store, model)] if content else [],
        "versions_without_row": [f"{v.name} {v.version}" for v in versions.values() if v.key not in keys],
        "versions_missing": [  # asked again: it may have been made since
            f"{names[m.run_key]} {m.model_version}"
            for m in missing
            if m.model_version not in {v.version for v in registry.versions(client, names[m.run_key])}
        ],
    }


def _bundles(settings: Settings) -> list[outbox.Bundle]:
    """What waits to be finished; a damaged one has been reported."""
    found = []
    for place in outbox.waiting(settings):
        try:
            bundle, _ = place.waiting()
        except ModelFileError:
            continue
        if bundle:
            found.append(bundle)
    return found


def _missing(store: Store, model: StoredModel, there: set[str]) -> list[str]:
    """Keys of a model's files that are gone; asked again, since they may have been written after the list was."""
    return [file.key for file in model.files.values() if file.key not in there and not store.has(file.key)]


def _altered(store: Store, model: StoredModel) -> list[str]:
    """Keys of a model's files that are others than were recorded."""
    found = [(file, store.read(file.key)) for file in model.files.values()]
    return [file.key for file, read in found if read and hashlib.sha256(read.content).hexdigest() != file.sha256]
