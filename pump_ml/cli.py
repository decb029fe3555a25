"""Every step without Airflow, and the local Airflow stack. The steps are the ones that the DAGs call."""

import json
import logging
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pump_ml import catalog, cli_compose, cli_local, cli_machines, cli_twin, steps
from pump_ml.cli_options import (
    DataPath,
    Dataset,
    Days,
    Families,
    Hyper,
    Mapping,
    OwnProblem,
    Preset,
    Pumps,
    RunKey,
    Samples,
    Seed,
    Shards,
    Source,
    Trials,
    Waveforms,
    check_source,
    parse_hyper,
    simulated_options,
)
from pump_ml.errors import ConfigurationError, DataError, PumpMLError

console = Console(stderr=True)
app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.add_typer(cli_local.app, name="local")
app.add_typer(cli_twin.app, name="twin")
app.add_typer(cli_machines.app, name="machines")
app.command(name="train-machine")(cli_machines.train_machine)
app.command(name="train-machines")(cli_machines.train_machines)
app.command()(cli_machines.reconcile)
for command in (cli_compose.init, cli_compose.backup, cli_compose.restore):
    app.command()(command)


@app.command()
def dataset(
    source: Source = "simulated",
    dataset: Dataset = "v2",
    pumps: Pumps = None,
    samples: Samples = None,
    days: Days = None,
    waveforms_h: Waveforms = None,
    shards: Shards = None,
    seed: Seed = 7,
    mapping: Mapping = None,
    path: DataPath = None,
) -> None:
    """Fetch readings, validate them, store a snapshot; prints its key.

    Example: pump-ml dataset --dataset v3 --pumps 28 --days 90 --shards 4

    Example: pump-ml dataset --source files --mapping cmapss_fd001 --path cmapss_FD001.tar.gz
    """
    _show(_dataset(source, simulated_options(dataset, pumps, samples, days, waveforms_h, shards, seed), mapping, path))


@app.command()
def train(
    snapshot: Annotated[str, typer.Option(help="Key that `pump-ml dataset` printed.")],
    problem: OwnProblem = None,
    family: Families = None,
    preset: Preset = "standard",
    seed: Seed = 7,
    hyper: Hyper = None,
    trials: Trials = 0,
    run: RunKey = None,
) -> None:
    """Train families on a snapshot behind the baseline's gate; prints the candidates.

    Example: pump-ml train --snapshot v2-1a2b3c --family xgb --family cnn1d --set xgb.depth=6 --set cnn1d.epochs=20
    """
    values = parse_hyper(hyper)
    problem = problem or steps.own_problem(snapshot)
    run = run or _new_run()
    with _closing(run):
        trained = _train(snapshot, problem, family, preset, seed, values, trials, run)
    steps.close(run, "FINISHED")
    _show(trained)


@app.command()
def tune(
    snapshot: Annotated[str, typer.Option(help="Key that `pump-ml dataset` printed.")],
    problem: OwnProblem = None,
    family: Families = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials of each family but the baseline.")] = 20,
    timeout_minutes: Annotated[
        float | None, typer.Option(min=0.0, help="No trial of a family is started after it; unset, no limit.")
    ] = None,
    preset: Preset = "standard",
    seed: Seed = 7,
    hyper: Hyper = None,
    run: RunKey = None,
) -> None:
    """Tune families on the validation assets behind the baseline's gate; prints the best hyper-parameters.

    Run again with the same --run it goes on. `pump-ml train` with the same --run and options, --trials as well but not
    --timeout-minutes, trains with the best.

    Example: pump-ml tune --snapshot v2-1a2b3c --family xgb --trials 20 --timeout-minutes 30
    """
    values = parse_hyper(hyper)
    problem = problem or steps.own_problem(snapshot)
    run = run or _new_run()
    with _closing(run):
        plan = steps.plan(
            snapshot, problem, run, families=family, preset=preset, seed=seed, hyper=values, trials=trials
        )
        if not plan["others"]:
            console.print("nothing is tuned: the baseline is what the others are measured by; name another --family")
        with _bars() as progress:
            steps.gate(plan, steps.train(plan, "baseline", progress=progress))
            tuned = [
                steps.tune(plan, each, progress=progress, timeout_minutes=timeout_minutes) for each in plan["others"]
            ]
    steps.close(run, "FINISHED")
    _show({"run": run, "tuned": tuned})


@app.command()
def evaluate(run: Annotated[str, typer.Option(help="Training run that `pump-ml train` printed.")]) -> None:
    """Judge a training run's models on the test assets, crown the best, and show the scoreboard.

    Example: pump-ml evaluate --run cli/20261122-101500-3f
    """
    with _closing(run):
        report = _evaluate(run)
    _scoreboard(report)


@app.command(name="run")
def run_all(
    source: Source = "simulated",
    dataset: Dataset = "v2",
    pumps: Pumps = None,
    samples: Samples = None,
    days: Days = None,
    waveforms_h: Waveforms = None,
    shards: Shards = None,
    mapping: Mapping = None,
    path: DataPath = None,
    problem: OwnProblem = None,
    family: Families = None,
    preset: Preset = "standard",
    seed: Seed = 7,
    hyper: Hyper = None,
    trials: Trials = 0,
    run: RunKey = None,
) -> None:
    """Do all of it without Airflow: dataset, training, evaluation, promotion.

    Example: pump-ml run --source files --mapping cmapss_fd001 --path cmapss_FD001.tar.gz --problem rul
    """
    problem = problem or catalog.DATASETS.get(dataset, "diagnosis")
    values = parse_hyper(hyper)
    steps.check_names(problem, family, preset, values, trials)
    made = _dataset(source, simulated_options(dataset, pumps, samples, days, waveforms_h, shards, seed), mapping, path)
    run = run or _new_run()
    with _closing(run):
        _train(made["snapshot"], problem, family, preset, seed, values, trials, run)
        report = _evaluate(run)
    _scoreboard(report)


@app.command()
def predict(
    model: Annotated[str, typer.Option(help="Registered model, such as pump-diagnosis.")],
    readings: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Parquet file of raw readings.")
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option(help="In place of --readings, a key that `pump-ml dataset` printed: with its waveforms."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version number, or an alias.")] = "champion",
    explain: Annotated[
        bool, typer.Option("--explain", help="Print why: a row for each of the three sensors that mattered most.")
    ] = False,
) -> None:
    """Answer raw readings, of a file or of a snapshot, with a registered model; prints CSV.

    Example: pump-ml predict --model pump-diagnosis --snapshot v2-1a2b3c --explain

    Example: pump-ml predict --model pump-diagnosis --readings readings.parquet --version 3
    """
    import pandas as pd

    from pump_ml import explanation, registry
    from pump_ml.work import readings_for

    if (readings is None) == (snapshot is None):
        raise ConfigurationError(
            f"{'both' if readings else 'neither'} of --readings and --snapshot given; expected one of them: a Parquet "
            "file, or the key that `pump-ml dataset` printed"
        )
    registry.connect()
    loaded = registry.load_model(model, version)
    predictor = registry.predictor_of(loaded)
    if snapshot is not None:
        frame = readings_for(predictor, snapshot)
    elif readings is not None:
        try:
            frame = pd.read_parquet(readings)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{readings} is no Parquet file; `pump-ml dataset --source files` makes one of CSV or text: {error}"
            ) from error
    if missing := [column for column in predictor.columns if column not in frame]:
        asked = readings or f"snapshot {snapshot!r}"
        raise DataError(f"{asked} lacks {', '.join(missing)}; {model} needs {', '.join(predictor.columns)}")
    # MLflow takes no whole numbers where the signature says double.
    frame = frame[list(predictor.columns)].astype({name: float for name in predictor.sensors if name in frame})
    answers = explanation.explain(predictor, frame) if explain else loaded.predict(frame)
    answers.to_csv(sys.stdout, index=False)


@app.command()
def benchmark(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(catalog.BENCHMARKS)}.")],
    seed: Annotated[list[int] | None, typer.Option("--seed", "--seeds", help="Repeat it for more.")] = None,
    family: Annotated[
        list[str] | None, typer.Option("--family", help="Repeat it for more; unset, all that fit.")
    ] = None,
    path: DataPath = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for NAME.json; the page is FOLDER.md. Unset, docs/benchmarks.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"One of {', '.join(catalog.PRESETS)}.")] = None,
    pumps: Pumps = None,
    samples: Samples = None,
    days: Days = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do again what an earlier try finished.")] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Keep the scores in MLflow, experiment benchmarks.")] = False,
) -> None:
    """Run a fixed protocol and write its scores; a second call goes on where the first was interrupted.

    Seeds, families, preset, pumps, samples and days are the protocol's; to try others, say where to with --out.

    Example: pump-ml benchmark fd001 --path cmapss_FD001.tar.gz --seed 7 --preset quick --out scratch
    """
    from pump_ml import protocols

    protocol = protocols.load_protocol(name)
    sizes = {key: value for key, value in (("pumps", pumps), ("samples", samples), ("days", days)) if value is not None}
    options = {**protocol.options, **sizes} if sizes else None
    asked = protocol.changed(options=options, seeds=seed or None, families=family or None, preset=preset)
    if out is None and asked != protocol:
        changed = ", ".join(key for key, value in asked if value != getattr(protocol, key))
        raise ConfigurationError(
            f"benchmark {name!r} was asked for with other {changed} than its protocol's, so its scores cannot stand in "
            "docs/benchmarks; give another folder: --out FOLDER"
        )
    from pump_ml import benchmark as benchmarks
    from pump_ml.scoreboard import show_tables

    with _bars() as progress:
        document = benchmarks.run(name, asked, progress, path=path, fresh=fresh)
    show_tables(document)
    written = benchmarks.write(document, out or Path("docs/benchmarks"))
    if mlflow:
        benchmarks.log(document, written)
    typer.echo(written)


def _dataset(source: str, simulated: dict[str, Any], mapping: str | None, path: str | None) -> dict[str, Any]:
    check_source(source, simulated, mapping, path)
    options = simulated
    if source != "simulated":
        options = {name: value for name, value in (("mapping", mapping), ("path", path)) if value is not None}
    with _bars() as progress:
        fetched = steps.fetch(source, options, progress=progress)
        progress("validate", 0.0)
        validated = steps.validate(fetched["raw"])
        progress("validate", 1.0)
        return steps.snapshot(validated)


def _new_run() -> str:
    return f"cli/{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@contextmanager
def _closing(run: str) -> Iterator[None]:
    """Leave no run open in MLflow when the block is left by an error or by Ctrl-C."""
    try:
        yield
    except BaseException:
        steps.close(run)
        raise


def _train(
    snapshot: str,
    problem: str,
    families: list[str] | None,
    preset: str,
    seed: int,
    hyper: dict[str, dict[str, Any]],
    trials: int,
    run: str,
) -> dict[str, Any]:
    plan = steps.plan(snapshot, problem, run, families=families, preset=preset, seed=seed, hyper=hyper, trials=trials)
    with _bars() as progress:
        candidates = [steps.train(plan, "baseline", progress=progress)]
        steps.gate(plan, candidates[0])
        for family in plan["others"]:
            steps.tune(plan, family, progress=progress)
            candidates.append(steps.train(plan, family, progress=progress))
    return {"run": run, "candidates": candidates}


def _evaluate(run: str) -> dict[str, Any]:
    plan = steps.read_plan(run)
    with _bars() as progress:
        evaluation = steps.evaluate(plan, steps.read_candidates(plan), progress)
    return steps.report(plan, evaluation, steps.promote(plan, evaluation))


@contextmanager
def _bars() -> Iterator[steps.Progress]:
    """Progress bars on standard error, one for each kind of work."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=1.0)
            bars.update(tasks[what], completed=share)

        yield report


def _show(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=1))


def _scoreboard(report: dict[str, Any]) -> None:
    from pump_ml.scoreboard import show

    show(report)


def main() -> None:
    """Entry of the console script: an error that pump_ml raises on purpose is one message and exit code 1."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    try:
        app()
    except PumpMLError as error:
        console.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
