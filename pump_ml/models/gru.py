"""Gated recurrent network over readings: a shared trunk, a head a target."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pump_ml.models.learning import LEARNING, NetworkFamily
from pump_ml.models.network import NetworkPredictor
from pump_ml.models.space import Choice, Range


class GruPredictor(NetworkPredictor):
    """What `Gru` learnt."""

    family = "gru"


@dataclass(frozen=True)
class Gru(NetworkFamily):
    """A gated recurrent layer (Cho et al. 2014) over steps of a few readings each, and a dense layer.

    Args:
        units: width of the recurrent layer.
    """

    units: int = 64
    pool: int = 5
    dense: int = 96
    decay: float = 2e-2
    patience: int = 15

    name: ClassVar[str] = "gru"
    predictor: ClassVar[type[NetworkPredictor]] = GruPredictor
    space: ClassVar[Mapping[str, Range | Choice]] = {
        **LEARNING,
        "units": Range(8, 256, log=True),
        "pool": Choice((3, 5, 6, 10, 12, 15)),
    }

    def trunk(self, *inputs: Any) -> Any:
        """See `NetworkFamily.trunk`."""
        from keras import layers

        [readings] = inputs
        x = layers.Dense(self.units, activation="swish")(readings)
        # Unrolled, since a loop costs more than the few steps, and since ONNX has no loop that is as fast.
        x = layers.GRU(self.units, unroll=True)(x)
        x = layers.Dropout(self.dropout)(x)
        return layers.Dense(self.dense, activation="swish")(x)
