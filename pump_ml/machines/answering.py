"""What a machine's model answers to raw readings, from the files that need no pickle."""

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml.errors import DataError
from pump_ml.machines.health import HealthScore
from pump_ml.machines.policy import Alarm, Forecast, Preparation
from pump_ml.machines.preparation import Prepared, prepare
from pump_ml.machines.sequences import unbroken
from pump_ml.machines.trips import episodes, operating
from pump_ml.machines.usual import NOT_SENSORS, Moments, Usual, observe
from pump_ml.schema import TIME

Array = NDArray[np.float64]


class Answerer(ABC):
    """A model of one machine, ready to be asked.

    Args:
        content: of the model's JSON file.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.machine: str = content["machine"]
        self.sensors: tuple[str, ...] = tuple(content["sensors"])
        self.ranges = {name: (low, high) for name, (low, high) in content["ranges"].items()}
        self.preparation = Preparation.model_validate(content["preparation"])

    def prepare(self, readings: pd.DataFrame) -> Prepared:
        """The readings as the model learnt from such; a sensor that they lack counts as missing.

        Times may be text in ISO 8601, as a server passes them on.

        Raises:
            DataError: there is no time, or it has no zone, or cannot be read.
        """
        if TIME not in readings:
            raise DataError(f"readings lack the column {TIME}; there are: {', '.join(map(str, readings.columns))}")
        try:
            times = pd.to_datetime(readings[TIME], format="ISO8601")
            zone = times.dt.tz
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"column {TIME} cannot be read: {error}; expected such as 2026-01-01T00:00:00Z") from error
        if zone is None:
            raise DataError(f"column {TIME} has no zone; expected such as 2026-01-01T00:00:00Z")
        states = (name for name in NOT_SENSORS if name in self.ranges and name in readings)
        sensors = tuple(dict.fromkeys((*self.sensors, *states)))
        return prepare(readings.assign(**{TIME: times}), self.ranges, self.preparation, sensors=sensors)

    @abstractmethod
    def predict(self, readings: pd.DataFrame) -> pd.DataFrame:
        """The answer at the last reading that can be answered for, one row.

        Args:
            readings: of the machine, with ``time`` and the sensors in the plant's names; others are not looked at.

        Raises:
            DataError: no reading can be answered for: see the message.
        """


class Forecaster(Answerer):
    """The health forecast."""

    def __init__(self, content: Mapping[str, Any], network: bytes) -> None:
        super().__init__(content)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import keras  # takes seconds, and an alarm does without

        self.health = HealthScore.from_json(content["health"])
        self.low, self.high = np.array(content["low"]), np.array(content["high"])
        self.spread: float = content["spread"]
        self.policy = Forecast.model_validate(content["forecast"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.keras"
            path.write_bytes(network)
            self.network = keras.models.load_model(path, compile=False)

    def table(self, prepared: Prepared) -> NDArray[np.float32]:
        """What the network sees, ``(rows, sensors + 1)``: the sensors from 0 to 1, and the score."""
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        score = self.health.of({name: prepared.column(name) for name in self.health.weights})
        return np.column_stack([(self._values(prepared) - self.low) / span, score]).astype(np.float32)

    def whole(self, prepared: Prepared) -> NDArray[np.bool_]:
        """Which readings are of a machine at work, and have all that the network looks at, ``(rows,)``."""
        found: NDArray[np.bool_] = operating(prepared) & np.isfinite(self._values(prepared)).all(axis=1)
        return found

    def _values(self, prepared: Prepared) -> Array:
        return prepared.values[:, [prepared.sensors.index(name) for name in self.sensors]]

    def answer(self, windows: NDArray[np.float32]) -> Array:
        """Forecast scores of windows ``(n, sequence_length, sensors + 1)``, ``(n,)``."""
        change = [self.network.predict_on_batch(windows[at : at + 1024])[:, 0] for at in range(0, len(windows), 1024)]
        answers: Array = windows[:, -1, -1] + self.spread * np.concatenate(change).astype(np.float64)
        return answers

    def predict(self, readings: pd.DataFrame) -> pd.DataFrame:
        """``time, health, health_forecast``, and ``horizon_s`` in seconds, about; see `Answerer.predict`."""
        prepared = self.prepare(readings)
        starts = unbroken(prepared.stretch, self.whole(prepared), self.policy.sequence_length, 0)
        if not len(starts):
            raise DataError(
                f"machine {self.machine}: no {self.policy.sequence_length} readings in a row are whole and "
                f"of a machine at work, among {len(readings)}; expected so many without a gap of "
                f"{self.preparation.gap_s:g} s"
            )
        window = self.table(prepared)[starts[-1] : starts[-1] + self.policy.sequence_length]
        last = starts[-1] + self.policy.sequence_length - 1
        return pd.DataFrame(
            {
                TIME: pd.DatetimeIndex(prepared.times[[last]]).tz_localize("UTC"),
                "health": window[-1:, -1].astype(np.float64),
                "health_forecast": self.answer(window[None]),
                "horizon_s": [self.policy.horizon * prepared.step_s],
            }
        )


class Warner(Answerer):
    """The pre-failure alarm."""

    def __init__(self, content: Mapping[str, Any], booster: bytes) -> None:
        super().__init__(content)
        import xgboost

        self.threshold: float = content["threshold"]
        self.policy = Alarm.model_validate(content["alarm"])
        self.usual = Usual.from_json(content["usual"])
        self.booster = xgboost.Booster(model_file=bytearray(booster))
        self._matrix = xgboost.DMatrix

    def answer(self, moments: Moments) -> Array:
        """Probabilities of a trip within the lead, ``(n,)``."""
        features, names = self.usual.features(moments)
        return np.asarray(self.booster.predict(self._matrix(features, feature_names=list(names))), dtype=np.float64)

    def predict(self, readings: pd.DataFrame) -> pd.DataFrame:
        """``time, trip_probability, alarm``; see `Answerer.predict`.

        An alarm is one with hysteresis, as it was judged, so give the last four hours or more: what was before is
        compared with, and an alarm that began earlier is not known.
        """
        moments = observe(self.prepare(readings), self.policy.every_s)
        if not len(moments.at):
            raise DataError(f"machine {self.machine}: it does not work in any of the {len(readings)} readings")
        probability = self.answer(moments)
        found = episodes(moments.at, probability, moments.run, self.threshold, self.policy)
        ends = bool(found) and found[-1].end == moments.at[-1]
        return pd.DataFrame(
            {
                TIME: pd.to_datetime(moments.at[-1:], unit="s", utc=True),
                "trip_probability": probability[-1:],
                "alarm": [ends and bool(probability[-1] >= self.policy.off_below * self.threshold)],
            }
        )


def load(folder: Path) -> Forecaster | Warner:
    """The model whose safe files lie in a folder: ``*.json`` and ``*.keras`` or ``*.ubj``.

    Raises:
        DataError: they are not there.
    """
    found = {path.suffix: path for path in sorted(folder.iterdir())}
    if ".json" in found and ".keras" in found:
        return from_files(found[".json"].read_bytes(), network=found[".keras"].read_bytes())
    if ".json" in found and ".ubj" in found:
        return from_files(found[".json"].read_bytes(), booster=found[".ubj"].read_bytes())
    raise DataError(
        f"{folder} holds {', '.join(path.name for path in found.values()) or 'nothing'}; expected a .json, and a .keras"
        " or a .ubj beside it"
    )


def from_files(about: bytes, *, network: bytes | None = None, booster: bytes | None = None) -> Forecaster | Warner:
    """The model of its files' contents: what it says of itself, and a network or a booster."""
    content = json.loads(about)
    if network is not None:
        return Forecaster(content, network)
    if booster is not None:
        return Warner(content, booster)
    raise DataError("a model is more than what it says of itself; expected a network or a booster")
