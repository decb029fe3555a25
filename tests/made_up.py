"""Small made-up arrays of the shape of FEMTO, CWRU and the hydraulic rig, for the mappings that ship."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pump_ml.schema import Telemetry
from pump_ml.sources.files import FilesSource


def femto(folder: Path) -> Telemetry:
    """Ten bearings of 30 to 39 snapshots whose vibration grows."""
    rng = np.random.default_rng(4)
    arrays: dict[str, NDArray[Any]] = {}
    for number in range(10):
        name, count = f"Bearing{1 + number % 3}_{number}", 30 + number
        growth = 1 + 4 * np.linspace(0, 1, count)[:, None, None] ** 2
        arrays[name] = (300 * growth * rng.normal(size=(count, 64, 2))).astype(np.int16)
        arrays[f"{name}_idx"] = np.arange(count, dtype=np.int32) * 5 + 2
    return _read("femto", folder, arrays, step=3)


def cwru(folder: Path) -> Telemetry:
    """Nine bearings at four loads, four windows each, that differ in their spectra; and records that are not read."""
    rng = np.random.default_rng(4)
    arrays: dict[str, NDArray[Any]] = {"Normal__97_Normal_0": np.zeros(9000)}
    time = np.arange(4 * 2048 + 100) / 12000
    for place, fault in enumerate(("B", "IR", "OR")):
        for size in ("007", "014", "021", "028"):
            for load in range(4):
                for clock in ("@6__", "@3__") if fault == "OR" else ("",):
                    signal = rng.normal(size=time.size) + np.sin(2 * np.pi * (1000 + 1500 * place) * time)
                    name = f"12k_Drive_End_Bearing_Fault_Data__{fault}__{size}__{clock}130{clock[:2]}_{load}"
                    arrays[name] = signal.astype(np.float32)
    return _read("cwru_12k", folder, arrays, step=3)


def hydraulic(folder: Path) -> Telemetry:
    """Sixty cycles, nearly each another combination of states; the sensors are noise around them."""
    rng = np.random.default_rng(4)
    states = [(3, 20, 100), (73, 80, 90, 100), (0, 1, 2), (90, 100, 115, 130), (0, 1)]
    profile = np.stack([rng.choice(values, 60) for values in states], axis=1)
    sensors = [*(f"PS{n}" for n in range(1, 7)), "EPS1", "FS1", "FS2", *(f"TS{n}" for n in range(1, 5))]
    sensors += ["VS1", "CE", "CP", "SE"]
    values = profile[:, np.arange(17) % 4][:, None] + rng.normal(size=(60, 60, 17))
    names = np.array(["cooler", "valve", "pump_leak", "accumulator", "stable_flag"])
    arrays = {"X": values.astype(np.float32), "sensors": np.array(sensors), "profile": profile, "target_names": names}
    return _read("hydraulic_1hz", folder, arrays, step=5)


MADE_UP: dict[str, Callable[[Path], Telemetry]] = {"femto": femto, "cwru": cwru, "hydraulic": hydraulic}
"""By the problem that they are for."""


def _read(mapping: str, folder: Path, arrays: dict[str, NDArray[Any]], *, step: int) -> Telemetry:
    """The arrays as the mapping reads them, the assets renamed so that any few neighbours have all kinds of them."""
    file = folder / f"{mapping}.npz"
    np.savez(file, allow_pickle=False, **arrays)
    made = FilesSource(mapping=mapping, path=file).fetch()
    assets = sorted(made.readings["asset_id"].unique())
    names = {asset: f"{place % step}-{asset}" for place, asset in enumerate(assets)}
    return replace(made, readings=made.readings.assign(asset_id=made.readings["asset_id"].map(names)), waveforms=None)
