"""Gated recurrent network over readings: a shared trunk, a head a target."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from keras import layers

from pump_ml.models import Predictor, Watch
from pump_ml.models.keras_fit import NetworkPredictor, fit_network
from pump_ml.problems import Problem
from pump_ml.windows import Windows


class GruPredictor(NetworkPredictor):
    """What `Gru` learnt."""

    family: ClassVar[str] = "gru"


@dataclass(frozen=True)
class Gru:
    """A gated recurrent layer (Cho et al. 2014) over steps of a few readings each, and a dense layer.

    Args:
        units: width of the recurrent layer.
        pool: readings that are averaged into one step, so that the recursion is short.
        dense: width of the dense layer.
        dropout: share of features that a training step leaves out.
        epochs: most epochs.
        steps: batches in an epoch, about; the batch size follows from it.
        rate: learning rate.
        decay: weight decay.
        patience: epochs without a better validation loss before it stops.
    """

    units: int = 64
    pool: int = 5
    dense: int = 96
    dropout: float = 0.1
    epochs: int = 60
    steps: int = 128
    rate: float = 2e-3
    decay: float = 2e-2
    patience: int = 15

    name: ClassVar[str] = "gru"
    inputs: ClassVar[Literal["readings", "waveform"]] = "readings"
    predictor: ClassVar[type[Predictor]] = GruPredictor
    requires: ClassVar[tuple[str, ...]] = ("keras", "tensorflow-cpu", "tensorflow")

    def fit(self, train: Windows, validation: Windows, problem: Problem, *, seed: int, watch: Watch) -> Predictor:
        """See `pump_ml.models.keras_fit.fit_network`."""
        return fit_network(
            GruPredictor, self._trunk, train, validation, problem, seed=seed, watch=watch, epochs=self.epochs,
            steps=self.steps, rate=self.rate, decay=self.decay, patience=self.patience,
        )  # fmt: skip

    def _trunk(self, inputs: Any) -> Any:
        x = layers.Dense(self.units, activation="swish")(inputs)
        x = layers.AveragePooling1D(self.pool, padding="same")(x)
        x = layers.GRU(self.units)(x)
        x = layers.Dropout(self.dropout)(x)
        return layers.Dense(self.dense, activation="swish")(x)
