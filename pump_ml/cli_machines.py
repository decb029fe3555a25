"""Motor pump sets in the field from a shell: their telemetry, and their models."""

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from pump_ml import steps
from pump_ml.errors import ConfigurationError
from pump_ml.settings import Settings

console = Console(stderr=True)
app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode="rich")

Url = Annotated[
    str | None,
    typer.Option(help="SQLAlchemy address of the database; unset, PUMP_ML_TELEMETRY_URL or var/telemetry.db."),
]


@app.command()
def simulate(
    machines: Annotated[int, typer.Option(help="How many machines.")] = 20,
    days: Annotated[float, typer.Option(help="How long each is watched.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Same seed, same rows.")] = 7,
    start: Annotated[datetime, typer.Option(help="Time of the first row, UTC.")] = datetime(2026, 1, 1),
    url: Url = None,
    csv: Annotated[Path | None, typer.Option(help="Also write NAME.csv for each machine into this folder.")] = None,
) -> None:
    """Write the telemetry of simulated motor pump sets into the table processed_data; prints their names.

    Machines that the table has already stay as they are; others of the same names are refused.

    Example: pump-ml machines simulate --machines 20 --days 30 --seed 7 --csv export
    """
    from pump_ml.connections import connect
    from pump_ml.sources import sql, telemetry_table
    from pump_ml.twin import sets

    made = sets.fleet(machines, seed)
    begin = start.replace(tzinfo=UTC) if start.tzinfo is None else start
    if not 0.0 < days <= sets.MOST_DAYS:
        raise ConfigurationError(f"days = {days}; expected above 0, up to {sets.MOST_DAYS:g}")
    engine = connect(url or Settings.load().telemetry, variable=sql.VARIABLE, make=True)
    telemetry_table.create(engine)
    with Progress(console=console) as bars:
        task = bars.add_task(f"{machines} machines", total=float(machines))
        for number, machine in enumerate(made):
            frame = sets.simulate(machine, begin, days, seed)
            telemetry_table.append(engine, frame, partial(_advance, bars, task, number))
            if csv is not None:
                telemetry_table.write_csv(csv, frame)
            bars.update(task, completed=number + 1.0)
            typer.echo(machine.name)


def _advance(bars: Progress, task: TaskID, done: int, share: float) -> None:
    bars.update(task, completed=done + 0.9 * share)


@app.command(name="list")
def list_machines(
    url: Url = None,
    mapping: Annotated[str, typer.Option(help="Name or path of the YAML that describes the table.")] = "processed_data",
) -> None:
    """Print the machines that a table has rows of.

    Example: pump-ml machines list --mapping my_plant.yaml
    """
    from pump_ml.sources.sql import machines

    for name in machines(url, mapping):
        typer.echo(name)


def train_machine(
    machine: Annotated[str, typer.Argument(help="As the plant names it; `pump-ml machines list` lists them.")],
    kind: Annotated[str, typer.Option(help="gru: health forecast; xgb: pre-failure alarm.")],
    start: Annotated[datetime | None, typer.Option("--from", help="Readings from then on, UTC; unset, all.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="Readings before then, UTC; unset, all.")] = None,
    plant: Annotated[str, typer.Option(help="Name or path of the YAML that describes the table.")] = "processed_data",
    policy: Annotated[str | None, typer.Option(help="YAML that says how models are made; unset, the shipped.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed and rows, same model.")] = 7,
    run: Annotated[str | None, typer.Option(help="Key of the training; the same again trains nothing anew.")] = None,
) -> None:
    """Train one machine's model, publish it, and make it the champion if it is better; prints what became of it.

    Example: pump-ml train-machine MP-001 --kind gru --from 2026-01-01 --to 2026-01-31
    """
    from pump_ml.machines.training import new_run_key

    key = run or f"cli/{new_run_key(machine, kind)}"
    with Progress(console=console) as bars:
        task = bars.add_task(f"{machine} {kind}", total=1.0)
        told = steps.train_machine(
            machine,
            kind,
            key,
            start=_utc(start),
            end=_utc(end),
            plant=plant,
            policy=policy,
            seed=seed,
            progress=lambda _, share: bars.update(task, completed=share),
        )
    typer.echo(json.dumps(told, indent=1))


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def reconcile(
    check: Annotated[
        Literal["nothing", "presence", "content"],
        typer.Option(help="What is held against each other afterwards; content reads every file."),
    ] = "content",
) -> None:
    """Finish machines' models whose publication died half way; report files, rows and versions that do not agree.

    Nothing is deleted. The exit code is 1 when something could not be finished, or does not agree.

    Example: pump-ml reconcile --check presence
    """
    report = steps.reconcile_machines(check)
    typer.echo(json.dumps(report, indent=1))
    if report["failed"] or not report.get("agree", True):
        raise typer.Exit(1)
