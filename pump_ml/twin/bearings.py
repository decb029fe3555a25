"""Rolling bearings: geometry, and the frequencies at which a defect is struck.

Kinematics of an angular-contact ball bearing whose outer ring stands still (Randall and Antoni, "Rolling element
bearing diagnostics: a tutorial", Mechanical Systems and Signal Processing 25, 2011, equations 1 to 4). Real bearings
slip, so measured frequencies lie within a per cent or two of these.
"""

from dataclasses import dataclass
from math import cos, radians


@dataclass(frozen=True)
class Bearing:
    """Typical internal geometry; makers differ by a little, so a data sheet may bring its own.

    Args:
        balls: number of rolling elements.
        ball_mm: their diameter.
        pitch_mm: diameter of the circle through their centres.
        contact_deg: contact angle.
        source: where the geometry is from.

    Raises:
        ValueError: the balls do not fit on their circle.
    """

    balls: int
    ball_mm: float
    pitch_mm: float
    contact_deg: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        if not (self.balls >= 3 and self.ball_mm > 0 and self.balls * self.ball_mm < 3.1416 * self.pitch_mm):
            raise ValueError(
                f"{self.balls} balls of {self.ball_mm} mm do not fit on a circle of {self.pitch_mm} mm; expected three "
                "or more, that together are shorter than its circumference"
            )
        if not 0 <= self.contact_deg < 60:
            raise ValueError(f"contact angle {self.contact_deg} degrees; expected 0 to below 60")

    @property
    def _ratio(self) -> float:
        return self.ball_mm / self.pitch_mm * cos(radians(self.contact_deg))

    @property
    def bpfo(self) -> float:
        """Ball pass frequency of the outer race, in shaft orders."""
        return self.balls / 2 * (1 - self._ratio)

    @property
    def bpfi(self) -> float:
        """Ball pass frequency of the inner race, in shaft orders."""
        return self.balls / 2 * (1 + self._ratio)

    @property
    def bsf(self) -> float:
        """Ball spin frequency, in shaft orders; a defect of a ball strikes twice as often, once at each race."""
        return self.pitch_mm / (2 * self.ball_mm) * (1 - self._ratio**2)

    @property
    def ftf(self) -> float:
        """Fundamental train frequency, that of the cage, in shaft orders."""
        return (1 - self._ratio) / 2


_CWRU = "Case Western Reserve University bearing data centre, geometry of the test stand's bearings"
_TYPICAL = "typical internal geometry of a deep-groove ball bearing; not from a maker's page"
BEARINGS = {
    "6203": Bearing(8, 6.746, 28.50, source=_CWRU),
    "6205": Bearing(9, 7.940, 39.04, source=_CWRU),
    "6206": Bearing(9, 9.525, 46.0, source=_TYPICAL),
    "6308": Bearing(8, 15.081, 65.0, source=_TYPICAL),
    "6309": Bearing(8, 17.463, 72.5, source=_TYPICAL),
    "6310": Bearing(8, 19.050, 80.0, source=_TYPICAL),
    "6311": Bearing(8, 20.638, 87.5, source=_TYPICAL),
    "6312": Bearing(8, 22.225, 95.0, source=_TYPICAL),
    "6313": Bearing(8, 23.813, 102.5, source=_TYPICAL),
    "6314": Bearing(8, 25.400, 110.0, source=_TYPICAL),
}
"""By designation (ISO 15)."""
