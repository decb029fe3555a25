"""A trained model of a machine becomes files, a registered version, a row and maybe the champion, or none of them.

All that is to be written stands first in one bundle in the outbox, which is there whole or not at all: the commit
point. Before it nothing is there. After it anybody can finish, as often as it takes:

    files -> MLflow's run, model and version -> row in ``models`` -> alias ``champion`` -> the bundle is retired

Each machine and kind has one slot in the outbox and one lock. Whoever takes the lock finishes what died in the slot, so
the next model is compared with a champion that is really there, and gets a second of its own.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pump_ml import artifacts, ledger
from pump_ml.artifacts import Kind
from pump_ml.errors import ConfigurationError, ModelFileError
from pump_ml.machines import outbox, records
from pump_ml.machines.outbox import Bundle, Place
from pump_ml.machines.records import StoredFile, StoredModel
from pump_ml.object_store import Content
from pump_ml.settings import Settings

MEASURED = ("mae", "rmse", "r2")
Better = Callable[[StoredModel | None], tuple[bool, str]]
"""Given the champion, whether the new model takes its place, and why."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A model as it leaves the training, all of it in memory.

    Args:
        machine: as the plant names it, at most 200 characters.
        kind: ``gru`` (health forecast) or ``xgb`` (pre-failure alarm).
        run_key: what asked for it; a retry has the same one.
        data_start: of the data it learnt from, with zone.
        data_end: of the data it learnt from, with zone.
        metrics: ``mae``, ``rmse``, ``r2`` and others; None for one that is not defined.
        parameters: for MLflow.
        files: role -> content, the roles of `pump_ml.artifacts.NAMES`.
        may_lead: whether it passed its gates: a forecast that does not beat persistence may not be champion.
        reason: why, or why not.

    Raises:
        ConfigurationError: one of them is not as described.
    """

    machine: str
    kind: Kind
    run_key: str
    data_start: datetime
    data_end: datetime
    metrics: Mapping[str, float | None]
    parameters: Mapping[str, Any]
    files: Mapping[str, bytes]
    may_lead: bool
    reason: str

    def __post_init__(self) -> None:
        roles = set(artifacts.roles(self.kind))
        wrong = [name for name, value in self.metrics.items() if value is not None and not math.isfinite(value)]
        for bad, told in (
            (len(self.machine) > 200, f"its name has {len(self.machine)} characters; expected 200 at most"),
            (not 0 < len(self.run_key) <= 400, f"its run key is {self.run_key!r}; expected 1 to 400 characters"),
            (set(self.files) != roles, f"its files are {sorted(self.files)}; expected {sorted(roles)}"),
            (wrong, f"no number: {', '.join(wrong)}; expected a finite one, or None for one that is not defined"),
            (
                not set(MEASURED) <= set(self.metrics),
                f"its metrics are {sorted(self.metrics)}; expected {', '.join(MEASURED)} among them",
            ),
            (
                None in (self.data_start.tzinfo, self.data_end.tzinfo) or self.data_start > self.data_end,
                f"its data are of {self.data_start} to {self.data_end}; expected times with zone, in order",
            ),
        ):
            if bad:
                raise ConfigurationError(f"model {self.kind} of machine {self.machine!r}: {told}")


def publish(model: TrainedModel, better: Better | None = None, settings: Settings | None = None) -> StoredModel:
    """Store, register and record a model, and make it the champion if it may and is better.

    Args:
        model: what was trained.
        better: asked under the machine's lock, if the model may lead; None takes every such model.
        settings: where to.

    Returns:
        What was recorded; what an earlier try with the same run key recorded, if there was one.
    """
    from pump_ml import registry

    settings = settings or Settings.load()
    ledger.prepare(settings)
    place = Place.of(model.machine, model.kind, settings)
    with place.lock():
        complete(place)
        if found := records.find(model.run_key, settings):
            return found
        champion = registry.machine_champion(registry.connect(settings), place.name)
        promoted, reason = model.may_lead, model.reason
        if promoted and better:
            promoted, reason = better(records.find(champion.key, settings) if champion else None)
        bundle = _bundle(model, place, champion.version if champion else None, promoted=promoted, reason=reason)
        seen = place.store.swap(place.key, bundle.pack(), place.store.read(place.key))
        return _finish(place, bundle, seen, again=False)


def published(
    run_key: str, settings: Settings | None = None, *, machine: str | None = None, kind: Kind | None = None
) -> StoredModel | None:
    """What an earlier try with this key published, finished if it died half way; None: it is to be trained.

    Args:
        run_key: what asks for it.
        settings: where to look.
        machine: of the model; with `kind`, one slot of the outbox is looked at, else all that wait.
        kind: of the model.
    """
    settings = settings or Settings.load()
    ledger.prepare(settings)
    places = [Place.of(machine, kind, settings)] if machine and kind else outbox.waiting(settings)
    for place in places:
        with suppress(ModelFileError):  # a damaged bundle, maybe of another machine; `reconcile` reports it
            bundle, _ = place.waiting()
            if bundle and bundle.model.run_key == run_key:
                with place.lock():
                    complete(place)
    return records.find(run_key, settings)


def complete(place: Place) -> StoredModel | None:
    """Finish what died half way in a slot, if anything did; hold `Place.lock` around it."""
    bundle, seen = place.waiting()
    if bundle is None:
        return None
    log.warning("%s: an earlier try died while it published its model; it is finished now", bundle.model.run_key)
    return _finish(place, bundle, seen, again=True)


def _bundle(model: TrainedModel, place: Place, compared: str | None, *, promoted: bool, reason: str) -> Bundle:
    """Name the files, and put together what the row will have."""
    folder = artifacts.models_folder(place.store)
    moment = _now()
    while True:  # a second of its own
        keys = {role: folder + name for role, name in artifacts.names(model.kind, model.machine, moment).items()}
        if not any(place.store.has(key) for key in keys.values()):
            break
        moment += timedelta(seconds=1)
    hashes = {role: hashlib.sha256(content).hexdigest() for role, content in model.files.items()}
    main = artifacts.roles(model.kind)[0]
    stored = StoredModel(
        machine=model.machine,
        kind=model.kind,
        run_key=model.run_key,
        bucket_address=place.store.address(keys[main]),
        sha256=hashes[main],
        data_start=model.data_start.astimezone(UTC),
        data_end=model.data_end.astimezone(UTC),
        metrics={name: None if value is None else float(value) for name, value in model.metrics.items()},
        files={role: StoredFile(key, hashes[role]) for role, key in keys.items()},
        mlflow_run="",
        model_version="",
        promoted=promoted,
        reason=reason,
        created_at=moment,
    )
    return Bundle(stored, {name: str(value) for name, value in model.parameters.items()}, compared, model.files)


def _finish(place: Place, bundle: Bundle, seen: Content | None, *, again: bool) -> StoredModel:
    """Do what a bundle says and is not done yet."""
    from pump_ml import registry

    model = bundle.model
    for role, file in model.files.items():
        place.store.put(file.key, bundle.content[role])
    client = registry.connect(place.settings)
    publication = registry.Publication(
        name=place.name,
        machine=model.machine,
        kind=model.kind,
        key=model.run_key,
        parameters=bundle.parameters,
        metrics=model.metrics,
        files={_inside(model, role): bundle.content[role] for role in artifacts.SAFE[model.kind]},
    )
    kept = registry.keep(client, publication, place.settings, again=again)
    stored = replace(model, mlflow_run=kept.run, model_version=kept.version)
    records.add(stored, place.settings)
    if stored.promoted:
        _crown(client, place, stored, bundle.compared)
    place.store.swap(place.key, outbox.RETIRED, seen)
    return stored


def _inside(model: StoredModel, role: str) -> str:
    """Name of a file in the registered model: ``network.keras``, the same for every machine."""
    return role + Path(model.files[role].key).suffix


def _crown(client: Any, place: Place, stored: StoredModel, compared: str | None) -> None:
    """Give the alias to the model, unless somebody moved it since the comparison: then their word holds."""
    from pump_ml import registry

    champion = registry.machine_champion(client, place.name)
    now = champion and champion.version
    if now == compared:
        registry.crown(client, place.name, stored.model_version)
    elif now != stored.model_version:
        log.warning(
            "%s: the champion is version %s now and not %s, with which version %s was compared: it stays",
            place.name, now, compared, stored.model_version,
        )  # fmt: skip


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
