"""One-dimensional convolutional network over readings: a shared trunk, a head a target."""

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


class Cnn1dPredictor(NetworkPredictor):
    """What `Cnn1d` learnt."""

    family: ClassVar[str] = "cnn1d"


@dataclass(frozen=True)
class Cnn1d:
    """Means of a few readings, a pointwise layer that mixes sensors, residual convolutions, the mean, two dense layers.

    Readings are averaged before anything bends them: what an early fault does is smaller than a reading's noise.

    Args:
        filters: channels of the trunk.
        pool: readings that are averaged into one step.
        kernel: steps a convolution looks at.
        blocks: residual convolutions.
        dense: width of the dense layers.
        dropout: share of features that a training step leaves out.
        epochs, steps, rate, decay, patience, focus, balanced, deterministic: see `pump_ml.models.keras_fit.Learning`.
    """

    filters: int = 96
    pool: int = 10
    kernel: int = 3
    blocks: int = 2
    dense: int = 128
    dropout: float = 0.1
    epochs: int = 90
    steps: int = 128
    rate: float = 2e-3
    decay: float = 0.1
    patience: int = 24
    focus: float = 0.0
    balanced: bool = False
    deterministic: bool = False

    name: ClassVar[str] = "cnn1d"
    inputs: ClassVar[Literal["readings", "waveform"]] = "readings"
    predictor: ClassVar[type[Predictor]] = Cnn1dPredictor
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    space: ClassVar[Mapping[str, Range | Choice]] = {
        "filters": Range(8, 256, log=True),
        "pool": Choice((1, 2, 3, 5, 6, 10, 12, 15)),
        "kernel": Choice((3, 5, 7)),
        "blocks": Range(0, 6),
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
            Cnn1dPredictor,
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

        x = layers.Conv1D(self.filters, 1, activation="swish")(inputs)
        for _ in range(self.blocks):
            x = layers.add([x, layers.Conv1D(self.filters, self.kernel, padding="same", activation="swish")(x)])
        x = layers.GlobalAveragePooling1D()(x)
        x = layers.Dense(self.dense, activation="swish")(x)
        x = layers.Dropout(self.dropout)(x)
        return layers.Dense(self.dense, activation="swish")(x)
