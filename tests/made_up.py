"""Small made-up arrays of the shape of FEMTO, CWRU and the hydraulic rig, for the mappings that ship."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml.schema import KEYS, Sensor, Telemetry, Waveforms
from pump_ml.sources.files import FilesSource


def femto(folder: Path) -> Telemetry:
    """Ten bearings of 30 to 39 snapshots whose vibration grows."""
    rng = np.random.default_rng(4)
    arrays: dict[str, NDArray[Any]] = {}
    for number in range(10):
        name, count = f"Bearing{1 + number % 3}_{number}", 30 + number
        growth = 1 + 4 * np.linspace(0, 1, count)[:, None, None] ** 2
        arrays[name] = (300 * growth * rng.normal(size=(count, 256, 2))).astype(np.int16)
        arrays[f"{name}_idx"] = np.arange(count, dtype=np.int32) * 5 + 2
    return _read("femto", folder, arrays, step=3)


def cwru(folder: Path) -> Telemetry:
    """Nine bearings at four loads, four windows each, that ring as their fault is struck; and others."""
    rng = np.random.default_rng(4)
    arrays: dict[str, NDArray[Any]] = {"Normal__97_Normal_0": np.zeros(9000)}
    time = np.arange(4 * 2048 + 100) / 12000
    for fault, order in (("B", 4.7134), ("IR", 5.4152), ("OR", 3.5848)):
        for size in ("007", "014", "021", "028"):
            for load in range(4):
                for clock in ("@6__", "@3__") if fault == "OR" else ("",):
                    struck = 1 + np.sin(2 * np.pi * order * 29.5 * time)
                    signal = rng.normal(size=time.size) + 2 * struck * np.sin(2 * np.pi * 5000 * time)
                    name = f"12k_Drive_End_Bearing_Fault_Data__{fault}__{size}__{clock}130{clock[:2]}_{load}"
                    arrays[name] = signal.astype(np.float32)
    return _read("cwru_12k", folder, arrays, step=3)


def hydraulic(folder: Path) -> Telemetry:
    """Sixty cycles, nearly each another combination of states; the sensors are noise around them.

    The rig has no waveforms; one of noise at the end of each cycle is for families that look at such.
    """
    rng = np.random.default_rng(4)
    states = [(3, 20, 100), (73, 80, 90, 100), (0, 1, 2), (90, 100, 115, 130), (0, 1)]
    profile = np.stack([rng.choice(values, 60) for values in states], axis=1)
    sensors = [*(f"PS{n}" for n in range(1, 7)), "EPS1", "FS1", "FS2", *(f"TS{n}" for n in range(1, 5))]
    sensors += ["VS1", "CE", "CP", "SE"]
    values = profile[:, np.arange(17) % 4][:, None] + rng.normal(size=(60, 60, 17))
    names = np.array(["cooler", "valve", "pump_leak", "accumulator", "stable_flag"])
    arrays = {"X": values.astype(np.float32), "sensors": np.array(sensors), "profile": profile, "target_names": names}
    made = _read("hydraulic_1hz", folder, arrays, step=5)
    rows = made.readings.loc[made.readings["time"] == 59, list(KEYS)].reset_index(drop=True)
    noise = rng.normal(size=(60, 1, 512)).astype(np.float32)
    return replace(made, waveforms=Waveforms(rows, noise, (Sensor("end_g", "g_0"),), 1000.0))


MADE_UP: dict[str, Callable[[Path], Telemetry]] = {"femto": femto, "cwru": cwru, "hydraulic": hydraulic}
"""By the problem that they are for."""


def _read(mapping: str, folder: Path, arrays: dict[str, NDArray[Any]], *, step: int) -> Telemetry:
    """The arrays as the mapping reads them, the assets renamed so that any few neighbours have all kinds of them."""
    file = folder / f"{mapping}.npz"
    np.savez(file, allow_pickle=False, **arrays)
    made = FilesSource(mapping=mapping, path=file).fetch()
    assets = sorted(made.readings["asset_id"].unique())
    names = {asset: f"{place % step}-{asset}" for place, asset in enumerate(assets)}
    waveforms = made.waveforms and replace(made.waveforms, rows=_renamed(made.waveforms.rows, names))
    return replace(made, readings=_renamed(made.readings, names), waveforms=waveforms)


def _renamed(rows: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    return rows.assign(asset_id=rows["asset_id"].map(names))
