"""Gated recurrent network over readings: a shared trunk, a head a target."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pump_ml.models import Predictor, Watch
from pump_ml.models.network import NetworkPredictor
from pump_ml.models.space import Choice, Range
from pump_ml.problems import Problem
from pump_ml.windows import Windows

if TYPE_CHECKING:
    from pump_ml.models.checkpoint import Checkpoint


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
        epochs, steps, rate, decay, patience, focus, balanced, deterministic: see `pump_ml.models.keras_fit.Learning`.
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
    focus: float = 0.0
    balanced: bool = False
    deterministic: bool = False

    name: ClassVar[str] = "gru"
    inputs: ClassVar[Literal["readings", "waveform"]] = "readings"
    predictor: ClassVar[type[Predictor]] = GruPredictor
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    space: ClassVar[Mapping[str, Range | Choice]] = {
        "units": Range(8, 256, log=True),
        "pool": Choice((3, 5, 6, 10, 12, 15)),
        "dense": Range(8, 512, log=True),
        "dropout": Range(0.0, 0.6),
        "epochs": Range(1, 1000, tuned=False),
        "steps": Range(8, 2048, tuned=False),
        "rate": Range(1e-4, 1e-2, log=True),
        "decay": Range(1e-4, 1.0, log=True),
        "patience": Range(1, 500, tuned=False),
        # These change what the loss means, and trials are compared by it.
        "focus": Range(0.0, 5.0, tuned=False),
        "balanced": Choice((False, True), tuned=False),
        "deterministic": Choice((False, True), tuned=False),
    }

    def fit(
        self,
        train: Windows,
        validation: Windows,
        problem: Problem,
        *,
        seed: int,
        watch: Watch,
        checkpoint: "Checkpoint | None" = None,
    ) -> Predictor:
        """See `pump_ml.models.keras_fit.fit_network`."""
        from pump_ml.models.keras_fit import Learning, fit_network  # where a network learns, TensorFlow is there

        learning = Learning(
            self.epochs, self.steps, self.rate, self.decay, self.patience, self.focus, self.balanced, self.deterministic
        )
        return fit_network(
            GruPredictor,
            self._trunk,
            train,
            validation,
            problem,
            learning,
            seed=seed,
            watch=watch,
            pool=self.pool,
            checkpoint=checkpoint,
        )

    def _trunk(self, inputs: Any) -> Any:
        from keras import layers

        x = layers.Dense(self.units, activation="swish")(inputs)
        # Unrolled, since a loop costs more than the few steps, and since ONNX has no loop that is as fast.
        x = layers.GRU(self.units, unroll=True)(x)
        x = layers.Dropout(self.dropout)(x)
        return layers.Dense(self.dense, activation="swish")(x)
