"""Motor pump sets in the field from a shell: their telemetry, and their models."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pump_ml import steps
from pump_ml.cli_options import From, Kinds, LeastShare, MachinePolicy, MachineSeed, Period, Plant, To
from pump_ml.errors import ConfigurationError, FleetError
from pump_ml.settings import Settings

console = Console(stderr=True)
ONE_BATCH_S = 1e9
"""All machines of a kind are one batch in one process: nothing is started anew."""
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
    skip_present: Annotated[
        bool,
        typer.Option(
            "--skip-present",
            help="Simulate none again that the table has for this period, of whatever seed; not with --csv.",
        ),
    ] = False,
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
    if skip_present and csv is not None:
        raise ConfigurationError(
            "--skip-present leaves machines out, and --csv writes all of them; drop one of the two"
        )
    engine = connect(url or Settings.load().telemetry, variable=sql.VARIABLE, make=True)
    telemetry_table.create(engine)
    with Progress(console=console) as bars:
        task = bars.add_task(f"{machines} machines", total=float(machines))
        present = telemetry_table.spans(engine) if skip_present else {}
        for number, machine in enumerate(made):
            if _covers(present.get(machine.name), begin, days):
                bars.update(task, completed=number + 1.0)
                typer.echo(machine.name)
                continue
            frame = sets.simulate(machine, begin, days, seed)
            telemetry_table.append(engine, frame, partial(_advance, bars, task, number))
            if csv is not None:
                telemetry_table.write_csv(csv, frame)
            bars.update(task, completed=number + 1.0)
            typer.echo(machine.name)


def _covers(span: tuple[datetime, datetime] | None, begin: datetime, days: float) -> bool:
    """Whether readings that are there span a simulation: rows at its ends may lack, or have a clock that is wrong."""
    hour = timedelta(hours=1)
    return span is not None and span[0] <= begin + hour and span[1] >= begin + timedelta(days=days) - hour


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
    start: From = None,
    end: To = None,
    plant: Plant = "processed_data",
    policy: MachinePolicy = None,
    seed: MachineSeed = 7,
    run: Annotated[str | None, typer.Option(help="Key of the training; the same again trains nothing anew.")] = None,
    url: Url = None,
) -> None:
    """Train one machine's model, publish it, and make it the champion if it is better; prints what became of it.

    Example: pump-ml train-machine MP-001 --kind gru --from 2026-01-01 --to 2026-01-31
    """
    from pump_ml.machines.training import new_run_key

    key = run or f"cli/{new_run_key(machine, kind)}"
    with Progress(console=console) as bars:
        task = bars.add_task(escape(f"{machine} {kind}"), total=1.0)
        told = steps.train_machine(
            machine,
            kind,
            key,
            start=_utc(start),
            end=_utc(end),
            plant=plant,
            policy=policy,
            seed=seed,
            url=url,
            progress=lambda _, share: bars.update(task, completed=share),
        )
    typer.echo(json.dumps(told, indent=1))


def train_machines(
    machine: Annotated[list[str] | None, typer.Argument(help="As the plant names them; none, all.")] = None,
    kind: Kinds = None,
    start: From = None,
    end: To = None,
    days: Period = None,
    least_share: LeastShare = 0.9,
    plant: Plant = "processed_data",
    policy: MachinePolicy = None,
    seed: MachineSeed = 7,
    run: Annotated[str | None, typer.Option(help="Name of the run; a known one is taken up again.")] = None,
    url: Url = None,
) -> None:
    """Train the models of many machines in this process, as the DAG machines does in batches; prints their scores.

    A machine that fails fails alone. The exit code is 1 when fewer were trained than --least-share.

    Example: pump-ml train-machines MP-001 MP-002 --kind xgb --from 2026-01-01 --to 2026-01-31
    """
    from pump_ml import scoreboard

    key = run or f"cli/{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    batches = steps.plan_machines(
        key,
        machines=machine,
        kinds=kind,
        start=_text(start),
        end=_text(end),
        days=days,
        least_share=least_share,
        batch_s=ONE_BATCH_S,
        plant=plant,
        policy=policy,
        seed=seed,
        url=url,
    )
    console.print(f"run {key}; --run with this name goes on with it", highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as bars:
        for batch in batches:
            task = bars.add_task(escape(batch["name"]), total=1.0)
            _train_batch(
                key,
                batch["number"],
                url,
                lambda _, share, task=task: bars.update(task, completed=share),  # type: ignore[misc]
            )
    scoreboard.show_machines(steps.read_outcomes(key))
    steps.roll_up(key)


def _train_batch(key: str, number: int, url: str | None, progress: Callable[[str, float], None]) -> None:
    """Train a batch; an odd error ends a try, and the machines behind it get theirs as long as some are left."""
    reached = -1
    while reached < (now := _came_to(key)):
        reached = now
        try:
            steps.train_batch(key, number, url=url, progress=progress)
        except FleetError:  # the tables have the reasons
            return
        except Exception as error:  # noqa: BLE001 - the other machines are trained all the same
            console.print(f"{type(error).__name__}: {error}", highlight=False, markup=False, soft_wrap=True)
        else:
            return


def _came_to(key: str) -> int:
    """How many machines of a run some try has brought to an end."""
    return sum("seconds" in each for each in steps.read_outcomes(key))


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time is not None else None


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
