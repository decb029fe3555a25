"""How every network is trained. A network is a trunk; its heads follow from the targets.

The windows' rows lie once in a table on the device, and each step gathers its batch from there: overlapping windows
take no more memory than their readings. An epoch is one call of a compiled loop, so the many small steps of a small
network cost no Python.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's banner; errors still show

import keras
import tensorflow as tf
from keras import layers

from pump_ml.errors import DataError
from pump_ml.models import Array, Recording, Watch, class_codes, fitted_assets, training_values
from pump_ml.models.checkpoint import Checkpoint
from pump_ml.models.features import Channels
from pump_ml.models.learning import NetworkFamily
from pump_ml.models.losses import SparseFocalLoss
from pump_ml.models.network import NetworkPredictor, waveform_feed, waveforms_of
from pump_ml.models.onnx_export import as_keras, export
from pump_ml.problems import Problem, Target
from pump_ml.windows import Windows

logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of each batch size it meets
log = logging.getLogger(__name__)

CLASS_WEIGHT, VALUE_WEIGHT = 0.2, 3.0
"""Weights of a classification and a regression head: classes are learnt first and fast, then values need the
gradient."""
LARGE = 64 * 2**20
"""Bytes of a table of single precision above which it is kept in half precision. That rounds a channel by less than
1/2000 of itself (or 3e-8), where a reading's noise is hundreds of times as large; answers take single precision."""
MOST = float(np.finfo(np.float16).max)
COMPARED = 256
"""Windows on which the exported network is compared with the one that learnt."""


def fit_network(
    family: NetworkFamily,
    train: Windows,
    validation: Windows,
    problem: Problem,
    *,
    seed: int,
    watch: Watch,
    checkpoint: Checkpoint | None = None,
) -> NetworkPredictor:
    """Train a network and give back its best epoch by validation loss.

    Args:
        family: trunk, and how long and how fast it learns.
        train: what it learns from; channels and label scales are fitted on these windows alone.
        validation: what decides when the learning rate falls and when to stop.
        problem: targets, which become heads.
        seed: of initial weights, order of batches and dropout.
        watch: gets the losses of each epoch, and the progress.
        checkpoint: where each epoch is kept, and taken up again; None keeps none.

    Raises:
        DataError: there are no windows to learn from or to validate on.
    """
    if not len(train) or not len(validation):
        raise DataError(f"{len(train)} training and {len(validation)} validation windows; expected some of each")
    keras.utils.set_random_seed(seed)
    if family.deterministic:
        tf.config.experimental.enable_op_determinism()
    channels = Channels.fit(train, problem, family.pool)
    offsets = channels.offsets(train.length)
    scales = {t.name: _scale(training_values(train, t)) for t in problem.targets if t.kind == "regression"}
    inputs = {"readings": keras.Input((len(offsets), len(channels.mean)), name="readings")}
    recording, fixed = None, None
    images: list[NDArray[np.float32] | None] = [None, None]
    if family.inputs == "waveform":
        recording = _recording(train)
        waves = [waveforms_of(part, recording)[part.taken] for part in (train, validation)]
        fixed = family.front(recording, waves[0])
        images = [_in_batches(fixed, each) for each in waves]
        inputs["image"] = keras.Input(fixed.output_shape[1:], name="image")
    features = family.trunk(*inputs.values())
    network = keras.Model(inputs, _heads(problem, features))
    parts = [
        _Part(each, channels, image, problem, scales) for each, image in zip((train, validation), images, strict=True)
    ]
    _Trainer(network, problem, family, seed, watch, checkpoint).fit(*parts)
    if fixed is not None:
        given = {"readings": keras.Input(inputs["readings"].shape[1:], name="readings")}
        given["waveform"] = keras.Input(fixed.input_shape[1:], name="waveform")
        network = keras.Model(given, network({"readings": given["readings"], "image": fixed(given["waveform"])}))
    onnx, difference = export(network, parts[0].compared(train, recording))
    return family.predictor(
        problem,
        train.sensors,
        fitted_assets(train, validation),
        onnx=onnx,
        keras=as_keras(network),
        channels=channels,
        scales=scales,
        difference=difference,
        recording=recording,
    )


def _in_batches(model: Any, given: NDArray[np.float32], size: int = 256) -> NDArray[np.float32]:
    return np.concatenate([model.predict_on_batch(given[at : at + size]) for at in range(0, len(given), size)])


def _recording(windows: Windows) -> Recording:
    found = windows.waveforms
    if found is None or found.values is None:
        raise DataError("this family looks at waveforms, and these windows have none")
    return Recording(found.channels, found.rate_hz, found.values.shape[2])


def batch_size(windows: int, steps: int) -> int:
    """The power of two from 32 to 512 that makes about `steps` batches of `windows`, but no more than there are."""
    return min(windows, int(2 ** np.clip(np.round(np.log2(max(windows / steps, 1.0))), 5, 9)))


class _Part:
    """Windows as the device holds them: rows, where the windows begin, maybe an image of each, and labels."""

    def __init__(
        self,
        windows: Windows,
        channels: Channels,
        images: NDArray[np.float32] | None,
        problem: Problem,
        scales: Mapping[str, tuple[float, float]],
    ) -> None:
        self.count, self.offsets = len(windows), tf.constant(channels.offsets(windows.length), tf.int32)
        # Filled piece by piece, and by scatter: TensorFlow would copy a whole array, and a slice of a variable as well.
        shape = len(windows.readings), len(channels.mean)
        half = 4 * math.prod(shape) > LARGE
        self.table = tf.Variable(tf.zeros(shape, tf.float16 if half else tf.float32), trainable=False)
        for here, rows in channels.pieces(windows):
            kept = rows.clip(-MOST, MOST).astype(np.float16) if half else rows
            self.table.scatter_update(tf.IndexedSlices(kept, tf.range(here.start, here.stop)))
        self.starts = tf.constant(windows.starts, tf.int32)
        self.images = None if images is None else tf.Variable(images, trainable=False)
        self.labels = {target.name: tf.constant(_labels(windows, target, scales)) for target in problem.targets}

    def batch(self, places: Any) -> tuple[Any, dict[str, Any]]:
        """Inputs and labels of some windows."""
        inputs = {"readings": self._readings(places)}
        if self.images is not None:
            inputs["image"] = tf.gather(self.images, places)
        return inputs, {name: tf.gather(each, places) for name, each in self.labels.items()}

    def compared(self, windows: Windows, recording: Recording | None) -> dict[str, NDArray[np.float32]]:
        """Inputs of the stored network for the first of the windows."""
        given = {"readings": self._readings(tf.range(min(COMPARED, self.count))).numpy()}
        return given if recording is None else given | waveform_feed(windows, slice(0, COMPARED), recording)

    def _readings(self, places: Any) -> Any:
        return tf.cast(tf.gather(self.table, tf.gather(self.starts, places)[:, None] + self.offsets), tf.float32)


class _Trainer:
    """Epochs until the validation loss turns; Keras' callbacks say when the rate falls and when to stop."""

    def __init__(
        self,
        network: Any,
        problem: Problem,
        family: NetworkFamily,
        seed: int,
        watch: Watch,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.network, self.problem, self.family = network, problem, family
        self.seed, self.watch, self.checkpoint = seed, watch, checkpoint
        self.optimizer = keras.optimizers.AdamW(
            family.rate, weight_decay=family.decay, use_ema=family.ema_momentum > 0.0, ema_momentum=family.ema_momentum
        )
        self.optimizer.build(network.trainable_variables)
        network.compile(self.optimizer)
        self.losses = {target.name: _loss(target, family.focus) for target in problem.targets}
        self.weights = {t.name: CLASS_WEIGHT if t.kind == "classes" else VALUE_WEIGHT for t in problem.targets}
        patience = family.patience
        self.slower = keras.callbacks.ReduceLROnPlateau(
            factor=0.5, patience=max(patience // 3, 1), min_lr=family.rate / 50
        )
        self.stop = keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
        self.callbacks = keras.callbacks.CallbackList([self.slower, self.stop], model=network)
        self.points: list[tuple[int, dict[str, float]]] = []

    def fit(self, train: _Part, validation: _Part) -> None:
        """Learn; the network has the weights of its best epoch afterwards, or their running mean then."""
        self.class_weights = {
            t.name: tf.constant(_balance(train.labels[t.name].numpy(), len(t.classes)), tf.float32)
            for t in self.problem.targets
            if t.kind == "classes" and self.family.balanced
        }
        learn, judge = self._compiled(train, learns=True), self._compiled(validation, learns=False)
        size = batch_size(train.count, self.family.steps)
        steps = train.count // size
        checked = np.array_split(np.arange(validation.count), -(-validation.count // 2048))
        self.callbacks.on_train_begin()
        begin = self._taken_up()
        for epoch in range(begin, self.family.epochs):
            order = np.arange(train.count, dtype=np.int32)
            np.random.default_rng([self.seed, epoch]).shuffle(order)
            losses = learn(tf.constant(order[: steps * size].reshape(steps, size)))
            logs = {name: float(value) for name, value in losses.items()}
            if not np.isfinite(logs["loss"]):
                raise DataError(
                    f"the network's loss is {logs['loss']} after epoch {epoch + 1}; choose a lower rate than "
                    f"{self.family.rate:g}"
                )
            with self._mean_weights():
                found = [judge(tf.constant(places[None], tf.int32)) for places in checked]
                shares = [len(places) / validation.count for places in checked]
                logs |= {f"val_{n}": sum(float(f[n]) * s for f, s in zip(found, shares, strict=True)) for n in found[0]}
                self.callbacks.on_epoch_end(epoch, logs)
            self._report(epoch, logs)
            self._keep(epoch)
            if self.network.stop_training:
                break
        self.network.set_weights(self.stop.best_weights)
        self.watch(self.family.epochs, {"progress": 1.0})  # it may have stopped early

    @contextmanager
    def _mean_weights(self) -> Iterator[None]:
        """Meanwhile the network has the running mean of its weights, where one is kept."""
        if not self.optimizer.use_ema:
            yield
            return
        last = self.network.get_weights()
        self.optimizer.finalize_variable_values(self.network.trainable_variables)
        yield
        self.network.set_weights(last)

    def _compiled(self, part: _Part, *, learns: bool) -> Callable[[Any], dict[str, Any]]:
        """A loop over batches ``(steps, batch)`` of places; gives the mean losses."""
        names = ["loss", *(f"{name}_loss" for name in self.losses)]

        def step(places: Any) -> Any:
            x, y = part.batch(places)
            with tf.GradientTape() as tape:
                answers = self.network(x, training=learns)
                each = [self._mean_loss(name, y[name], answers[name]) for name in self.losses]
                total = tf.add_n([self.weights[n] * loss for n, loss in zip(self.losses, each, strict=True)])
            if learns:
                variables = self.network.trainable_variables
                self.optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
            return tf.stack([total, *each])

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator] # TensorFlow ships no types
        def loop(order: Any) -> Any:
            summed = tf.zeros(len(names))
            for number in tf.range(tf.shape(order)[0]):
                summed += step(order[number])
            return summed / tf.cast(tf.shape(order)[0], tf.float32)

        def run(order: Any) -> dict[str, Any]:
            return dict(zip(names, loop(order).numpy(), strict=True))

        return run

    def _mean_loss(self, name: str, true: Any, answer: Any) -> Any:
        each = self.losses[name](true, answer)
        if name not in self.class_weights:
            return tf.reduce_mean(each)
        return tf.reduce_mean(each * tf.gather(self.class_weights[name], true))

    def _report(self, epoch: int, logs: Mapping[str, float]) -> None:
        values = {
            f"validation/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}": value
            for name, value in logs.items()
        }
        values["progress"] = (epoch + 1) / self.family.epochs
        self.points.append((epoch, values))
        self.watch(epoch, values)

    def _keep(self, epoch: int) -> None:
        """Write the checkpoint of an epoch."""
        if self.checkpoint is None:
            return
        kept = {
            "weights": [each.numpy() for each in self.network.variables],
            "optimizer": [each.numpy() for each in self.optimizer.variables],
            "best": self.stop.best_weights,
        }
        arrays = {f"{kind}{number}": each for kind, found in kept.items() for number, each in enumerate(found)}
        state = {
            "epoch": epoch,
            "stop": {name: _plain(getattr(self.stop, name)) for name in ("best", "wait", "best_epoch")},
            "slower": {name: _plain(getattr(self.slower, name)) for name in ("best", "wait", "cooldown_counter")},
            "over": bool(self.network.stop_training),
            "points": self.points,
        }
        self.checkpoint.save(arrays, state)

    def _taken_up(self) -> int:
        """The epoch to begin with: 0, or the one after the checkpoint's, whose state is restored."""
        found = self.checkpoint.load() if self.checkpoint else None
        if found is None:
            return 0
        arrays, state = found
        for kind, variables in (("weights", self.network.variables), ("optimizer", self.optimizer.variables)):
            for number, variable in enumerate(variables):
                variable.assign(arrays[f"{kind}{number}"])
        self.stop.best_weights = [arrays[f"best{number}"] for number in range(len(self.network.get_weights()))]
        for callback, name in ((self.stop, "stop"), (self.slower, "slower")):
            for attribute, value in state[name].items():
                setattr(callback, attribute, value)
        for epoch, values in state["points"]:
            self.points.append((epoch, values))
            self.watch(epoch, values)
        log.warning(
            "goes on after epoch %d of %d, which an earlier try reached", state["epoch"] + 1, self.family.epochs
        )
        return self.family.epochs if state["over"] else int(state["epoch"]) + 1


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _balance(codes: NDArray[np.int32], classes: int) -> NDArray[np.float64]:
    """Weight of each class, inverse to how often it occurs, 1 on average over the windows."""
    count = np.bincount(codes, minlength=classes)
    return np.where(count > 0, len(codes) / np.maximum(count, 1) / max((count > 0).sum(), 1), 0.0)


def _scale(values: Array) -> tuple[float, float]:
    scale = float(values.std())
    return float(values.mean()), scale if scale > 0.0 else 1.0


def _heads(problem: Problem, features: Any) -> dict[str, Any]:
    """An output a target.

    Where the problem has fault modes, a value is answered for each of them and weighed by their probabilities, as the
    same damage means another value in each.
    """
    made: dict[str, Any] = {}
    for target in problem.targets:
        if target.kind == "classes":
            made[target.name] = layers.Dense(len(target.classes), activation="softmax", name=target.name)(features)
    for target in problem.targets:
        if target.kind == "regression" and problem.mode is not None:
            modes = made[problem.mode]
            made[target.name] = layers.Dot(1, name=target.name)([modes, layers.Dense(modes.shape[-1])(features)])
        elif target.kind == "regression":
            made[target.name] = layers.Dense(1, name=target.name)(features)
    return made


def _loss(target: Target, focus: float) -> Any:
    """Loss of each sample."""
    if target.kind == "classes":
        if focus > 0.0:
            return SparseFocalLoss(focus, reduction=None)
        return keras.losses.SparseCategoricalCrossentropy(reduction=None)
    kind = keras.losses.MeanAbsoluteError if target.metric == "mae" else keras.losses.MeanSquaredError
    return kind(reduction=None)


def _labels(windows: Windows, target: Target, scales: Mapping[str, tuple[float, float]]) -> NDArray[Any]:
    if target.kind == "classes":
        return class_codes(windows.labels[target.name], target.classes).astype(np.int32)
    mean, scale = scales[target.name]
    return ((training_values(windows, target) - mean) / scale).astype(np.float32)[:, None]
