"""Options that several commands share, and what they mean together."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pump_ml import catalog, steps
from pump_ml.errors import ConfigurationError, UnknownNameError
from pump_ml.settings import Settings

SOURCES = ("simulated", "files")
"""Sources of whole fleets. Telemetry of machines in a SQL table has sensors that not every machine has, and gaps: rows
that a fleet's suite would refuse. It is read for a machine at a time."""
Source = Annotated[str, typer.Option(help=f"One of {', '.join(SOURCES)}.")]
Dataset = Annotated[str, typer.Option(help="Simulated. v2: samples at separated severity levels. v3: whole lives.")]
Pumps = Annotated[int | None, typer.Option(help="Simulated pumps; unset, 560 in v2 and 140 in v3.")]
Samples = Annotated[int | None, typer.Option(help="v2: simulated one-hour samples a pump; unset, 12.")]
Days = Annotated[float | None, typer.Option(help="v3: how long each pump is watched; unset, 365.")]
Waveforms = Annotated[
    float | None,
    typer.Option(
        "--waveforms-h", help="Simulated vibration waveforms: v2, above 0 one a sample; v3, hours between two."
    ),
]
Shards = Annotated[int | None, typer.Option(help="Parts that the simulated rows are made in; they change no row.")]
Seed = Annotated[int, typer.Option(help="Same seed: same rows, same split, same trees.")]
MachineSeed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed and rows, same models.")]
Mapping = Annotated[str | None, typer.Option(help="Files: name or path of the YAML that describes them.")]
DataPath = Annotated[str | None, typer.Option("--path", help="Files: folder, file or archive.")]
OwnProblem = Annotated[
    str | None,
    typer.Option(
        "--problem",
        help=f"{', '.join(catalog.PROBLEMS)}, or a YAML; unset, the dataset's own: lives for v3, else diagnosis.",
    ),
]
Preset = Annotated[str, typer.Option(help=f"One of {', '.join(catalog.PRESETS)}: how long they learn.")]
Families = Annotated[
    list[str] | None,
    typer.Option(
        "--family", help=f"Of {', '.join(catalog.FAMILIES)}; repeat it for more; unset, all that fit the data."
    ),
]
Hyper = Annotated[
    list[str] | None,
    typer.Option("--set", help="FAMILY.NAME=VALUE, a hyper-parameter such as xgb.depth=6; repeat it for more."),
]
Trials = Annotated[int, typer.Option(help="Trials that tune each family but the baseline; 0 for no tuning.")]
RunKey = Annotated[str | None, typer.Option("--run", help="Name of the training run; a known one is taken up again.")]

Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", help=f"Of {', '.join(catalog.MACHINE_MODELS)}; repeat it for more; unset, all."),
]
From = Annotated[datetime | None, typer.Option("--from", help="Readings from then on, UTC.")]
To = Annotated[datetime | None, typer.Option("--to", help="Readings before then, UTC.")]
Period = Annotated[float | None, typer.Option("--days", help="In place of --from: so long before --to, or before now.")]
LeastShare = Annotated[float, typer.Option(help="Trained, of those that could be; below it the run fails.")]
Plant = Annotated[str, typer.Option(help="Name or path of the YAML that describes the table.")]
MachinePolicy = Annotated[str | None, typer.Option(help="YAML that says how models are made; unset, the shipped.")]

StackFolder = Annotated[Path, typer.Option("--folder", help="Where docker-compose.yaml is; unset, here.")]


def simulated_options(
    dataset: str,
    pumps: int | None,
    samples: int | None,
    days: float | None,
    waveforms_h: float | None,
    shards: int | None,
    seed: int,
) -> dict[str, Any]:
    """Options of the source ``simulated``, and Params of the DAG ``dataset``; what is unset is theirs to say."""
    asked = {
        "dataset": dataset, "pumps": pumps, "samples": samples, "days": days, "waveforms_h": waveforms_h,
        "shards": shards, "seed": seed,
    }  # fmt: skip
    return {name: value for name, value in asked.items() if value is not None}


def check_source(source: str, simulated: dict[str, Any], mapping: str | None, path: str | None) -> None:
    """Raise ConfigurationError for options that cannot be meant, before anything is started for them."""
    Settings.load()
    if source not in SOURCES:
        raise UnknownNameError("source of a fleet", source, SOURCES)
    if source == "simulated":
        if mapping or path:
            raise ConfigurationError("--mapping and --path describe files; say --source files with them")
        steps.plan_shards(source, simulated)
    if source == "files" and mapping and path:
        from pump_ml.sources.mapping import load_mapping

        load_mapping(mapping)
        if not Path(path).exists():
            raise ConfigurationError(f"--path {path} does not exist; give a folder, a file or a tar archive")


def parse_hyper(words: list[str] | None) -> dict[str, dict[str, Any]]:
    """What ``--set`` says: family -> name -> value; steps check it.

    Raises:
        ConfigurationError: a word is not of the form FAMILY.NAME=VALUE.
    """
    values: dict[str, dict[str, Any]] = {}
    for word in words or ():
        named = re.fullmatch(r"([^.=]+)\.([^.=]+)=(.+)", word)
        if named is None:
            raise ConfigurationError(f"--set {word}; expected FAMILY.NAME=VALUE, such as xgb.depth=6")
        family, name, value = named.groups()
        try:
            values.setdefault(family, {})[name] = json.loads(value)
        except json.JSONDecodeError:
            values.setdefault(family, {})[name] = value
    return values
