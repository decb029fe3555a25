"""One-dimensional convolutional network over readings: a shared trunk, a head a target."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pump_ml.models.learning import LEARNING, NetworkFamily
from pump_ml.models.network import NetworkPredictor
from pump_ml.models.space import Choice, Range


class Cnn1dPredictor(NetworkPredictor):
    """What `Cnn1d` learnt."""

    family = "cnn1d"


@dataclass(frozen=True)
class Cnn1d(NetworkFamily):
    """Means of a few readings, a pointwise layer that mixes sensors, residual convolutions, two dense layers.

    Args:
        filters: channels of the trunk.
        kernel: steps a convolution looks at.
        blocks: residual convolutions.
        readout: what the dense layers see: the ``mean`` over the steps, or all ``steps``, each with weights of its own,
            where it matters what comes first.
    """

    filters: int = 96
    kernel: int = 3
    blocks: int = 2
    readout: Literal["mean", "steps"] = "mean"
    epochs: int = 90
    patience: int = 24

    name: ClassVar[str] = "cnn1d"
    predictor: ClassVar[type[NetworkPredictor]] = Cnn1dPredictor
    space: ClassVar[Mapping[str, Range | Choice]] = {
        **LEARNING,
        "filters": Range(8, 256, log=True),
        "kernel": Choice((3, 5, 7)),
        "blocks": Range(0, 6),
        "readout": Choice(("mean", "steps")),
    }

    def trunk(self, *inputs: Any) -> Any:
        """See `NetworkFamily.trunk`."""
        from keras import layers

        [readings] = inputs
        x = layers.Conv1D(self.filters, 1, activation="swish")(readings)
        for _ in range(self.blocks):
            x = layers.add([x, layers.Conv1D(self.filters, self.kernel, padding="same", activation="swish")(x)])
        x = layers.Flatten()(x) if self.readout == "steps" else layers.GlobalAveragePooling1D()(x)
        x = layers.Dense(self.dense, activation="swish")(x)
        x = layers.Dropout(self.dropout)(x)
        return layers.Dense(self.dense, activation="swish")(x)
