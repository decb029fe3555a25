"""A machine's readings against the Great Expectations suite of its plant: the contract holds, all other rules count."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pump_ml.schema import ASSET, COMMISSIONING, RUN, TIME, Telemetry
from pump_ml.sources.plant import Plant
from pump_ml.validation import check, inspect


def check_suite(plant: Plant, suites: Path) -> None:
    """Find out before anything is trained whether the suite of a plant can be used.

    Args:
        plant: the description of its table.
        suites: folder of the suites.

    Raises:
        ConfigurationError: the suite is not there, or one of its rules cannot be used or names an unknown column.
    """
    columns = [ASSET, RUN, TIME, COMMISSIONING, *plant.sensors]
    check(
        _as_told(Telemetry(pd.DataFrame(columns=columns), plant.schema_sensors(), (), plant.suite), plant),
        suites=suites,
    )


def broken_rules(telemetry: Telemetry, plant: Plant, suites: Path) -> dict[str, int]:
    """Hold one machine's readings against the suite of the plant and the ranges of its sensors.

    Args:
        telemetry: of one machine.
        plant: the description of its table. Rules about sensors of which the machine has no reading do not count.
        suites: folder of the suites.

    Returns:
        How many rows broke a rule, by its id, of the rules that do not hold; a rule about the table as a whole, such
        as its median, is broken by all rows.

    Raises:
        ConfigurationError: the suite or one of its rules cannot be used.
        ContractError: a rule of the contract is broken.
    """
    readings = telemetry.readings
    absent = frozenset(name for name in plant.sensors if name not in readings or readings[name].isna().all())
    report = inspect(_as_told(telemetry, plant, absent), suites=suites, without=absent)
    return {rule["id"]: int(rule["failing"] or len(readings)) for rule in report["rules"] if not rule["success"]}


def parameters(broken: Mapping[str, int]) -> dict[str, int]:
    """For MLflow, in whose names of parameters letters, digits, ``_``, ``-``, ``.`` and spaces are safe."""
    named: dict[str, int] = {}
    for rule, rows in broken.items():
        name = "validation." + "".join(each if each.isalnum() or each in "_-. " else "_" for each in rule)[:200]
        named[name] = named.get(name, 0) + rows
    return named


def _as_told(telemetry: Telemetry, plant: Plant, absent: frozenset[str] = frozenset()) -> Telemetry:
    """With the suite, the sensors and the ranges of the plant, but for the sensors that are absent."""
    return replace(
        telemetry,
        suite=plant.suite,
        sensors=tuple(each for each in plant.schema_sensors() if each.name not in absent),
        labels=(),
        origin={"limits": {name: side for name, side in plant.ranges.items() if name not in absent}},
    )
