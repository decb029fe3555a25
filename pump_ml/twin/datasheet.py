"""A pump type, as its data sheet gives it: rated point, points of its curves, motor, bearings.

Quantities carry their units (``flow: 114 m3/h``). What a sheet says is checked against physics before anything is
simulated from it; docs/twin.md walks through one.
"""

from collections.abc import Mapping
from math import isfinite, nan
from typing import Annotated, Any, Literal, Self

import numpy as np
import pint
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pump_ml.errors import ConfigurationError, UnknownNameError
from pump_ml.schema import UNITS
from pump_ml.twin.bearings import BEARINGS, Bearing
from pump_ml.twin.curves import Curves, fit, hydraulic_power_kw
from pump_ml.twin.hydraulics import WATER_KG_M3

MOST_EFFICIENCY = 0.92
"""Above it a sheet is taken to be wrong: single-stage pumps of all sizes stay below (Gülich, Centrifugal Pumps)."""
SOUND = np.linspace(0.2, 1.3, 56)
"""Flow over rated flow within which a fitted curve has to be sound."""


def quantity(unit: str) -> BeforeValidator:
    """A number in `unit` from text with any unit of its kind; a bare number is refused, nobody knows its unit."""

    def read(given: object) -> float:
        expected = f"given {given!r}, expected a number with its unit, such as '1.5 {unit}'"
        try:
            found = float(UNITS.Quantity(given).to(unit).magnitude) if isinstance(given, str) else nan
        except (pint.PintError, TypeError, AttributeError, AssertionError) as error:
            raise ValueError(f"{expected} ({error})") from error
        if not isfinite(found):
            raise ValueError(expected)
        return found

    return BeforeValidator(read)


Flow = Annotated[float, quantity("m3/h"), Field(ge=0)]
RatedFlow = Annotated[float, quantity("m3/h"), Field(gt=0)]
Head = Annotated[float, quantity("m"), Field(gt=0)]
Power = Annotated[float, quantity("kW"), Field(gt=0)]
Speed = Annotated[float, quantity("rpm"), Field(gt=0, le=20_000)]
Density = Annotated[float, quantity("kg/m3"), Field(gt=500, lt=2000)]
Length = Annotated[float, quantity("mm"), Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(_Frozen):
    """A row of a sheet's table: flow in m3/h, head in m, shaft power in kW; NPSH3 in m where it is given.

    ``speed`` in rpm stands where the table was measured at a speed that falls with the load; else it is the rated one.
    """

    flow: Flow
    head: Head
    power: Power
    npsh3: Head | None = None
    speed: Speed | None = None


class Rated(Point):
    """The rated point, with the speed in rpm at which all curves hold."""

    flow: RatedFlow
    speed: Speed


class Motor(_Frozen):
    """Rating plate: power in kW, and poles."""

    power: Power
    poles: Literal[2, 4, 6, 8]


class Geometry(_Frozen):
    """A bearing of which the table has none: see `pump_ml.twin.bearings.Bearing`; diameters with units."""

    balls: int
    ball: Length
    pitch: Length
    contact_deg: float = 0.0
    source: str


class Bearings(_Frozen):
    """Drive end and non-drive end: a designation of `pump_ml.twin.bearings.BEARINGS`, or a geometry."""

    drive_end: str | Geometry
    non_drive_end: str | Geometry

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in ("drive_end", "non_drive_end"):
            try:
                bearing(getattr(self, name))
            except UnknownNameError as error:
                raise ValueError(f"{name}: {error}") from error
        return self


class DataSheet(_Frozen):
    """A pump type.

    Args:
        name: what it is called here.
        maker: who makes it, and the maker's name of it.
        source: where the figures are from.
        density: of the liquid that the powers are for, in kg/m3.
        rated: the rated point.
        points: other rows of its table, three at least.
        motor: of the set.
        vanes: of the impeller; sheets seldom say.
        bearings: of the pump.
    """

    name: str
    maker: str
    source: str
    density: Density = WATER_KG_M3
    rated: Rated
    points: tuple[Point, ...] = Field(min_length=3)
    motor: Motor
    vanes: int = Field(ge=2, le=12)
    bearings: Bearings

    @model_validator(mode="after")
    def _physical(self) -> Self:
        for number, row in enumerate((self.rated, *self.points)):
            where = f"points[{number - 1}]" if number else "rated"
            useful = float(hydraulic_power_kw(np.array(row.flow), np.array(row.head), self.density))
            if useful > MOST_EFFICIENCY * row.power:
                raise ValueError(
                    f"{where}: a shaft power of {row.power:g} kW for {useful:.4g} kW in the liquid is an efficiency of "
                    f"{useful / row.power:.0%}; expected at most {MOST_EFFICIENCY:.0%}. Is it the shaft's power, in kW?"
                )
        if self.rated.power > self.motor.power:
            raise ValueError(
                f"motor.power: {self.motor.power:g} kW is less than the {self.rated.power:g} kW of the rated point"
            )
        curves = self.curves()
        heads = curves.head(SOUND * self.rated.flow, np.ones_like(SOUND))
        powers = curves.shaft_power(SOUND * self.rated.flow, np.ones_like(SOUND))
        if np.any(np.diff(heads) >= 0) or np.any(powers <= 0):
            raise ValueError(
                "points: the head through them does not fall, or the power is not positive, between 20 % and 130 % of "
                "rated flow; expected rows that span it, of one speed and one impeller"
            )
        return self

    def curves(self) -> Curves:
        """The curves that come nearest to the table."""
        rated = self.rated
        slower = [(point.speed or rated.speed) / rated.speed for point in self.points]  # affinity laws
        rows = list(zip(self.points, slower, strict=True))
        x = [point.flow / s / rated.flow for point, s in rows]
        suction = [(p.flow / s / rated.flow, p.npsh3 / s**2 / rated.npsh3) for p, s in rows if p.npsh3 and rated.npsh3]
        at, over = np.array(suction, dtype=float).reshape(-1, 2).T
        return Curves(
            flow_m3_h=rated.flow,
            head_m=rated.head,
            power_kw=rated.power,
            speed_rpm=rated.speed,
            head_shape=fit(x, [point.head / s**2 / rated.head for point, s in rows], (2, 3)),
            power_shape=fit(x, [point.power / s**3 / rated.power for point, s in rows], (1, 2)),
            npsh3_m=rated.npsh3,
            npsh3_shape=fit(at, over, (2, 3)) if len(suction) > 1 else (0.0, 0.0),
            density_kg_m3=self.density,
        )


def bearing(given: str | Geometry) -> Bearing:
    """The bearing of a designation or of a geometry.

    Raises:
        UnknownNameError: the table has no such designation.
        ValueError: the geometry is impossible.
    """
    if isinstance(given, Geometry):
        return Bearing(given.balls, given.ball, given.pitch, given.contact_deg, given.source)
    if given not in BEARINGS:
        raise UnknownNameError("bearing", given, BEARINGS)
    return BEARINGS[given]


def read(content: Mapping[str, Any]) -> DataSheet:
    """A data sheet from what its YAML holds.

    Raises:
        ConfigurationError: something is missing, unknown or impossible; the message names every field, what was given
            and what was expected.
    """
    try:
        return DataSheet.model_validate(dict(content))
    except ValidationError as error:
        told = "; ".join(_told(one) for one in error.errors())
        raise ConfigurationError(f"data sheet {content.get('name', 'without a name')}: {told}") from error


def _told(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors in a line; what was given is shown where it is one value."""
    where, given = ".".join(map(str, error["loc"])), error["input"]
    shown = "" if isinstance(given, Mapping) or repr(given) in error["msg"] else f", given {given!r}"
    return f"{where + ': ' if where else ''}{error['msg']}{shown}"
