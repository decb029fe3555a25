"""What the families of networks share: how long and how fast they learn, and the way into `keras_fit`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pump_ml.models import Predictor, Recording, Watch
from pump_ml.models.network import NetworkPredictor
from pump_ml.models.space import Choice, Range
from pump_ml.problems import Problem
from pump_ml.windows import Windows

if TYPE_CHECKING:
    from pump_ml.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class NetworkFamily(ABC):
    """A trunk, which a family brings, and what all of them take.

    Args:
        pool: readings that are averaged into one step, before anything bends them: what an early fault does is smaller
            than a reading's noise.
        dense: width of the dense layers.
        dropout: share of features that a training step leaves out.
        epochs: most epochs.
        steps: batches in an epoch, about; the batch is the power of two from 32 to 512 that comes nearest.
        rate: learning rate of AdamW (Loshchilov and Hutter 2019).
        decay: its weight decay.
        ema_momentum: m of a running mean of the weights, after each training step ``m * mean + (1 - m) * weights``
            (Keras' ``use_ema``), which is validated and kept instead of the weights; 0 keeps the weights.
        patience: epochs without a better validation loss before it stops; the rate halves after a third of them.
        focus: gamma of the focal loss of classes; 0 is the cross-entropy.
        balanced: whether classes weigh the same however often they occur.
        deterministic: the same weights to the last digit for one seed and number of cores; slower. It is of the
            process: once a network asked for it, networks that learn later in the same process are so as well.
    """

    pool: int = 10
    dense: int = 128
    dropout: float = 0.1
    epochs: int = 60
    steps: int = 128
    rate: float = 2e-3
    decay: float = 0.1
    ema_momentum: float = 0.0
    patience: int = 20
    focus: float = 0.0
    balanced: bool = False
    deterministic: bool = False

    name: ClassVar[str]
    inputs: ClassVar[Literal["readings", "waveform"]] = "readings"
    predictor: ClassVar[type[NetworkPredictor]]
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime",)

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
        from pump_ml.models.keras_fit import fit_network  # where a network learns, TensorFlow is there

        return fit_network(self, train, validation, problem, seed=seed, watch=watch, checkpoint=checkpoint)

    @abstractmethod
    def trunk(self, *inputs: Any) -> Any:
        """Keras layers from inputs to the features that all heads share, ``(batch, n)``.

        Args:
            inputs: the channels ``(batch, steps, channels)``, and behind them the images of `front`, if there are any.
        """

    def front(self, recording: Recording, waves: NDArray[np.float32]) -> Any:
        """A Keras model from waveforms to images, which learns nothing more: the first part of the network.

        Only families whose `inputs` are waveforms have one.

        Args:
            recording: how the waveforms were taken.
            waves: those of training windows, ``(windows, channels, samples)``.
        """
        del recording, waves
        raise TypeError(f"family {self.name!r} learns from {self.inputs}, so there are no waveforms to look at")


LEARNING: Mapping[str, Range | Choice] = {
    "pool": Choice((1, 2, 3, 5, 6, 10, 12, 15)),
    "dense": Range(8, 512, log=True),
    "dropout": Range(0.0, 0.6),
    "epochs": Range(1, 1000, tuned=False),
    "steps": Range(8, 2048, tuned=False),
    "rate": Range(1e-4, 1e-2, log=True),
    "decay": Range(1e-4, 1.0, log=True),
    "ema_momentum": Choice((0.0, 0.99, 0.995, 0.999)),
    "patience": Range(1, 500, tuned=False),
    # These change what the loss means, and trials are compared by it.
    "focus": Range(0.0, 5.0, tuned=False),
    "balanced": Choice((False, True), tuned=False),
    "deterministic": Choice((False, True), tuned=False),
}
"""Bounds of the hyper-parameters that all networks have."""
