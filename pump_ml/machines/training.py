"""One training of one machine: its telemetry in, a published model or a clear outcome out."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pandas as pd

from pump_ml import catalog
from pump_ml.artifacts import SAFE, Kind, safe_name
from pump_ml.errors import ConfigurationError, SourceError, UnknownNameError
from pump_ml.machines import contest, inspection, publishing
from pump_ml.machines.alarm import NoFailuresError
from pump_ml.machines.answering import Forecaster, Warner, from_files
from pump_ml.machines.kinds import Watch
from pump_ml.machines.policy import Policy, load_policy
from pump_ml.machines.preparation import Prepared, prepare
from pump_ml.machines.publishing import TrainedModel
from pump_ml.machines.records import StoredModel
from pump_ml.schema import ASSET, TIME
from pump_ml.settings import Settings
from pump_ml.sources import Source
from pump_ml.sources.plant import Plant, load_plant
from pump_ml.sources.sql import SqlSource

Period = tuple[datetime | None, datetime | None]
"""Start and end of the readings, ``start <= time < end``, with zone; None leaves a side open."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a training.

    Args:
        machine: as the plant names it.
        kind: ``gru`` or ``xgb``.
        outcome: ``trained``, ``published before`` by an earlier try with the same run key, or ``no failures``.
        reason: why it is, or is not, the champion; or why there is no model.
        broken_rules: id of each rule of the plant's suite that rows broke, and how many did; empty where an earlier try
            published.
        model: what was published; None where there is no model.
    """

    machine: str
    kind: str
    outcome: str
    reason: str
    broken_rules: Mapping[str, int] = field(default_factory=dict)
    model: StoredModel | None = None

    def to_json(self) -> dict[str, Any]:
        """For a DAG and a shell."""
        told: dict[str, Any] = {
            "machine": self.machine,
            "kind": self.kind,
            "outcome": self.outcome,
            "reason": self.reason,
            "broken_rules": dict(self.broken_rules),
        }
        if self.model is not None:
            told |= {
                "address": self.model.bucket_address,
                "version": self.model.model_version,
                "champion": self.model.promoted,
                "metrics": dict(self.model.metrics),
            }
        return told


class ModelFactory:
    """Trains one kind of model for one machine over a period.

    Args:
        model_type: ``gru``, the health forecast, or ``xgb``, the pre-failure alarm.
        machine: as the plant names it.
        period: of the readings.
        run_key: what asks for it: a retry with the same key trains nothing again. Unset, each call is one of its own.
        source: of the readings; unset, the plant's SQL table.
        plant: name or path of the YAML that describes the table, or what was read of it.
        policy: how models are made; unset, the shipped one.
        seed: of all that is random.
        settings: where results go.

    Raises:
        UnknownNameError: there is no such kind of model; the message has those that there are.
    """

    def __init__(
        self,
        model_type: str,
        machine: str,
        period: Period = (None, None),
        *,
        run_key: str | None = None,
        source: Source | None = None,
        plant: str | Path | Plant = "processed_data",
        policy: Policy | None = None,
        seed: int = 7,
        settings: Settings | None = None,
    ) -> None:
        if model_type not in catalog.MACHINE_MODELS:
            raise UnknownNameError("kind of machine model", model_type, catalog.MACHINE_MODELS)
        self.kind, self.machine, self.period, self.seed = cast("Kind", model_type), machine, period, seed
        self.run_key = run_key or new_run_key(machine, model_type)
        if strange := sorted(set(self.run_key) & set("'\"`\\")):
            raise ConfigurationError(f"run key {self.run_key!r} holds {' '.join(strange)}; expected one without quotes")
        self.plant = load_plant(plant)
        self.source = source or SqlSource(machines=[machine], mapping=self.plant)
        self.policy = policy or load_policy()
        self.settings = settings or Settings.load()

    def train(self, watch: Watch | None = None) -> Outcome:
        """Fetch, prepare, learn, judge and publish; or find what an earlier try published.

        Raises:
            SourceError: the machine, a column or the period is not there.
            ContractError: the readings break the contract of the plant's suite.
            ConfigurationError: the run key is another model's.
            DataError: the readings do not suffice.
        """
        if found := publishing.published(self.run_key, self.settings, machine=self.machine, kind=self.kind):
            if (found.machine, found.kind) != (self.machine, self.kind):
                raise ConfigurationError(
                    f"run key {self.run_key!r} is of the model {found.kind} of machine {found.machine!r}; expected a "
                    "key of its own for each machine and kind"
                )
            return Outcome(self.machine, self.kind, "published before", found.reason, model=found)
        fetched = self.source.fetch(*self.period)
        readings = fetched.readings[fetched.readings[ASSET] == self.machine]
        if readings.empty:
            known = ", ".join(sorted(fetched.readings[ASSET].dropna().unique())[:20])
            raise SourceError(f"the source has no reading of machine {self.machine!r}; it has: {known or 'none'}")
        broken = inspection.broken_rules(replace(fetched, readings=readings), self.plant, self.settings.suites)
        log.info("%s %s: rules broken, and by how many rows: %s", self.machine, self.kind, broken or "none")
        prepared = prepare(readings, self.plant.ranges, self.policy.preparation)
        log.info("%s %s: %s", self.machine, self.kind, _told(prepared))
        learn = catalog.load("kind of machine model", catalog.MACHINE_MODELS, self.kind)
        try:
            learnt = learn(prepared, self.policy, self.plant.limits, seed=self.seed, watch=watch)
        except NoFailuresError as error:
            return Outcome(self.machine, self.kind, "no failures", str(error), broken)
        files = learnt.files(
            {
                "machine": self.machine,
                "kind": self.kind,
                "ranges": {name: self.plant.ranges[name] for name in prepared.sensors},
                "preparation": self.policy.preparation.model_dump(mode="json"),
            }
        )
        may_lead, reason = learnt.gate()

        def better(champion: StoredModel | None) -> tuple[bool, str]:
            return contest.better(
                lambda: _answerer(self.kind, files), champion, readings, learnt.test_from, self.settings
            )

        stored = publishing.publish(
            TrainedModel(
                machine=self.machine,
                kind=self.kind,
                run_key=self.run_key,
                data_start=_time(readings[TIME].min()),
                data_end=_time(readings[TIME].max()),
                metrics={name: value if math.isfinite(value) else None for name, value in learnt.metrics.items()},
                parameters=self._parameters(prepared, broken),
                files=files,
                may_lead=may_lead,
                reason=reason,
            ),
            better,
            self.settings,
        )
        return Outcome(self.machine, self.kind, "trained", stored.reason, broken, stored)

    def _parameters(self, prepared: Prepared, broken: Mapping[str, int]) -> dict[str, Any]:
        """What MLflow shows: the policy of this kind, the seed, and what validation and preparation found."""
        policy = self.policy.forecast if self.kind == "gru" else self.policy.alarm
        found = {name: value for name, value in prepared.report.items() if isinstance(value, int)}
        cells = {name: sum(value.values()) for name, value in prepared.report.items() if isinstance(value, dict)}
        counted = {f"preparation.{name}": value for name, value in {**found, **cells}.items()}
        counted |= inspection.parameters(broken)
        return {**policy.model_dump(mode="json"), "seed": self.seed, "plant": self.plant.name, **counted}


def new_run_key(machine: str, kind: str) -> str:
    """A key that no other training has."""
    return f"{safe_name(machine)}/{kind}/{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"


def _answerer(kind: str, files: Mapping[str, bytes]) -> Forecaster | Warner:
    about, model = (files[role] for role in reversed(SAFE[kind]))
    return from_files(about, network=model) if kind == "gru" else from_files(about, booster=model)


def _time(time: pd.Timestamp) -> datetime:
    found: datetime = time.to_pydatetime()
    return found


def _told(prepared: Prepared) -> str:
    report = prepared.report
    return (
        f"{report['rows']} rows, {len(prepared)} readings in {report['gaps'] + 1} stretches, "
        f"{sum(report['out_of_range'].values())} cells out of range, {sum(report['infinite'].values())} infinite, "
        f"{sum(report['filled'].values())} filled; sensors left out: {', '.join(report['left_out']) or 'none'}"
    )
