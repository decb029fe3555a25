"""A fleet's models, a machine at a time: plan_machines -> train_batch(…) -> roll_up.

All of a run lies under its key in the data root: the plan, and an outcome for each machine and kind. The address of
the telemetry is none of it, since it may hold a password.
"""

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from pump_ml import catalog
from pump_ml.errors import (
    ConfigurationError,
    EmptyPeriodError,
    FleetError,
    PumpMLError,
    SourceError,
    StorageFullError,
    TooFewReadingsError,
    UnknownNameError,
    name_failure,
)
from pump_ml.settings import Settings
from pump_ml.steps.common import Json, Progress, log, log_progress, readable, step

if TYPE_CHECKING:
    from upath import UPath

    from pump_ml.machines.kinds import Watch

TOLD = 5
"""Reasons that a message has of the machines that failed; the outcomes have all."""
STRANGE = 2
"""So many machines after each other that fail by something else than an error of pump_ml's: it is not them."""


@step
def plan_machines(
    run_key: str,
    *,
    machines: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    start: str | None = None,
    end: str | None = None,
    days: float | None = None,
    least_share: float = 0.9,
    batch_s: float | None = None,
    plant: str = "processed_data",
    policy: str | None = None,
    seed: int = 7,
    url: str | None = None,
) -> list[Json]:
    """Settle which machines a run trains, on which readings, in which batches.

    Args:
        run_key: names the run; the same key goes on with the same plan, its policy and mapping as they were.
        machines: as the plant names them; None or none for all that have readings in the period. One that has none is
            planned all the same where it is named, and fails alone.
        kinds: of `pump_ml.catalog.MACHINE_MODELS`; None or none for all.
        start: of the readings, ISO 8601, UTC where it has no zone; None for `days` before the end.
        end: of the readings, likewise; None for now where there are `days`.
        days: length of the period where it has no start; None for all that there is.
        least_share: of the machines and kinds that could be trained, from 0 to 1; below it `roll_up` fails.
        batch_s: estimated seconds of work in a batch, None for `pump_ml.machines.fleet.BATCH_S`. It is raised where
            that could make more batches than Airflow maps.
        plant: name or path of the YAML that describes the table.
        policy: path of a YAML that says how models are made; None takes the shipped one.
        seed: of all that is random.
        url: SQLAlchemy's address of the telemetry; None takes that of the settings.

    Returns:
        ``number`` and ``name`` of each batch.

    Raises:
        ConfigurationError: an argument cannot be used, or the run was planned otherwise before.
        SourceError: the table cannot be used, or no machine has readings in the period.
    """
    from pump_ml import files

    if blank := [machine for machine in machines or () if not machine.strip()]:
        raise ConfigurationError(f"machine {blank[0]!r} has no name; expected one of `pump-ml machines list`")
    asked: Json = {
        "machines": list(dict.fromkeys(machines or ())),
        "kinds": list(dict.fromkeys(kinds or catalog.MACHINE_MODELS)),
        "start": start,
        "end": end,
        "days": days,
        "least_share": least_share,
        "batch_s": batch_s,
        "plant": str(plant),
        "policy": policy,
        "seed": seed,
    }
    if not re.fullmatch(r"[\w./:+~-]{1,200}", run_key):
        raise ConfigurationError(
            f"run {run_key!r}: a name has up to 200 letters, digits and . / : + ~ - _; expected one without others"
        )
    if strange := [kind for kind in asked["kinds"] if kind not in catalog.MACHINE_MODELS]:
        raise UnknownNameError("kind of machine model", str(strange[0]), catalog.MACHINE_MODELS)
    if not 0.0 <= least_share <= 1.0:
        raise ConfigurationError(f"least_share = {least_share:g}; expected a share from 0 to 1")
    path = _folder(run_key) / "plan.json"
    if not files.exists(path):
        files.write_once(path, _settled(run_key, asked, url))
    settled = files.read_json(path)
    for name, value in asked.items():
        if settled["asked"][name] != value:
            raise ConfigurationError(
                f"run {run_key!r} was planned with {name} = {settled['asked'][name]!r}, not {value!r}; take another "
                "name for another run"
            )
    log.info("%d machines, %s, in %d batches", len(settled["rows"]), ", ".join(asked["kinds"]), len(settled["batches"]))
    return [{"number": number, "name": each["name"]} for number, each in enumerate(settled["batches"])]


@step
def train_batch(run_key: str, number: int, *, url: str | None = None, progress: Progress | None = None) -> Json:
    """Train and publish a batch's machines one after the other; one that fails keeps no other from it.

    A later try takes up those that were not trained, first the ones that no try came to; a machine at which a try died
    comes last, so that it costs no other its turn.

    Args:
        run_key: names the run.
        number: of the batch.
        url: SQLAlchemy's address of the telemetry; None takes that of the settings.
        progress: gets the share of the batch that is done.

    Returns:
        The ``name`` of the batch, and how many of its machines were ``trained``, have ``no_failures`` or ``too_few``
        readings.

    Raises:
        FleetError: some were not trained, each for a reason of its own, which another try would not change.
        Exception: what else came up, such as a lost connection, after the other machines were trained; or at once when
            it came up for one machine after the other. It is worth a retry.
    """
    from pump_ml import files
    from pump_ml.machines import fleet

    settled = _plan(run_key)
    batch, report = settled["batches"][number], progress or log_progress()
    machines, kind, name = batch["machines"], batch["kind"], batch["name"]
    places = {machine: _outcome(run_key, machine, kind) for machine in machines}
    written = set(files.names(_outcomes(run_key)))
    told = {machine: dict(files.read_json(place)) for machine, place in places.items() if place.name in written}
    todo = [each for each in machines if each not in told or told[each]["outcome"] == fleet.FAILED]
    strange: Exception | None = None  # the last one only, as each keeps its machine's readings in memory
    in_a_row = 0
    for turn, machine in enumerate(sorted(todo, key=lambda each: each in told)):
        begun, share = time.monotonic(), 1.0 - (len(todo) - turn) / len(machines)

        def watch(_: int, values: Mapping[str, float], share: float = share) -> None:
            report(name, share + float(values["progress"]) / len(machines))

        if machine not in told:
            files.write_json(places[machine], _failure(machine, kind, "a try died at it: look at the log of its task"))
        found, error = _attempt(settled, machine, kind, url, watch)
        told[machine] = _kept(places[machine], found | {"seconds": round(time.monotonic() - begun, 2)})
        report(name, share + 1.0 / len(machines))
        in_a_row = in_a_row + 1 if error else 0
        strange = error or strange
        if in_a_row >= STRANGE:
            break
    if strange:
        raise strange
    if failed := {each: told[each]["reason"] for each in machines if told[each]["outcome"] == fleet.FAILED}:
        raise FleetError(f"{len(failed)} of {len(machines)} failed, the others were trained: {_reasons(failed)}")
    none, few = (
        sum(each["outcome"] == which for each in told.values()) for which in (fleet.NO_FAILURES, fleet.TOO_FEW)
    )
    return {"name": name, "trained": len(machines) - none - few, "no_failures": none, "too_few": few}


@step
def roll_up(run_key: str) -> Json:
    """Count what became of a run's machines, and log a table of their scores.

    Args:
        run_key: names the run.

    Returns:
        What `pump_ml.machines.fleet.summary` returns, and ``run``; it is kept beside the outcomes.

    Raises:
        FleetError: the share that was trained is below the plan's `least_share`.
    """
    from pump_ml import files, scoreboard
    from pump_ml.machines import fleet

    outcomes = read_outcomes(run_key)
    found = {"run": run_key, **fleet.summary(outcomes)}
    files.write_json(_folder(run_key) / "summary.json", found)
    for line in scoreboard.machine_lines(outcomes):
        log.info("%s", line)
    least = _plan(run_key)["asked"]["least_share"]
    if found["share"] < least:
        reasons = {f"{each['machine']} {each['kind']}": each["reason"] for each in outcomes
                   if each["outcome"] == fleet.FAILED}  # fmt: skip
        raise FleetError(
            f"{fleet.told(found)}: a share of {found['share']:.3f}, expected {least:g} or more: {_reasons(reasons)}. "
            "Clear the failed tasks of the run, or train these machines again"
        )
    return found


@step
def read_outcomes(run_key: str) -> list[Json]:
    """What became of each machine and kind of a run, in the order of its plan; one that nobody came to has failed."""
    from pump_ml import files

    settled = _plan(run_key)
    written = set(files.names(_outcomes(run_key)))
    found: list[Json] = []
    for batch in settled["batches"]:
        for machine in batch["machines"]:
            path = _outcome(run_key, machine, batch["kind"])
            if path.name in written:
                found.append(files.read_json(path))
            else:
                reason = f"no try of the batch {batch['name']!r} came to it: look at the log of its task"
                found.append(_failure(machine, batch["kind"], reason))
    return found


def _attempt(
    settled: Mapping[str, Any], machine: str, kind: str, url: str | None, watch: "Watch"
) -> tuple[Json, Exception | None]:
    """The outcome of a machine, and the error where it is none of pump_ml's own."""
    try:
        return _train(settled, machine, kind, url, watch), None
    except Exception as error:  # noqa: BLE001 - whatever it is, the other machines are trained
        return _failed(settled, machine, kind, error)  # by a call: a name here would keep the machine's frames


def _failed(settled: Mapping[str, Any], machine: str, kind: str, error: Exception) -> tuple[Json, Exception | None]:
    from pump_ml.machines import fleet

    named = name_failure(error, f"{machine} {kind}") or error
    if isinstance(named, StorageFullError):  # the others would have no room either
        raise named from error
    ours = isinstance(named, PumpMLError)
    # Nobody asked for this machine by its name: one that stood still, or is new, is no fault of the night's run.
    if isinstance(named, EmptyPeriodError | TooFewReadingsError) and not settled["asked"]["machines"]:
        return {"machine": machine, "kind": kind, "outcome": fleet.TOO_FEW, "reason": str(named)}, None
    log.warning("%s %s failed: %s", machine, kind, named, exc_info=None if ours else named)
    return _failure(machine, kind, f"{type(named).__name__}: {named}"), None if ours else named


def _failure(machine: str, kind: str, reason: str) -> Json:
    """The outcome of a machine that was not trained."""
    from pump_ml.machines.fleet import FAILED

    return {"machine": machine, "kind": kind, "outcome": FAILED, "reason": reason}


def _kept(place: "UPath", found: Json) -> Json:
    """Write an outcome; a failure does not take the place of what another try has reached that was taken for dead."""
    from pump_ml import files
    from pump_ml.machines.fleet import FAILED

    if found["outcome"] == FAILED and files.exists(place) and (there := files.read_json(place))["outcome"] != FAILED:
        return dict(there)
    files.write_json(place, found)
    return found


def _train(settled: Mapping[str, Any], machine: str, kind: str, url: str | None, watch: "Watch") -> Json:
    from pump_ml.artifacts import safe_name
    from pump_ml.machines.policy import Policy
    from pump_ml.machines.training import ModelFactory
    from pump_ml.sources.plant import Plant
    from pump_ml.sources.sql import SqlSource

    plant = Plant.model_validate(settled["plant"])
    sides = [settled[side] and datetime.fromisoformat(settled[side]) for side in ("start", "end")]
    return (
        ModelFactory(
            kind,
            machine,
            cast("tuple[datetime | None, datetime | None]", tuple(sides)),
            run_key=f"{settled['run_key']}/{safe_name(machine)}-{kind}",
            source=SqlSource(machines=[machine], url=url, mapping=plant),
            plant=plant,
            policy=Policy.model_validate(settled["policy"]),
            seed=settled["asked"]["seed"],
        )
        .train(watch)
        .to_json()
    )


def _settled(run_key: str, asked: Mapping[str, Any], url: str | None) -> Json:
    """The plan: what was asked for, and what only the first try may look up."""
    from pump_ml.machines import fleet
    from pump_ml.machines.inspection import check_suite
    from pump_ml.machines.policy import load_policy
    from pump_ml.sources import sql
    from pump_ml.sources.plant import load_plant

    start, end = _period(asked["start"], asked["end"], asked["days"])
    policy, plant = load_policy(asked["policy"]), load_plant(asked["plant"])
    check_suite(plant, Settings.load().suites)  # one that cannot be used fails the run, not each machine
    rows = sql.counts(url, plant, machines=asked["machines"] or None, start=start, end=end)
    if not (rows or asked["machines"]):
        sides = f"from {start or 'its first'} to {end or 'its last'}"
        raise SourceError(
            f"no machine has a row {sides}; expected a period with telemetry: `pump-ml machines list` says which "
            "machines there are"
        )
    if nameless := [machine for machine in rows if not machine.strip()]:
        log.warning("%d rows have a machine without a name, and are left out", sum(rows[each] for each in nameless))
    rows = {machine: rows.get(machine, 0) for machine in asked["machines"] or rows if machine.strip()}
    batch_s = fleet.BATCH_S if asked["batch_s"] is None else asked["batch_s"]
    divided = fleet.batches(rows, asked["kinds"], policy, batch_s)
    return {
        "run_key": run_key,
        "asked": dict(asked),
        "start": start and start.isoformat(),
        "end": end and end.isoformat(),
        "policy": policy.model_dump(mode="json"),
        "plant": plant.model_dump(mode="json"),
        "rows": rows,
        "batches": [{"name": each.name, "kind": each.kind, "machines": list(each.machines)} for each in divided],
    }


def _period(start: str | None, end: str | None, days: float | None) -> tuple[datetime | None, datetime | None]:
    """When the readings begin and end, with zone."""
    first, last = _moment("start", start), _moment("end", end)
    if days is not None and first is None:
        if not days > 0.0:
            raise ConfigurationError(f"days = {days:g}; expected more than 0")
        last = last or datetime.now(UTC)
        try:
            first = last - timedelta(days=days)
        except OverflowError as error:
            raise ConfigurationError(f"days = {days:g}; expected a period that begins after the year 1") from error
    return first, last


def _moment(name: str, text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{name} of the period = {text!r}; expected a time in ISO 8601, such as 2026-01-31T00:00:00+00:00"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _plan(run_key: str) -> Json:
    from pump_ml import files

    path = _folder(run_key) / "plan.json"
    if not files.exists(path):
        raise ConfigurationError(
            f"run {run_key!r} has no plan; expected that `plan_machines` made one: look at its log"
        )
    return dict(files.read_json(path))


def _folder(run_key: str) -> "UPath":
    return Settings.load().data / "machines" / readable(run_key)


def _outcomes(run_key: str) -> "UPath":
    return _folder(run_key) / "outcomes"


def _outcome(run_key: str, machine: str, kind: str) -> "UPath":
    from pump_ml.artifacts import safe_name

    return _outcomes(run_key) / f"{safe_name(machine)}-{kind}.json"


def _reasons(reasons: Mapping[str, str]) -> str:
    more = f"; and {len(reasons) - TOLD} more" if len(reasons) > TOLD else ""
    return "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:TOLD]) + more
