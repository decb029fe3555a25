"""How every network is trained, saved and asked. A network is a trunk; its heads follow from the targets."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's banner; errors still show

import keras
from keras import layers

from pump_ml.errors import DataError
from pump_ml.models import (
    Answers,
    Array,
    Predictor,
    Watch,
    class_codes,
    fitted_assets,
    training_values,
)
from pump_ml.models.features import Channels
from pump_ml.problems import Problem, Target
from pump_ml.windows import Windows

logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of each batch size it meets

CLASS_WEIGHT, VALUE_WEIGHT = 0.2, 3.0
"""Weights of a classification and a regression head: classes are learnt first and fast, then values need the
gradient."""
BATCH_ANSWERS = 2048


class NetworkPredictor(Predictor):
    """A network with a head a target; regression heads answer in units of the training standard deviation."""

    def __init__(
        self,
        problem: Problem,
        sensors: tuple[str, ...],
        assets: tuple[str, ...],
        network: Any,
        channels: Channels,
        scales: dict[str, tuple[float, float]],
    ) -> None:
        super().__init__(problem, sensors, assets)
        self.network, self.channels, self.scales = network, channels, scales

    def answer(self, windows: Windows) -> Answers:
        """See `Predictor.answer`."""
        x = self.channels.transform(windows)
        parts = [self.network.predict_on_batch(x[i : i + BATCH_ANSWERS]) for i in range(0, len(x), BATCH_ANSWERS)]
        answers: Answers = {}
        for target in self.problem.targets:
            raw = np.concatenate([part[target.name] for part in parts]).astype(np.float64)
            if target.kind == "regression":
                mean, scale = self.scales[target.name]
                raw = raw[:, 0] * scale + mean
            answers[target.name] = raw
        return answers

    def save_state(self, folder: Path) -> dict[str, Any]:
        """The network in Keras' own format."""
        self.network.save(folder / "network.keras")
        return {"channels": self.channels.to_json(), "scales": self.scales}

    @classmethod
    def load_state(
        cls, folder: Path, state: dict[str, Any], problem: Problem, sensors: tuple[str, ...], assets: tuple[str, ...]
    ) -> Self:
        """See `Predictor.load_state`."""
        network = keras.saving.load_model(folder / "network.keras", compile=False, safe_mode=True)
        scales = {name: (mean, scale) for name, (mean, scale) in state["scales"].items()}
        return cls(problem, sensors, assets, network, Channels.from_json(state["channels"]), scales)


def fit_network(
    predictor: type[NetworkPredictor],
    trunk: Callable[[Any], Any],
    train: Windows,
    validation: Windows,
    problem: Problem,
    *,
    seed: int,
    watch: Watch,
    epochs: int,
    steps: int,
    rate: float,
    decay: float,
    patience: int,
) -> NetworkPredictor:
    """Train a network and give back its best epoch by validation loss.

    Args:
        predictor: the family's predictor class.
        trunk: maps the input tensor ``(batch, length, channels)`` to features ``(batch, n)`` that all heads share.
        train: what it learns from; channels and label scales are fitted on these windows alone.
        validation: what decides when the learning rate falls and when to stop.
        problem: targets, which become heads.
        seed: of initial weights, order of batches and dropout.
        watch: gets the losses of each epoch, and the progress.
        epochs: most epochs.
        steps: batches in an epoch, about; the batch is the power of two from 32 to 512 that comes nearest.
        rate: learning rate of AdamW (Loshchilov and Hutter 2019).
        decay: its weight decay.
        patience: epochs without a better validation loss before it stops; the rate halves after a third of them.

    Raises:
        DataError: there are no windows to learn from or to validate on.
    """
    if not len(train) or not len(validation):
        raise DataError(f"{len(train)} training and {len(validation)} validation windows; expected some of each")
    keras.utils.set_random_seed(seed)
    channels = Channels.fit(train, problem)
    scales = {t.name: _scale(training_values(train, t)) for t in problem.targets if t.kind == "regression"}
    inputs = keras.Input((train.x.shape[1], len(channels.mean)))
    features = trunk(inputs)
    network = keras.Model(inputs, {target.name: _head(target, features) for target in problem.targets})
    network.compile(
        keras.optimizers.AdamW(rate, weight_decay=decay),
        loss={target.name: _loss(target) for target in problem.targets},
        loss_weights={
            target.name: CLASS_WEIGHT if target.kind == "classes" else VALUE_WEIGHT for target in problem.targets
        },
    )
    network.fit(
        channels.transform(train),
        _labels(train, problem, scales),
        validation_data=(channels.transform(validation), _labels(validation, problem, scales)),
        validation_batch_size=BATCH_ANSWERS,
        epochs=epochs,
        batch_size=batch_size(len(train), steps),
        verbose=0,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=max(patience // 3, 1), min_lr=rate / 50),
            keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True),
            keras.callbacks.LambdaCallback(on_epoch_end=_reporter(watch, epochs)),
        ],
    )
    watch(epochs, {"progress": 1.0})  # it may have stopped early
    return predictor(problem, train.sensors, fitted_assets(train, validation), network, channels, scales)


def batch_size(windows: int, steps: int) -> int:
    """The power of two from 32 to 512 that makes about `steps` batches of `windows`."""
    return int(2 ** np.clip(np.round(np.log2(max(windows / steps, 1.0))), 5, 9))


def _reporter(watch: Watch, epochs: int) -> Callable[[int, dict[str, Any]], None]:
    def report(epoch: int, logs: dict[str, Any]) -> None:
        losses = {
            f"validation/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}": float(value)
            for name, value in logs.items()
            if name.endswith("loss")
        }
        watch(epoch, losses | {"progress": (epoch + 1) / epochs})

    return report


def _scale(values: Array) -> tuple[float, float]:
    scale = float(values.std())
    return float(values.mean()), scale if scale > 0.0 else 1.0


def _head(target: Target, features: Any) -> Any:
    if target.kind == "classes":
        return layers.Dense(len(target.classes), activation="softmax", name=target.name)(features)
    return layers.Dense(1, name=target.name)(features)


def _loss(target: Target) -> str:
    if target.kind == "classes":
        return "sparse_categorical_crossentropy"
    return "mean_absolute_error" if target.metric == "mae" else "mean_squared_error"


def _labels(
    windows: Windows, problem: Problem, scales: dict[str, tuple[float, float]]
) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
    labels: dict[str, NDArray[np.int64] | NDArray[np.float32]] = {}
    for target in problem.targets:
        if target.kind == "classes":
            labels[target.name] = class_codes(windows.labels[target.name], target.classes)
        else:
            mean, scale = scales[target.name]
            labels[target.name] = ((training_values(windows, target) - mean) / scale).astype(np.float32)
    return labels
