"""Pump sets that differ from each other: what is built, where it stands, how it was when new, what reads it.

A pump's figures are drawn from stated distributions, or its type comes from a data sheet and only the rest is drawn.
"""

from dataclasses import dataclass, replace
from math import exp, log, log10

import numpy as np

from pump_ml.twin import liquid
from pump_ml.twin.bearings import BEARINGS, Bearing
from pump_ml.twin.curves import Curves
from pump_ml.twin.datasheet import DataSheet, bearing
from pump_ml.twin.hydraulics import GRAVITY_M_S2, INCEPTION, WATER_KG_M3
from pump_ml.twin.instruments import DRIVE_END, SENSORS, Errors
from pump_ml.twin.motor import RATED_KW, Motor


@dataclass(frozen=True)
class PumpType:
    """What a maker sells: the pump's curves, its impeller and bearings, and the motor of the set."""

    curves: Curves
    motor: Motor
    vanes: int
    drive_end: Bearing
    non_drive_end: Bearing

    @property
    def npsh3_m(self) -> float:
        """NPSH3 at the rated point, which every type of a fleet has."""
        if self.curves.npsh3_m is None:
            raise ValueError("this pump type has no NPSH3; make it by of_sheet or draw_type")
        return self.curves.npsh3_m


@dataclass(frozen=True)
class Site:
    """Where a pump stands and what it is for.

    Args:
        variable_speed: has a converter; else demand is met by throttling.
        continuous: runs day and night; else it stands still outside the working week.
        static_head: static head of the system over rated head.
        npsh_available_m: at rated flow and the usual temperature of the liquid.
        suction_loss_m: friction of the suction line at rated flow.
        liquid_c: usual temperature of the liquid.
        heavier: density of the liquid over that of water.
        ambient_c: usual temperature beside the pump.
    """

    variable_speed: bool
    continuous: bool
    static_head: float
    npsh_available_m: float
    suction_loss_m: float
    liquid_c: float
    heavier: float
    ambient_c: float


@dataclass(frozen=True)
class Condition:
    """A pump set when new, at its rated point: velocities as RMS in mm/s, rises over ambient in K.

    Args:
        order_1_mm_s: at shaft frequency.
        order_2_mm_s: at twice shaft frequency.
        vane_pass_mm_s: at vane-pass frequency.
        floor_mm_s: broad-band, 10 to 1000 Hz.
        noise_g: acceleration RMS above 1 kHz, in g.
        non_drive_end: vibration of the non-drive end over that of the drive end.
        bearing_rise_k: of the drive-end bearing.
        winding_rise_k: of the motor's winding at full load.
        leakage_l_h: past the shaft seal.
        oil_bar: pressure of the lubricating oil at 50 °C.
        oil_loss_pct: of the oil's level, a day.
    """

    order_1_mm_s: float
    order_2_mm_s: float
    vane_pass_mm_s: float
    floor_mm_s: float
    noise_g: float
    non_drive_end: float
    bearing_rise_k: float
    winding_rise_k: float
    leakage_l_h: float
    oil_bar: float
    oil_loss_pct: float


@dataclass(frozen=True)
class Pump:
    """One pump set of a fleet.

    Args:
        type: what was built.
        site: where it stands.
        new: its condition when it was commissioned.
        errors: what stays of each sensor's errors, in the order of `SENSORS`.
    """

    type: PumpType
    site: Site
    new: Condition
    errors: tuple[Errors, ...]


def draw(rng: np.random.Generator, sheet: DataSheet | None = None) -> Pump:
    """A pump set.

    Sizes are log-uniform, what a maker or a site chooses is uniform over usual values, and what scatters by itself is
    log-normal. The ranges are the twin's choice where no source is named.

    Args:
        rng: the pump's own random stream.
        sheet: of its type; None draws the type too.
    """
    kind = draw_type(rng) if sheet is None else of_sheet(sheet)
    # A limit of error is two standard deviations; none beyond one and a half limits leaves the factory.
    zero, gain, drift = np.clip(rng.standard_normal((3, len(SENSORS))) / 2.0, -1.5, 1.5)
    gain[list(DRIVE_END)] = gain[DRIVE_END[0]]  # one accelerometer
    return Pump(
        type=kind,
        site=_draw_site(kind, rng),
        new=Condition(
            order_1_mm_s=_scattered(0.8, 0.25, rng),
            order_2_mm_s=_scattered(0.25, 0.25, rng),
            vane_pass_mm_s=_scattered(0.40, 0.25, rng),
            floor_mm_s=_scattered(0.5, 0.2, rng),
            noise_g=_scattered(0.5, 0.25, rng),
            non_drive_end=float(rng.uniform(0.6, 0.9)),
            bearing_rise_k=float(rng.uniform(18.0, 30.0)),
            winding_rise_k=float(rng.uniform(45.0, 65.0)),
            leakage_l_h=float(rng.uniform(0.02, 0.2)),
            oil_bar=float(rng.uniform(1.2, 2.2)),
            oil_loss_pct=float(rng.uniform(0.1, 0.5)),
        ),
        errors=tuple(Errors(*map(float, one)) for one in zip(zero, gain, drift, strict=True)),
    )


def draw_type(rng: np.random.Generator) -> PumpType:
    """A single-stage centrifugal pump with a radial impeller: 30 to 400 m³/h, 12 to 90 m, specific speed 18 to 55.

    Best efficiency is at the rated point, by Gülich's formula for its size and specific speed; NPSH3 follows from a
    suction specific speed of 160 to 190 (the pumps whose sheets ship have 174 and 173). Curves scatter about those.
    """
    poles = 2 if rng.random() < 0.5 else 4
    speed = 2960.0 if poles == 2 else 1480.0
    head = 0.0
    while not 12.0 <= head <= 90.0:
        flow, specific = (exp(rng.uniform(log(low), log(high))) for low, high in ((30.0, 400.0), (18.0, 55.0)))
        head = (speed * (flow / 3600.0) ** 0.5 / specific) ** (4.0 / 3.0)  # HI Engineering Data Book, eq. 1.D.1
    best = best_efficiency(flow, specific) + rng.uniform(-0.03, 0.01)
    power = WATER_KG_M3 * GRAVITY_M_S2 * flow / 3600.0 * head / best / 1000.0
    rise, cubic = rng.uniform(0.21, 0.29), rng.uniform(0.3, 0.9)
    closed, bend = rng.uniform(0.36, 0.50), rng.uniform(0.05, 0.15)
    suction, late = rng.uniform(0.32, 0.52), rng.uniform(0.4, 0.8)
    curves = Curves(
        flow_m3_h=flow,
        head_m=head,
        power_kw=power,
        speed_rpm=speed,
        head_shape=(rise * (1.0 - cubic), rise * cubic),
        power_shape=(closed - 1.0 - bend, bend),
        npsh3_m=(speed * (flow / 3600.0) ** 0.5 / rng.uniform(160.0, 190.0)) ** (4.0 / 3.0),
        npsh3_shape=((suction - 1.0) * (1.0 - late), (suction - 1.0) * late),
    )
    motor = motor_for(power, poles)
    frame = BEARINGS[_bearing_for(motor.rated_kw)]
    return PumpType(curves, motor, int(rng.integers(5, 8)), frame, frame)


def of_sheet(sheet: DataSheet) -> PumpType:
    """The type that a data sheet describes; NPSH3 is that of a suction specific speed of 174 where it has none."""
    curves = sheet.curves()
    if curves.npsh3_m is None:
        npsh3 = (curves.speed_rpm * (curves.flow_m3_h / 3600.0) ** 0.5 / 174.0) ** (4.0 / 3.0)
        curves = replace(curves, npsh3_m=npsh3, npsh3_shape=(-0.25, -0.35))
    return PumpType(
        curves,
        Motor(sheet.motor.power, 2 if sheet.motor.poles == 2 else 4),  # slower ones: as those of four poles
        sheet.vanes,
        bearing(sheet.bearings.drive_end),
        bearing(sheet.bearings.non_drive_end),
    )


def best_efficiency(flow_m3_h: float, specific_speed: float) -> float:
    """Efficiency at the best point of a single-stage radial pump (Gülich, Centrifugal Pumps, table 3.9, from memory).

    Within two points of the best efficiency of the pumps whose sheets ship.

    Args:
        flow_m3_h: at the best point; up to 3600.
        specific_speed: in rpm, m³/s and m.
    """
    flow = flow_m3_h / 3600.0
    power = 0.1 * flow**-0.15 * (45.0 / specific_speed) ** 0.06
    return float(1.0 - 0.095 * flow**-power - 0.3 * (0.35 - log10(specific_speed / 23.0)) ** 2 * flow**-0.05)


def motor_for(shaft_kw: float, poles: int) -> Motor:
    """The smallest motor with the margin of API 610 (11th edition, table 12, from memory): 125, 115 or 110 %."""
    for rated in RATED_KW:
        if rated >= shaft_kw * (1.25 if rated < 22.0 else 1.15 if rated <= 55.0 else 1.10):
            return Motor(rated, 2 if poles == 2 else 4)
    return Motor(1.10 * shaft_kw, 2 if poles == 2 else 4)


def _bearing_for(motor_kw: float) -> str:
    """A usual size; the twin's choice."""
    for limit, name in ((7.5, "6206"), (15.0, "6308"), (30.0, "6309"), (45.0, "6311"), (75.0, "6312"), (110.0, "6313")):
        if motor_kw <= limit:
            return name
    return "6314"


def _draw_site(kind: PumpType, rng: np.random.Generator) -> Site:
    """Seven pumps in ten lift cold water, two hot water, one a heavier liquid such as brine."""
    service = rng.random()
    hot = 0.7 <= service < 0.9
    return Site(
        variable_speed=bool(rng.random() < 0.5),
        continuous=bool(rng.random() < 0.6),
        static_head=float(rng.uniform(0.2, 0.5)),
        # Enough for the highest demand on the hottest day, as a good installation has it.
        npsh_available_m=INCEPTION * kind.npsh3_m * float(rng.uniform(1.6, 2.4)),
        suction_loss_m=float(rng.uniform(0.3, 0.8)),
        liquid_c=float(rng.uniform(50.0, 75.0) if hot else rng.uniform(10.0, 30.0)),
        heavier=float(rng.uniform(1.03, 1.15)) if service >= 0.9 else 1.0,
        ambient_c=float(rng.uniform(12.0, 28.0)),
    )


def suction_bar(site: Site) -> float:
    """Absolute pressure of the suction vessel that gives the site's NPSH at rated flow (HI Data Book, eq. 1.D.6)."""
    at = np.array([site.liquid_c])
    metres = site.npsh_available_m + site.suction_loss_m
    column = float(liquid.density_kg_m3(at)[0]) * site.heavier * GRAVITY_M_S2 / 1e5
    return float(liquid.vapour_pressure_bar(at)[0]) + metres * column


def _scattered(median: float, spread: float, rng: np.random.Generator) -> float:
    return float(rng.lognormal(log(median), spread))
