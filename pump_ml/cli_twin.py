"""The digital twin from a shell: generate, stream, plot, limit."""

import json
import multiprocessing
import os
import secrets
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from upath import UPath

from pump_ml import catalog
from pump_ml.errors import ConfigurationError

console = Console(stderr=True)
app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode="rich")

Dataset = Annotated[str, typer.Option(help="v2: samples at separated severity levels. v3: whole lives.")]
Preset = Annotated[str, typer.Option(help=f"One of {', '.join(catalog.FLEETS)}; single options go before it.")]
Pumps = Annotated[int | None, typer.Option(help="How many pumps.")]
Seed = Annotated[int, typer.Option(help="Same seed, same bytes.")]
Sheet = Annotated[list[str], typer.Option(help="Pump type of all pumps: a shipped name or a YAML; repeat for more.")]
WaveformsH = Annotated[
    float | None, typer.Option(help="v3: hours between two waveforms; v2: above 0, one a sample. 0 for none.")
]


@app.command()
def generate(
    out: Annotated[Path, typer.Option(help="Folder to fill; what is complete in it stays as it is.")],
    dataset: Dataset = "v2",
    preset: Preset = "small",
    pumps: Pumps = None,
    seed: Seed = 7,
    days: Annotated[float | None, typer.Option(help="v3: how long each pump is watched.")] = None,
    step_minutes: Annotated[float | None, typer.Option(help="v3: from one reading to the next.")] = None,
    waveforms_h: WaveformsH = None,
    sheet: Sheet = [],  # noqa: B006 - typer copies it
    shards: Annotated[int | None, typer.Option(help="Files to divide the readings into; unset, one a process.")] = None,
    processes: Annotated[int, typer.Option(help="How many work at once.")] = 1,
    csv: Annotated[bool, typer.Option(help="Also write sensors_log_v2.csv or sensors_log_v3.csv.")] = False,
) -> None:
    """Make a fleet's readings and waveforms as files; prints the hash of their columns.

    Example: pump-ml twin generate --dataset v3 --preset standard --processes 4 --csv --out fleet
    """
    from pump_ml import generation

    given = {"pumps": pumps, "days": days, "step_minutes": step_minutes, "waveforms_h": waveforms_h}
    fleet = generation.plan(dataset, preset, seed=seed, sheets=sheet, **given)
    if not 1 <= processes <= 256:
        raise ConfigurationError(f"processes = {processes}; expected 1 to 256")
    number = shards if shards is not None else min(processes, fleet.pumps)
    generation.pumps_of(fleet, 0, number)
    folder = UPath(out)
    generation.claim(folder, fleet, number)
    with Progress(console=console) as bars:
        task = bars.add_task(f"{fleet.pumps} pumps", total=float(fleet.pumps))
        if processes == 1:
            for shard in range(number):
                size = len(generation.pumps_of(fleet, shard, number))
                begun = bars.tasks[0].completed
                report = partial(_advance, bars, task, begun, size)
                generation.write_shard(folder, fleet, shard, number, report)
                report(1.0)
        else:
            context = multiprocessing.get_context("forkserver")
            with ProcessPoolExecutor(min(processes, number), mp_context=context) as pool:
                waiting = {
                    pool.submit(generation.write_shard, folder, fleet, shard, number): shard for shard in range(number)
                }
                for done in as_completed(waiting):
                    done.result()
                    bars.advance(task, len(generation.pumps_of(fleet, waiting[done], number)))
    typer.echo(json.dumps(generation.finish(folder, fleet, number, csv=csv), indent=1))


def _advance(bars: Progress, task: TaskID, begun: float, size: int, share: float) -> None:
    bars.update(task, completed=begun + share * size)


@app.command()
def stream(
    rate: Annotated[float, typer.Option(help="Rows a second, of all pumps together.")] = 10.0,
    to: Annotated[
        str, typer.Option(help="- for standard output, a folder for a CSV log that rolls, or http://….")
    ] = "-",
    pumps: Annotated[int, typer.Option(help="How many pumps.")] = 10,
    seed: Seed = 7,
    days: Annotated[float, typer.Option(help="How long each pump is watched.")] = 365.0,
    step_minutes: Annotated[float, typer.Option(help="From one reading to the next, in the pumps' own time.")] = 60.0,
    waveforms_h: Annotated[
        float, typer.Option(help="Hours of the pumps' time between two waveforms; 0 for none.")
    ] = 0.0,
    seconds: Annotated[float | None, typer.Option(help="End after so long.")] = None,
    rows: Annotated[int | None, typer.Option(help="End after so many rows.")] = None,
    roll_rows: Annotated[int, typer.Option(help="Rows of a CSV file.")] = 100_000,
    sheet: Sheet = [],  # noqa: B006 - typer copies it
) -> None:
    """Play a fleet's lives, row by row; SIGTERM or Ctrl-C ends it once everything made is delivered.

    Example: pump-ml twin stream --rate 500 --pumps 40 --to http://127.0.0.1:8080/rows
    """
    from pump_ml import generation, streaming

    fleet = generation.plan(
        "v3",
        "small",
        seed=seed,
        sheets=sheet,
        pumps=pumps,
        days=days,
        step_minutes=step_minutes,
        waveforms_h=waveforms_h,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sink: streaming.Sink
    if to == "-":
        sink = streaming.Lines()
    elif "://" in to:
        sink = streaming.Http(to, f"{os.getpid()}-{secrets.token_hex(4)}")
    else:
        sink = streaming.RollingCsv(Path(to), "v3", roll_rows)
    told = streaming.run(streaming.play(fleet), sink, rate=rate, stop=stop, most=rows, seconds=seconds)
    console.print(
        f"{told.delivered} rows of {len(told.last)} pumps delivered in {told.seconds:.1f} s, "
        f"{told.delivered / max(told.seconds, 1e-9):.1f} a second; none is waiting",
        highlight=False,
    )


@app.command()
def plot(
    out: Annotated[Path, typer.Option(help="PNG to write.")],
    pump: Annotated[int, typer.Option(help="Number of the pump in its fleet.")] = 0,
    seed: Seed = 7,
    days: Annotated[float, typer.Option(help="How long it is watched.")] = 365.0,
    sheet: Sheet = [],  # noqa: B006 - typer copies it
) -> None:
    """Draw a pump's life: operating points on its curve, damage, sensors, spectra.

    Example: pump-ml twin plot --pump 3 --out pump-3.png
    """
    from pump_ml import generation, twin_figures

    if pump < 0:
        raise ConfigurationError(f"pump = {pump}; expected 0 or more")
    fleet = generation.plan("v3", "small", seed=seed, sheets=sheet, pumps=pump + 1, days=days, waveforms_h=24.0)
    out.parent.mkdir(parents=True, exist_ok=True)
    twin_figures.life(fleet, pump).savefig(out, dpi=110)
    typer.echo(out)


@app.command()
def limit(
    dataset: Dataset = "v2",
    preset: Preset = "standard",
    pumps: Annotated[int, typer.Option(help="How many pumps it is estimated from.")] = 112,
    seed: Seed = 7,
) -> None:
    """Estimate the best score that anyone can reach on each target, from the twin's own state.

    Targets are for who sees a window of 60 readings and the commissioning record; what is for who knows more says
    what in "given". v3 takes about two seconds a pump.

    Example: pump-ml twin limit --dataset v3 --pumps 56
    """
    from pump_ml import generation
    from pump_ml.twin import limit as limits

    fleet = generation.plan(dataset, preset, seed=seed, pumps=pumps)
    with Progress(console=console) as bars:
        task = bars.add_task(f"{fleet.pumps} pumps", total=1.0)
        found = limits.estimate(fleet, progress=lambda share: bars.update(task, completed=share))
    typer.echo(json.dumps(found, indent=1))
