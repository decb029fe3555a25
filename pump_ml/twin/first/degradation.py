"""Fault modes, how damage changes the pump, and what damage means for its life.

Damage runs from 0 (as new) to 1 (end of life, by the limit or the assumption of each mode: see `FAULTS`). Health is
what is left of it; remaining useful life follows from the mode's growth law ``damage = used_life ** growth``.
"""

from dataclasses import dataclass

from pump_ml.twin.degradation import SEVERITY_BANDS, health_pct, rul_pct, used_life

__all__ = ["FAULTS", "HEALTHY", "MODES", "SEVERITY_BANDS", "FaultMode", "health_pct", "rul_pct", "used_life"]

ZONE_CD_MM_S = 6.6
"""Velocity RMS where zone C meets D, ISO 10816-7:2009 table A.1, category I, up to 200 kW."""


@dataclass(frozen=True)
class FaultMode:
    """What a fault does at full damage (1.0); effects grow in proportion to damage unless said otherwise.

    Args:
        name: the class that a model has to name.
        growth: exponent of ``damage = used_life ** growth``; above 1 damage speeds up towards the end.
        head_loss: share of the head that is lost.
        efficiency_loss: share of the efficiency that is lost.
        suction_loss: share of the whole absolute pressure at the suction flange that is lost.
        leakage_l_h: leakage past the shaft seal.
        bearing_rise_k: rise of the drive-end bearing's temperature, at rated speed.
        order_1_mm_s: velocity RMS added in quadrature at shaft frequency, at rated speed.
        order_2_mm_s: the same at twice shaft frequency.
        vane_pass_gain: growth of the vane-pass component; 1 doubles it.
        broadband_gain: growth of acceleration above 1 kHz; 1 doubles it.
        kurtosis: what is added to the acceleration's kurtosis (impacts).
    """

    name: str
    growth: float = 1.0
    head_loss: float = 0.0
    efficiency_loss: float = 0.0
    suction_loss: float = 0.0
    leakage_l_h: float = 0.0
    bearing_rise_k: float = 0.0
    order_1_mm_s: float = 0.0
    order_2_mm_s: float = 0.0
    vane_pass_gain: float = 0.0
    broadband_gain: float = 0.0
    kurtosis: float = 0.0


HEALTHY = FaultMode("healthy")

# End of life. From standards: imbalance and misalignment end at about the border of zone D, at rated speed; cavitation
# at the 3 % head drop that defines NPSH3 (ISO 9906). A rule of thumb: an impeller is overhauled at about 15 %
# of loss. Assumptions of the twin: a bearing ends at +25 K and a ninefold high-frequency acceleration, long before a
# limit of vibration; a seal at 30 l/h; a clogged impeller at 25 % less efficiency. What a mode does beside its limit is
# assumed as well.
# Growth: the exponents are assumptions. Damage that feeds itself is above 1, as fatigue and erosion are (ISO 281 and
# ASTM G32 are analogies: neither gives the figure); wear and drift are taken as linear.
FAULTS = (
    FaultMode(
        "bearing_wear",
        growth=1.6,
        bearing_rise_k=25.0,
        order_1_mm_s=1.5,
        broadband_gain=8.0,
        kurtosis=6.0,
        efficiency_loss=0.01,
    ),
    FaultMode("impeller_wear", growth=1.0, head_loss=0.15, efficiency_loss=0.12, order_1_mm_s=0.8),
    FaultMode(
        "cavitation",
        growth=1.3,
        head_loss=0.03,
        efficiency_loss=0.05,
        suction_loss=0.45,
        vane_pass_gain=2.0,
        broadband_gain=6.0,
        kurtosis=1.0,
    ),
    FaultMode("seal_leak", growth=1.2, leakage_l_h=30.0, efficiency_loss=0.01),
    FaultMode(
        "misalignment",
        growth=1.0,
        order_1_mm_s=0.4 * ZONE_CD_MM_S,
        order_2_mm_s=0.9 * ZONE_CD_MM_S,
        bearing_rise_k=12.0,
        efficiency_loss=0.02,
    ),
    FaultMode("imbalance", growth=1.0, order_1_mm_s=ZONE_CD_MM_S, bearing_rise_k=4.0),
    FaultMode(
        "clogging",
        growth=1.1,
        head_loss=0.12,
        efficiency_loss=0.25,
        order_1_mm_s=0.45 * ZONE_CD_MM_S,
        vane_pass_gain=1.0,
    ),
)

MODES = tuple(fault.name for fault in (HEALTHY, *FAULTS))
