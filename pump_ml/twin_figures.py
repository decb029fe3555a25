"""Pictures of simulated pumps, as matplotlib figures."""

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pump_ml.figures import BLUE, ORANGE
from pump_ml.twin import waveform
from pump_ml.twin.datasets import Fleet, Rows
from pump_ml.twin.degradation import MODES, SEVERITY_FROM
from pump_ml.twin.fleet import Pump
from pump_ml.twin.zones import limits_mm_s

GREY = "#8a8f98"
DAY_US = 86_400_000_000


def life(fleet: Fleet, number: int) -> Figure:
    """A pump's life in four pictures: operating points on its curve, damage, sensors, and a waterfall of spectra.

    Args:
        fleet: of dataset v3, with waveforms.
        number: of the pump.
    """
    pump, rows = fleet.pump(number), fleet.rows(number)
    figure = Figure(figsize=(14.0, 10.0), layout="constrained")
    upper, lower = figure.subplots(2, 2)
    days = (rows.time_us - rows.time_us[~rows.commissioning][0]) / DAY_US
    live = ~rows.commissioning
    faults = sorted({MODES[mode] for mode in rows.labels["mode"]} - {"healthy"}) or ["no fault yet"]
    curves = pump.type.curves
    figure.suptitle(
        f"{rows.asset_id}: {curves.flow_m3_h:.0f} m³/h, {curves.head_m:.0f} m, {curves.speed_rpm:.0f} rpm, "
        f"{pump.type.motor.rated_kw:g} kW; {', '.join(faults)}"
    )
    _operating_points(upper[0], pump, rows, live)
    _damage(upper[1], rows, days)
    _sensors(lower[0], pump, rows, days, live)
    _waterfall(lower[1], rows, live)
    return figure


def _operating_points(axes: Axes, pump: Pump, rows: Rows, live: np.ndarray) -> None:
    curves = pump.type.curves
    flow = np.linspace(0.0, 1.3 * curves.flow_m3_h, 80)
    for share, style in ((1.0, "-"), (0.9, "--"), (0.8, ":")):
        axes.plot(
            share * flow, curves.head(share * flow, np.full_like(flow, share)), style, color=GREY, lw=1,
            label=f"new, {share:.0%} speed",
        )  # fmt: skip
    bar = rows.sensors["discharge_pressure_bar"] - rows.sensors["suction_pressure_bar"]
    head = bar / (pump.site.heavier * 998.2 * 9.80665 / 1e5)
    at = live & (rows.sensors["speed_rpm"] > 0)
    thin = np.flatnonzero(at)[:: max(1, int(at.sum()) // 3000)]
    dots = axes.scatter(
        rows.sensors["flow_m3_h"][thin], head[thin], c=100.0 - rows.labels["health_pct"][thin], s=4, cmap="viridis",
        vmin=0, vmax=100,
    )  # fmt: skip
    axes.figure.colorbar(dots, ax=axes, label="damage, %")
    axes.scatter([curves.flow_m3_h], [curves.head_m], marker="+", s=120, color=ORANGE, label="rated point")
    axes.set(xlabel="flow, m³/h", ylabel="head, m", title="Operating points on the pump's curve", ylim=(0, None))
    axes.legend(loc="lower left")


def _damage(axes: Axes, rows: Rows, days: np.ndarray) -> None:
    ends = np.cumsum([length for _, length in rows.runs])
    for place, (begin, end) in enumerate(pairwise(ends)):
        part = slice(begin, end)
        axes.plot(
            days[part], 100.0 - rows.labels["health_pct"][part], color=BLUE, label="damage" if place == 0 else None
        )
        axes.plot(
            days[part], rows.labels["rul_pct"][part], color=ORANGE, ls="--",
            label="remaining useful life" if place == 0 else None,
        )  # fmt: skip
    for grade, border in enumerate(SEVERITY_FROM[1:], start=1):
        axes.axhline(100.0 * border, color=GREY, lw=0.7)
        axes.text(0.0, 100.0 * border, f" severity {grade}", va="bottom", fontsize=8, color=GREY)
    axes.set(xlabel="days", ylabel="%", title="Damage and remaining life", ylim=(0, 102))
    axes.legend(loc="center left")


def _sensors(axes: Axes, pump: Pump, rows: Rows, days: np.ndarray, live: np.ndarray) -> None:
    shown = (
        ("vibration_rms_mm_s", "velocity, mm/s", BLUE, 1.0),
        ("bearing_temperature_c", "bearing, 10 °C", ORANGE, 0.1),
        ("acceleration_hf_g", "acceleration over 1 kHz, g", "#3a7d44", 1.0),
    )
    for name, label, colour, factor in shown:
        axes.plot(days[live], rows.sensors[name][live] * factor, color=colour, lw=0.6, label=label)
    for name, limit in zip(("A|B", "B|C", "C|D"), limits_mm_s(pump.type.motor.rated_kw), strict=True):
        axes.axhline(limit, color=GREY, lw=0.7)
        axes.text(float(days[live][-1]), limit, f" {name}", fontsize=8, color=GREY, va="center")
    axes.set(xlabel="days", title="Sensors, and the zones of ISO 10816-7 for the velocity")
    axes.legend(loc="upper left")


def _waterfall(axes: Axes, rows: Rows, live: np.ndarray) -> None:
    records = rows.waveforms[:: max(1, len(rows.waveforms) // 40)]
    if not records:
        axes.set_axis_off()
        return
    begin = rows.time_us[live][0]
    spectra = []
    for record in records:
        frequency, power = waveform.spectrum(record.drive_end)
        keep = frequency < 10_000
        grouped = power[keep][: keep.sum() // 20 * 20].reshape(-1, 20).sum(axis=1)
        spectra.append(10.0 * np.log10(np.maximum(grouped, 1e-9)))
    picture = axes.pcolormesh(
        frequency[keep][: len(spectra[0]) * 20 : 20] / 1000.0,
        [(record.time_us - begin) / DAY_US for record in records],
        np.array(spectra), cmap="magma", shading="nearest",
    )  # fmt: skip
    axes.figure.colorbar(picture, ax=axes, label="dB over 1 g² in 50 Hz")
    axes.set(xlabel="kHz", ylabel="days", title="Spectrum of the drive end's acceleration")
