"""The models of single machines: how one is trained, and what keeps all of them in order."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pump_ml.errors import ModelFileError
from pump_ml.steps.common import Json, Progress, log, log_progress, step


@step
def reconcile_machines(check: Literal["nothing", "presence", "content"] = "content", *, strict: bool = False) -> Json:
    """Finish the publications of machines' models that died half way, and report what does not agree.

    Args:
        check: what is held against each other afterwards: ``nothing``; the ``presence`` of files, rows and versions; or
            the files' ``content`` too, for which each of them is read.
        strict: raise where one could not be finished, after all were tried.

    Returns:
        What `pump_ml.machines.reconciling.reconcile` returns.

    Raises:
        ModelFileError: one could not be finished, and `strict`.
    """
    from pump_ml.machines.reconciling import reconcile

    report = reconcile(check=check)
    if strict and report["failed"]:
        raise ModelFileError(
            "; ".join(f"{slot}: {told}" for slot, told in report["failed"].items())
            + ". Nothing of these is lost; a damaged bundle in the outbox keeps its machine waiting until it is mended"
        )
    if report.get("agree") is False:
        log.warning("files, rows and versions of the machines' models do not agree: %s", report)
    return report


@step
def train_machine(
    machine: str,
    kind: str,
    run_key: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    plant: str = "processed_data",
    policy: str | None = None,
    seed: int = 7,
    url: str | None = None,
    progress: Progress | None = None,
) -> Json:
    """Train one machine's model of one kind and publish it.

    Args:
        machine: as the plant names it.
        kind: of `pump_ml.catalog.MACHINE_MODELS`.
        run_key: what asks for it; a retry has the same one, and trains nothing that is published.
        start: of the readings, with zone; None for all there are.
        end: of the readings, likewise.
        plant: name or path of the YAML that describes the table.
        policy: path of a YAML that says how models are made; None takes the shipped one.
        seed: of all that is random.
        url: SQLAlchemy's address of the telemetry; None takes that of the settings.
        progress: called with what is being done.

    Returns:
        What `pump_ml.machines.training.Outcome.to_json` returns.
    """
    from pump_ml.machines.policy import load_policy
    from pump_ml.machines.training import ModelFactory
    from pump_ml.sources.sql import SqlSource

    told = progress or log_progress()

    def watch(number: int, values: Mapping[str, float]) -> None:
        del number
        told(f"{machine} {kind}", float(values["progress"]))

    factory = ModelFactory(
        kind,
        machine,
        (start, end),
        run_key=run_key,
        source=SqlSource(machines=[machine], url=url, mapping=plant),
        plant=plant,
        policy=load_policy(policy),
        seed=seed,
    )
    return factory.train(watch).to_json()
