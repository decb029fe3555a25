"""The local Airflow and MLflow that `make run` and `make ui` start."""

from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer

from pump_ml import catalog, steps
from pump_ml.cli_options import (
    DataPath,
    Dataset,
    Days,
    Families,
    From,
    Hyper,
    Kinds,
    LeastShare,
    MachinePolicy,
    MachineSeed,
    Mapping,
    OwnProblem,
    Period,
    Plant,
    Preset,
    Pumps,
    Samples,
    Seed,
    Shards,
    Source,
    To,
    Trials,
    Waveforms,
    check_source,
    parse_hyper,
    simulated_options,
)

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.command()
def run(
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
) -> None:
    """Do all of it in Airflow: start the components, run both DAGs, show the scoreboard, stop what was started.

    Example: pump-ml local run --preset quick --pumps 140
    """
    from pump_ml.local.commands import run as run_in_airflow
    from pump_ml.scoreboard import show

    problem = problem or catalog.DATASETS.get(dataset, "diagnosis")
    values = parse_hyper(hyper)
    steps.check_names(problem, family, preset, values, trials)
    simulated = simulated_options(dataset, pumps, samples, days, waveforms_h, shards, seed)
    check_source(source, simulated, mapping, path)
    where = {"mapping": mapping, "path": path and str(Path(path).resolve())}
    data = {"source": source, **simulated, "problem": problem, "publish": False, **where}
    learning = {"families": family, "preset": preset, "hyper": values, "trials": trials}
    show(run_in_airflow(data, {"problem": problem, "seed": seed, **learning}))


@app.command()
def machines(
    machine: Annotated[list[str] | None, typer.Argument(help="As the plant names them; none, all.")] = None,
    kind: Kinds = None,
    start: From = None,
    end: To = None,
    days: Period = None,
    least_share: LeastShare = 0.9,
    plant: Plant = "processed_data",
    policy: MachinePolicy = None,
    seed: MachineSeed = 7,
) -> None:
    """Train the models of many machines in Airflow: start the components, run the DAG machines, show the scores, stop.

    Example: pump-ml local machines MP-001 MP-002 --kind xgb --from 2026-01-01 --to 2026-01-31
    """
    from pump_ml.local.commands import run_machines
    from pump_ml.scoreboard import show_machines

    period = {"from": start, "to": end}
    conf = {
        **{name: time and time.replace(tzinfo=time.tzinfo or UTC).isoformat() for name, time in period.items()},
        "machines": machine,
        "kinds": kind,
        "days": days,
        "least_share": least_share,
        "plant": plant,
        "policy": policy and str(Path(policy).resolve()),
        "seed": seed,
    }
    show_machines(steps.read_outcomes(run_machines(conf)["run"]))


@app.command()
def ui() -> None:
    """Keep Airflow and MLflow up on this machine, and print their addresses and the login.

    Example: pump-ml local ui
    """
    from pump_ml.local.commands import ui as keep_up

    keep_up()


@app.command()
def stop() -> None:
    """End every process of the local stack.

    Example: pump-ml local stop
    """
    from pump_ml.local.commands import stop as end

    end()


@app.command()
def status() -> None:
    """Say what of the local stack is up.

    Example: pump-ml local status
    """
    from pump_ml.local.commands import status as look

    look()
