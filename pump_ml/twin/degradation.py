"""Fault modes, how damage grows, and what it means for the pump's life.

Damage runs from 0 (as new) to 1 (end of life, by the limit or the assumption of each mode: see `FAULTS`). Health is
what is left of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pump_ml.twin.zones import limits_mm_s

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FaultMode:
    """What a fault does at full damage (1.0); effects grow in proportion to damage unless said otherwise.

    Args:
        name: the class that a model has to name.
        growth: exponent of the mean growth ``damage = used_life ** growth``; above 1 it speeds up towards the end.
        head_loss: share of the head that is lost.
        efficiency_loss: share of the efficiency that is lost.
        npsh_loss: share of the site's margin over NPSH3 that is lost on the suction side; 1 ends at the 3 % head drop.
        leakage_l_h: leakage past the shaft seal.
        oil_loss: share of the oil pressure that is lost.
        bearing_rise_k: rise of the drive-end bearing's temperature, at rated speed.
        order_1: velocity at shaft frequency, over the limit between zones C and D; added in quadrature, at rated speed.
        order_2: the same at twice shaft frequency.
        vane_pass_gain: growth of the vane-pass component; 1 doubles it.
        noise_gain: growth of acceleration above 1 kHz, with damage squared.
        impact_g: first peak of the housing's response to a blow, at rated speed.
    """

    name: str
    growth: float = 1.0
    head_loss: float = 0.0
    efficiency_loss: float = 0.0
    npsh_loss: float = 0.0
    leakage_l_h: float = 0.0
    oil_loss: float = 0.0
    bearing_rise_k: float = 0.0
    order_1: float = 0.0
    order_2: float = 0.0
    vane_pass_gain: float = 0.0
    noise_gain: float = 0.0
    impact_g: float = 0.0


HEALTHY = FaultMode("healthy")

# End of life. From standards: imbalance and misalignment end at about the border of zone D, at rated speed; cavitation
# at the 3 % head drop that defines NPSH3 (ISO 9906). A rule of thumb: an impeller is overhauled at about 15 %
# of loss. Assumptions of the twin: a bearing ends at +25 K and blows of 12 g, long before a
# limit of vibration; a seal at 30 l/h; a clogged impeller at 25 % less efficiency. What a mode does beside its limit is
# assumed as well.
# Growth: the exponents are assumptions. Damage that feeds itself is above 1, as fatigue and erosion are (ISO 281 and
# ASTM G32 are analogies: neither gives the figure); wear and drift are taken as linear.
FAULTS = (
    FaultMode(
        "bearing_wear", growth=1.6, bearing_rise_k=25.0, order_1=0.22, noise_gain=4.0, impact_g=12.0, oil_loss=0.2,
        efficiency_loss=0.01,
    ),
    FaultMode("impeller_wear", growth=1.0, head_loss=0.15, efficiency_loss=0.12, order_1=0.12),
    FaultMode("cavitation", growth=1.3, npsh_loss=1.0, efficiency_loss=0.05, noise_gain=1.0),
    FaultMode("seal_leak", growth=1.2, leakage_l_h=30.0, efficiency_loss=0.01),
    FaultMode(
        "misalignment", growth=1.0, order_1=0.4, order_2=0.9, bearing_rise_k=12.0, efficiency_loss=0.02, noise_gain=0.3
    ),
    FaultMode("imbalance", growth=1.0, order_1=1.0, bearing_rise_k=4.0, noise_gain=0.3),
    FaultMode("clogging", growth=1.1, head_loss=0.12, efficiency_loss=0.25, order_1=0.45, vane_pass_gain=1.0),
)  # fmt: skip
MODES = tuple(fault.name for fault in (HEALTHY, *FAULTS))

SEVERITY_BANDS = ((0.0, 0.05), (0.15, 0.30), (0.42, 0.58), (0.72, 0.95))
"""Damage of dataset v2 by severity: 0 normal, 1 incipient, 2 moderate, 3 severe. The gaps keep the levels apart."""

_AB, _BC, _CD = limits_mm_s(100.0)
SEVERITY_FROM = (0.0, 0.10, _AB / _CD, _BC / _CD)
"""Damage from which on a life has each severity; it lies in the gaps between `SEVERITY_BANDS`.

The last two are where an imbalance, whose damage is its velocity over the limit between zones C and D, leaves zones A
and B (ISO 10816-7, category I, up to 200 kW); the same damage counts for all modes. The first is the twin's choice.
"""

SCATTER = 25.0
"""Shape of the gamma process at the end of life: damage scatters by ``1 / sqrt(25)`` = 20 % around its mean growth.

Between 15 and 100 are usual (van Noortwijk, Reliability Engineering and System Safety 94, 2009; from memory).
"""


def severity(damage: Array) -> NDArray[np.int64]:
    """Severity 0 to 3 of each damage, by `SEVERITY_FROM`."""
    return np.searchsorted(SEVERITY_FROM, damage, side="right").astype(np.int64) - 1


def used_life(damage: Array, growth: float) -> Array:
    """Share of life that has passed when a mode with this growth exponent has done `damage` (0 to 1), on average."""
    return np.clip(damage, 0.0, 1.0) ** (1.0 / growth)


def rul_pct(damage: Array, growth: float) -> Array:
    """Remaining useful life in percent of a life that ends at damage 1, on average."""
    return 100.0 * (1.0 - used_life(damage, growth))


def health_pct(damage: Array) -> Array:
    """Health in percent: 100 as new, 0 at end of life."""
    return 100.0 * (1.0 - np.clip(damage, 0.0, 1.0))


@dataclass(frozen=True)
class Life:
    """One life of a pump set, from (re)commissioning to the end, in hours of operation.

    Args:
        fault: what ends it.
        onset_h: when the fault begins.
        end_h: when damage reaches 1.
        grid_h: times of `damage`, from 0 to `end_h`.
        damage: at those times; straight lines between them.
    """

    fault: FaultMode
    onset_h: float
    end_h: float
    grid_h: NDArray[np.float64]
    damage: NDArray[np.float64]

    def at(self, hours: NDArray[np.float64]) -> NDArray[np.float64]:
        """Damage after so many hours of operation."""
        return np.interp(hours, self.grid_h, self.damage)


def draw_life(fault: FaultMode, median_h: float, rng: np.random.Generator, step_h: float = 24.0) -> Life:
    """A life: a healthy time, then damage that grows by a gamma process until its limit.

    The whole life is Weibull with slope 2 (wear-out; bearings are nearer 1.1, ISO 281) and the given median, the fault
    begins after 30 to 70 % of it. The process is drawn as a bridge, since its end is known: the increments of a gamma
    process between fixed ends are Dirichlet (van Noortwijk 2009), so no life has to be thrown away.

    Args:
        fault: what ends the life.
        median_h: of all lives, in hours of operation.
        rng: source of the life.
        step_h: between two points of the process, in hours of operation.
    """
    end = median_h * float((-np.log(1.0 - rng.uniform(0.02, 0.98)) / np.log(2.0)) ** 0.5)
    onset = end * float(rng.uniform(0.3, 0.7))
    steps = max(2, int(np.ceil((end - onset) / step_h)))
    share = np.linspace(0.0, 1.0, steps + 1)
    increments = rng.standard_gamma(np.maximum(SCATTER * np.diff(share**fault.growth), 1e-3))
    damage = np.concatenate([[0.0], np.cumsum(increments)])
    grid = np.concatenate([[0.0], onset + (end - onset) * share])
    return Life(fault, onset, end, grid, np.concatenate([[0.0], damage / damage[-1]]))
