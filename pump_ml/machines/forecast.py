"""The health forecast: a recurrent network from a window of readings to the health score some readings later."""

import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's banner; errors still show

import keras
from keras import layers
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from pump_ml.errors import TooFewReadingsError
from pump_ml.machines.health import HealthScore
from pump_ml.machines.kinds import Watch
from pump_ml.machines.policy import Forecast, Health, Policy
from pump_ml.machines.preparation import Prepared
from pump_ml.machines.sequences import create_sequences, unbroken
from pump_ml.machines.trips import operating
from pump_ml.machines.usual import NOT_SENSORS

WHOLE = 0.95
"""A sensor with a smaller share of usable readings in the training part is left out: a window needs all of them."""

ROWS = 65_536
"""Readings that are copied at a time on the way into the network's table: a long period is large enough once."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Parts:
    """First rows of the windows of each part; no reading, nor one that is asked for, is in two of them."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ForecastModel:
    """What was learnt of one machine.

    Args:
        network: GRU as a ``.keras`` file; it answers the change of the score in units of `spread`.
        weights: of the same, as HDF5.
        scaler: of the sensors, fitted on the training part.
        health: the score, fitted on the training part.
        sensors: columns of the readings that it looks at, in the scaler's order.
        spread: standard deviation of the change in the training windows.
        policy: how it was made.
        metrics: on the test windows: ``mae, rmse, r2``, the RMSE of persistence and ridge, the skill over both.
        test_from: when its test part begins, in seconds since 1970.
    """

    network: bytes
    weights: bytes
    scaler: MinMaxScaler
    health: HealthScore
    sensors: tuple[str, ...]
    spread: float
    policy: Forecast
    metrics: Mapping[str, float]
    test_from: float

    def files(self, told: Mapping[str, Any]) -> dict[str, bytes]:
        """See `pump_ml.machines.kinds.Learnt`: weights and scaler, and both in formats that run no code."""
        return {
            "weights": self.weights,
            "scaler": pickle.dumps(self.scaler, protocol=5),
            "network": self.network,
            "scaling": json.dumps({**told, **self._to_json()}, indent=1).encode(),
        }

    def gate(self) -> tuple[bool, str]:
        """A forecast has to beat the score that stays as it is."""
        skill = self.metrics["skill_over_persistence"]
        if skill > 0.0:
            return True, f"beats persistence on its test part: skill {skill:.3f}"
        return False, (
            f"does not beat persistence on its test part: skill {skill:.3f}, expected above 0; the score that stays "
            "as it is forecasts as well"
        )

    def _to_json(self) -> dict[str, Any]:
        return {
            "sensors": list(self.sensors),
            "low": self.scaler.data_min_.tolist(),
            "high": self.scaler.data_max_.tolist(),
            "health": self.health.to_json(),
            "spread": self.spread,
            "forecast": self.policy.model_dump(mode="json"),
        }


def learn(
    prepared: Prepared, policy: Policy, limits: Mapping[str, float], *, seed: int, watch: Watch | None = None
) -> ForecastModel:
    """See `pump_ml.machines.kinds.Kind`."""
    del limits  # the score knows none
    return fit_forecast(prepared, policy.forecast, policy.health, seed=seed, watch=watch)


def fit_forecast(
    prepared: Prepared, policy: Forecast, formula: Health, *, seed: int, watch: Watch | None = None
) -> ForecastModel:
    """Learn one machine's forecast and judge it on its latest readings.

    Readings while the machine stands still have no health, and no window spans a stop: when it is switched off is an
    operator's decision.

    Args:
        prepared: the machine's readings.
        policy: lengths, shares and how long it learns.
        formula: of the health score.
        seed: of the weights and of the order of windows.
        watch: called with each epoch.

    Raises:
        DataError: a sensor of the health score has no readings, or a part has no windows.
    """
    runs = operating(prepared)
    cut = int(cuts(runs, policy)[0])
    in_training = np.zeros(len(prepared), dtype=np.bool_)
    in_training[:cut] = runs[:cut]
    sensors = _whole(prepared, in_training, formula)
    parts = divide(prepared, runs, policy, sensors)
    columns = {name: prepared.column(name) for name in formula.sensors}
    health = HealthScore.fit({name: each[in_training] for name, each in columns.items()}, formula)
    places = [prepared.sensors.index(name) for name in sensors]
    scaler = _scaled(prepared.values, places, in_training)
    table = _feature_table(prepared.values, places, scaler, health.of(columns))

    length, horizon = policy.sequence_length, policy.horizon
    windows, asked = create_sequences(table, length, horizon=horizon)
    thinned = Parts(*(_spaced(each, policy.windows) for each in (parts.train, parts.validation, parts.test)))
    last = table[length - 1 :, -1]
    change = {name: asked[at] - last[at] for name, at in vars(thinned).items()}
    spread = float(change["train"].std()) or 1.0
    network = _network(length, table.shape[1])
    _restart(network, policy.rate, seed)
    _learn(
        network,
        _Batches(windows, thinned.train, change["train"] / spread, policy.batch, np.random.default_rng(seed)),
        _Batches(windows, thinned.validation, change["validation"] / spread, 4 * policy.batch),
        policy,
        watch,
    )
    now = last[thinned.test].astype(np.float64)
    found = now + spread * _answers(network, windows, thinned.test)
    ridge = now + _ridge(windows, thinned, change["train"])
    metrics = _judge(asked[thinned.test].astype(np.float64), found, now, ridge)
    test_from = float(prepared.seconds[parts.test[0]])
    return ForecastModel(*_saved(network), scaler, health, sensors, spread, policy, metrics, test_from)


def _feature_table(values: Array, places: list[int], scaler: MinMaxScaler, score: Array) -> NDArray[np.float32]:
    """What the network sees: some columns from 0 to 1 and the score, ``(rows, columns + 1)``."""
    table = np.empty((len(values), len(places) + 1), dtype=np.float32)
    table[:, -1] = score
    for part, piece in _pieces(values):
        table[part, :-1] = scaler.transform(piece[:, places])
    return table


def _scaled(values: Array, places: list[int], chosen: NDArray[np.bool_]) -> MinMaxScaler:
    """A scaler of some columns, fitted on the chosen rows."""
    scaler = MinMaxScaler()
    for part, piece in _pieces(values):
        if chosen[part].any():
            scaler.partial_fit(piece[chosen[part]][:, places])
    return scaler


def cuts(runs: NDArray[np.bool_], policy: Forecast) -> NDArray[np.int64]:
    """Rows where the training part and the validation part end: shares of the readings while the machine runs."""
    running = np.flatnonzero(runs)
    shares = np.array([1.0 - policy.test - policy.validation, 1.0 - policy.test])
    found: NDArray[np.int64] = running[(shares * len(running)).astype(int)] if len(running) else np.zeros(2, np.int64)
    return found


def divide(prepared: Prepared, runs: NDArray[np.bool_], policy: Forecast, sensors: Sequence[str]) -> Parts:
    """The windows of the earliest, the later and the latest readings, a gap between each two parts.

    The gap is a window and its horizon: so nothing that the one part looks at or is asked for is near to what the other
    does. A window has whole readings of `sensors`.

    Raises:
        DataError: a part has no windows.
    """
    places = [prepared.sensors.index(name) for name in sensors]
    usable = runs.copy()
    for piece, values in _pieces(prepared.values):
        usable[piece] &= np.isfinite(values[:, places]).all(axis=1)
    span = policy.sequence_length + policy.horizon
    starts = unbroken(prepared.stretch, usable, policy.sequence_length, policy.horizon)
    first, second = cuts(runs, policy).tolist()
    parts = Parts(
        train=starts[starts + span <= first],
        validation=starts[(starts >= first + span) & (starts + span <= second)],
        test=starts[starts >= second + span],
    )
    for name, part in vars(parts).items():
        if not len(part):
            worst = (
                sensors[int(np.isnan(prepared.values[runs][:, places]).sum(axis=0).argmax())] if runs.any() else "none"
            )
            raise TooFewReadingsError(
                f"the {name} part has no window: {int(usable.sum())} of {len(prepared)} readings are whole and of a "
                f"running machine (the sensor missing most is {worst}), in {len(starts)} windows of "
                f"{policy.sequence_length} and {policy.horizon} ahead without a gap; expected a longer period, shorter "
                "windows, or a longer limit for gaps and holes"
            )
    return parts


def _whole(prepared: Prepared, in_training: NDArray[np.bool_], formula: Health) -> tuple[str, ...]:
    """The sensors but for those that are missing too often in the training part; the health score's have to stay."""
    there, rows = np.zeros(len(prepared.sensors)), max(int(in_training.sum()), 1)
    for part, values in _pieces(prepared.values):
        there += np.isfinite(values[in_training[part]]).sum(axis=0)
    enough = {name for name, count in zip(prepared.sensors, there, strict=True) if count >= WHOLE * rows}
    learnt = (enough - set(NOT_SENSORS)) | set(formula.sensors)
    return tuple(name for name in prepared.sensors if name in learnt)


def _pieces(values: Array) -> Iterator[tuple[slice, Array]]:
    """A table some rows at a time, with where they are: what is made of a piece stays small."""
    for at in range(0, len(values), ROWS):
        part = slice(at, at + ROWS)
        yield part, values[part]


class _Batches(keras.utils.PyDataset):  # type: ignore[misc] # Keras ships no types
    """Batches of windows, copied from the view one at a time; in another order each epoch where `rng` is given."""

    def __init__(
        self,
        windows: NDArray[np.float32],
        starts: NDArray[np.int64],
        answers: NDArray[np.float32],
        size: int,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self.windows, self.starts, self.answers, self.size, self.rng = windows, starts, answers, size, rng
        self.order = np.arange(len(starts)) if rng is None else rng.permutation(len(starts))

    def __len__(self) -> int:
        return -(-len(self.starts) // self.size)

    def __getitem__(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        places = self.order[number * self.size : (number + 1) * self.size]
        return self.windows[self.starts[places]], self.answers[places]

    def on_epoch_end(self) -> None:
        if self.rng is not None:
            self.order = self.rng.permutation(len(self.starts))

    def release(self) -> None:
        """Let go of the readings: TensorFlow keeps each generator that a network learnt from as long as the process."""
        self.windows, self.answers = self.windows[:0].copy(), self.answers[:0].copy()
        self.starts, self.order = self.starts[:0].copy(), self.order[:0].copy()


@lru_cache(maxsize=4)
def _network(length: int, features: int) -> Any:
    """The network, compiled once a shape: machines that are learnt one after the other share it."""
    network = keras.Sequential(
        [
            keras.Input((length, features)),
            layers.GRU(64, return_sequences=True),
            layers.Dropout(0.2),
            layers.GRU(32),
            layers.Dense(1),
        ]
    )
    network.compile(keras.optimizers.Adam(), loss="mse", metrics=["mae"])
    network.optimizer.build(network.trainable_variables)
    return network


@lru_cache(maxsize=8)
def _first_weights(length: int, features: int, seed: int) -> tuple[Array, ...]:
    """What a new network would begin with. Kept, as each network that is made leaves some of it in Keras."""
    keras.utils.set_random_seed(seed)
    return tuple(keras.models.clone_model(_network(length, features)).get_weights())


def _restart(network: Any, rate: float, seed: int) -> None:
    """New weights and a new optimizer's state, as the seed says."""
    network.set_weights(_first_weights(*network.input_shape[1:], seed))
    keras.utils.set_random_seed(seed)
    for layer in network.layers:  # what dropout leaves out
        if (generator := getattr(layer, "seed_generator", None)) is not None:
            generator.state.assign(np.array([seed, 0], dtype=np.uint32))
    for variable in network.optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    network.optimizer.learning_rate = rate
    network.stop_training = False


def _saved(network: Any) -> tuple[bytes, bytes]:
    """A network as a ``.keras`` file, and its weights as HDF5."""
    with tempfile.TemporaryDirectory() as folder:
        whole, weights = Path(folder) / "network.keras", Path(folder) / "network.weights.h5"  # as Keras insists
        network.save(whole)
        network.save_weights(weights)
        return whole.read_bytes(), weights.read_bytes()


def _learn(network: Any, train: _Batches, validation: _Batches, policy: Forecast, watch: Watch | None) -> None:
    callbacks = [
        keras.callbacks.EarlyStopping(patience=policy.patience, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=max(policy.patience // 2, 1)),
    ]
    if watch is not None:
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=_told(watch, policy.epochs)))
    try:
        network.fit(train, validation_data=validation, epochs=policy.epochs, callbacks=callbacks, verbose=0)
    finally:
        train.release()
        validation.release()


def _told(watch: Watch, epochs: int) -> Callable[[int, Mapping[str, float]], None]:
    def told(epoch: int, logs: Mapping[str, float]) -> None:
        values = {
            f"validation/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}": float(value)
            for name, value in logs.items()
        }
        watch(epoch, values | {"progress": (epoch + 1) / epochs})

    return told


def _answers(network: Any, windows: NDArray[np.float32], starts: NDArray[np.int64], size: int = 1024) -> Array:
    found = [network.predict_on_batch(windows[starts[at : at + size]])[:, 0] for at in range(0, len(starts), size)]
    return np.concatenate(found).astype(np.float64)


def _ridge(windows: NDArray[np.float32], parts: Parts, change: NDArray[np.float32]) -> Array:
    """A linear model's answers for the test windows, from each feature's last value, mean and slope (ridge, 1.0)."""

    def told(starts: NDArray[np.int64]) -> Array:
        pieces = []
        for at in range(0, len(starts), 4096):
            each = windows[starts[at : at + 4096]].astype(np.float64)
            steps = np.linspace(-1.0, 1.0, each.shape[1])
            slope = np.einsum("nsf,s->nf", each, steps) / np.square(steps).sum()
            pieces.append(np.hstack([each[:, -1], each.mean(axis=1), slope]))
        return np.concatenate(pieces)

    model = make_pipeline(StandardScaler(), Ridge(1.0)).fit(told(parts.train), change)
    answers: Array = model.predict(told(parts.test))
    return answers


def _judge(true: Array, found: Array, persistence: Array, ridge: Array) -> dict[str, float]:
    """Errors in units of the score; a skill is ``1 - MSE / MSE of the reference`` (Murphy 1988)."""

    def mse(answer: Array) -> float:
        return float(np.square(answer - true).mean())

    variance = float(true.var())
    references = {"persistence": mse(persistence), "ridge": mse(ridge)}
    metrics = {
        "mae": float(np.abs(found - true).mean()),
        "rmse": mse(found) ** 0.5,
        "r2": 1.0 - mse(found) / variance if variance > 0.0 else float("nan"),
        "test_windows": float(len(true)),
    }
    for name, other in references.items():
        metrics[f"{name}_rmse"] = other**0.5
        metrics[f"skill_over_{name}"] = 1.0 - mse(found) / other if other > 0.0 else float("nan")
    return metrics


def _spaced(starts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of them, evenly spaced."""
    if len(starts) <= most:
        return starts
    chosen: NDArray[np.int64] = starts[np.linspace(0, len(starts) - 1, most).round().astype(np.int64)]
    return chosen
