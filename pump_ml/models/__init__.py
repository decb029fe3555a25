"""What a family and a predictor are. A family is its hyper-parameters, frozen; a predictor is what it has learnt."""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml import catalog
from pump_ml.errors import ConfigurationError, DataError, OutdatedModelError
from pump_ml.models.calibration import Calibration, Interval, fit_temperature, least_assets
from pump_ml.models.space import Choice, Range
from pump_ml.problems import Problem, Target
from pump_ml.schema import ASSET, COMMISSIONING, KEYS, TIME, Sensor, Waveforms
from pump_ml.windows import Windows, last_windows, make_windows

if TYPE_CHECKING:
    from pump_ml.models.checkpoint import Checkpoint
    from pump_ml.models.normal_behaviour import NormalBehaviour

Array = NDArray[np.float64]
Answers = dict[str, Array]
"""For each target: values ``(windows,)``, or probabilities ``(windows, classes)`` in the order of the target's
classes."""
Watch = Callable[[int, Mapping[str, float]], None]
"""Called with a step (epoch, tree) and the metrics there, while a family learns."""

FORMAT = 4
"""Version of the folder that a predictor is saved as."""

log = logging.getLogger(__name__)


@runtime_checkable
class Family(Protocol):
    """A kind of model, with its hyper-parameters."""

    name: ClassVar[str]
    inputs: ClassVar[Literal["readings", "waveform"]]
    predictor: ClassVar[type["Predictor"]]
    requires: ClassVar[tuple[str, ...]]
    """Packages that its artifact needs beside the core's."""
    space: ClassVar[Mapping[str, Range | Choice]]
    """What a run may set, and within which bounds; and what tuning tries."""

    def fit(
        self,
        train: Windows,
        validation: Windows,
        problem: Problem,
        *,
        seed: int,
        watch: Watch,
        checkpoint: "Checkpoint | None" = None,
    ) -> "Predictor":
        """Learn from `train`; `validation` may stop the learning but is never learnt from.

        What takes long is kept at `checkpoint`, so that another try goes on from there.
        """
        ...


@dataclass(frozen=True)
class Recording:
    """How the waveforms were taken that a model learnt from, and that it is asked about.

    Args:
        channels: such as ``drive_end_g``.
        rate_hz: samples a second.
        samples: in a waveform.
    """

    channels: tuple[Sensor, ...]
    rate_hz: float
    samples: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the channels."""
        return tuple(channel.name for channel in self.channels)

    def __str__(self) -> str:
        return f"{', '.join(self.names)} at {self.rate_hz:g} Hz with {self.samples} samples"

    def like(self, other: Self) -> bool:
        """Whether waveforms of both are alike to a model, whatever their descriptions say."""
        return (self.names, self.rate_hz, self.samples) == (other.names, other.rate_hz, other.samples)

    def in_columns(self, readings: pd.DataFrame) -> Waveforms:
        """Such waveforms in cells of readings; see `pump_ml.schema.Waveforms.in_columns`."""
        return Waveforms.in_columns(readings, self.channels, self.rate_hz, self.samples)

    def to_json(self) -> dict[str, Any]:
        """For the predictor's file."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(tuple(Sensor(**channel) for channel in state["channels"]), state["rate_hz"], state["samples"])


class Predictor(ABC):
    """Answers every target of a problem from raw readings. Windows, scaler and model travel together.

    Args:
        problem: what is asked.
        sensors: the columns it learnt from, derived ones last.
        assets: the assets whose rows anything in it was fitted on, validation included.
    """

    family: str
    """Name of the family that learnt it."""
    recording: "Recording | None" = None
    """The waveforms that it needs beside the readings; None where it needs none."""
    normal: "NormalBehaviour | None" = None
    """What its assets' sensors show when they are new; None where there are no commissioning records."""
    tempered: bool = True
    """Whether temperatures mend its probabilities."""
    held_out_by: "Predictor | None" = None
    """Who answers about assets that it learnt from as it does about others, until it is saved; None: itself does."""
    fitted_until: pd.Timestamp | None = None
    """Last time of the readings that anything in it was fitted on, in a split by time. None in a split by asset: there
    it may have seen all of its assets' readings."""

    def __init__(self, problem: Problem, sensors: tuple[str, ...], assets: tuple[str, ...]) -> None:
        self.problem, self.sensors, self.assets = problem, sensors, assets
        self.calibration = Calibration()
        self.usual: dict[str, float] = {}
        self.units: dict[str, str] = {}

    @abstractmethod
    def answer(self, windows: Windows) -> Answers:
        """Answers for windows that are cut already."""

    def answer_held_out(self, windows: Windows) -> Answers:
        """Answers for windows of the validation part, by what did not learn from them."""
        return self.held_out_by.answer_held_out(windows) if self.held_out_by else self.answer(windows)

    @abstractmethod
    def save_state(self, folder: Path) -> dict[str, Any]:
        """Write the model's files; return what else it needs, JSON."""

    @classmethod
    @abstractmethod
    def load_state(
        cls, folder: Path, state: dict[str, Any], problem: Problem, sensors: tuple[str, ...], assets: tuple[str, ...]
    ) -> Self:
        """The predictor that `save_state` wrote."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of readings that `predict` needs."""
        measured = (name for name in self.sensors if name not in self.problem.derived)
        channels = self.recording.names if self.recording else ()
        return (*KEYS, *((COMMISSIONING,) if self.problem.reference else ()), *measured, *channels)

    def calibrate(self, held_out: Windows) -> None:
        """Learn from these windows how sure the answers are: intervals of the problem's level, and temperatures.

        Probabilities stay as they are where fewer assets are held out than an interval takes, or where the predictor is
        not `tempered`. A value is held against the label as training sees it: cut at the target's cap.

        Args:
            held_out: windows with labels, which no weight was fitted on, nor on their assets or, in a split by time, on
                as late ones. They may have stopped the learning.

        Raises:
            DataError: there are no windows.
        """
        level, assets = self.problem.interval, held_out.rows[ASSET]
        if not len(held_out):
            raise DataError(
                f"there are no held-out windows to calibrate on; expected windows of {least_assets(level)} or more "
                "validation assets"
            )
        few = assets.nunique() < least_assets(level)
        if few:
            log.warning(
                "%d held-out assets are too few for an interval of %g, which takes %d: it is wide enough to hold every "
                "error that they showed, and probabilities get no temperature",
                assets.nunique(), level, least_assets(level),
            )  # fmt: skip
        answers = self.answer_held_out(held_out)
        intervals, temperatures = {}, {}
        for target in self.problem.targets:
            if target.kind == "classes":
                codes = class_codes(held_out.labels[target.name], target.classes)
                if self.tempered and not few:
                    temperatures[target.name] = fit_temperature(_floats(answers[target.name]), codes)
            else:
                value, true = _within(answers[target.name], target), training_values(held_out, target)
                names = assets.to_numpy(dtype=str)
                intervals[target.name] = Interval.fit(value, true, names, self._modes(answers), level)
        self.calibration = Calibration(intervals, temperatures)
        self.assets = tuple(sorted({*self.assets, *fitted_assets(held_out)}))
        if self.fitted_until is not None:
            self.fitted_until = max(self.fitted_until, fitted_until(held_out))

    def remember(self, train: Windows, units: Mapping[str, str]) -> None:
        """Keep what explanations name: each measured sensor's median over the training readings, and its unit.

        Args:
            train: the windows that it learnt from.
            units: by sensor, as `pump_ml.schema.Sensor` has them; one that is missing counts as a pure number.
        """
        measured = [name for name in self.sensors if name not in self.problem.derived]
        self.usual = {name: float(np.median(train.readings[:, train.sensors.index(name)])) for name in measured}
        self.units = {name: units.get(name, "") for name in measured}

    def predict(self, readings: pd.DataFrame) -> pd.DataFrame:
        """One row a run, for its last window.

        Args:
            readings: raw readings with `columns`; others are not looked at.

        Returns:
            ``asset_id, run_id, time``, a column a target, ``TARGET_p_CLASS`` for the probabilities of classes, and
            ``TARGET_low`` and ``TARGET_high`` for the ends of a value's interval, once it is calibrated.

        Raises:
            DataError: a column is missing, a reading is not finite, or there is nothing but commissioning records.
        """
        return self.table(self.last_windows(readings))

    def last_windows(self, readings: pd.DataFrame) -> Windows:
        """The windows that `predict` answers for: the last of each run."""
        waveforms = self.recording.in_columns(readings) if self.recording else None
        windows = make_windows(readings, self.problem, self.sensors, which="last", waveforms=waveforms, labels=False)
        if not len(windows):
            raise DataError(f"{len(readings)} readings hold no run to answer for, beside commissioning records")
        return windows

    def ask(self, readings: Array, records: Array | None = None) -> dict[str, NDArray[Any]]:
        """What `predict` answers, from arrays: a frame costs more than the answer where few runs are asked about.

        Args:
            readings: raw, in order of time, ``(runs, readings, sensors)``: the sensors among `columns`, as they stand
                there. Each run is taken for one of an asset of its own.
            records: commissioning record of each run's asset, likewise; only where the problem uses it.

        Returns:
            The columns of `predict` but the keys, each ``(runs,)``.

        Raises:
            DataError: an array is of another shape, a reading is not finite, records are missing, or the model looks
                at waveforms.
        """
        if self.recording:
            raise DataError("this model looks at waveforms beside the readings; ask it with `predict`")
        return self._columns(self.answer(last_windows(readings, self.problem, self.sensors, records)))

    def table(self, windows: Windows, *, held_out: bool = False) -> pd.DataFrame:
        """The answers for `windows` as a frame, see `predict`; for `held_out` see `answer_held_out`."""
        columns = self._columns((self.answer_held_out if held_out else self.answer)(windows))
        keys: dict[Any, Any] = {name: column.array for name, column in windows.rows.items()}
        return pd.DataFrame({**keys, **columns}, windows.rows.index)  # at once: to add columns one by one takes longer

    def _columns(self, answers: Answers) -> dict[str, NDArray[Any]]:
        columns: dict[str, Any] = {}
        for target in self.problem.targets:
            answer = _floats(answers[target.name])
            if target.kind == "classes":
                columns[target.name] = _likeliest(answer, target)
                probabilities = self.calibration.soften(target.name, answer)
                columns |= {f"{target.name}_p_{name}": probabilities[:, i] for i, name in enumerate(target.classes)}
                continue
            columns[target.name] = value = _within(answer, target)
            if interval := self.calibration.intervals.get(target.name):
                half = interval.half_width(value, self._modes(answers))
                columns[f"{target.name}_low"] = _within(value - half, target)
                columns[f"{target.name}_high"] = _within(value + half, target)
        return columns

    def _modes(self, answers: Answers) -> NDArray[np.str_] | None:
        """The predicted fault mode of each window; None where the problem names no target for it."""
        for target in self.problem.targets:
            if target.name == self.problem.mode:
                return _likeliest(answers[target.name], target)
        return None

    def save(self, folder: Path) -> None:
        """Write the predictor to an empty folder."""
        from pump_ml.models.committee import Committee  # which is made of predictors

        state = self.save_state(folder)
        content = {
            "format": FORMAT,
            "family": self.family,
            "committee": isinstance(self, Committee),
            "problem": self.problem.model_dump(mode="json"),
            "sensors": self.sensors,
            "assets": self.assets,
            "fitted_until": self.fitted_until and self.fitted_until.isoformat(),
            "calibration": self.calibration.to_json(),
            "usual": self.usual,
            "units": self.units,
            "state": state,
        }
        (folder / "predictor.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_predictor(folder: Path) -> Predictor:
    """The predictor that `Predictor.save` wrote.

    Raises:
        OutdatedModelError: the folder was written by a version whose format this one does not know.
    """
    content = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
    if content["format"] != FORMAT:
        raise OutdatedModelError(f"{folder}: format {content['format']}, expected {FORMAT}; train the model again")
    from pump_ml.models.committee import Committee  # which is made of predictors

    family: Any = catalog.load("family", catalog.FAMILIES, content["family"])
    predictor: type[Predictor] = Committee if content["committee"] else family.predictor
    loaded = predictor.load_state(
        folder,
        content["state"],
        Problem.model_validate(content["problem"]),
        tuple(content["sensors"]),
        tuple(content["assets"]),
    )
    loaded.calibration = Calibration.from_json(content["calibration"])
    loaded.usual, loaded.units = content["usual"], content["units"]
    if until := content["fitted_until"]:
        loaded.fitted_until = pd.Timestamp(until)
    return loaded


def class_codes(values: pd.Series, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Labels as positions in `classes`.

    Raises:
        ConfigurationError: a label is not among the problem's classes.
    """
    codes, found = pd.factorize(values.astype(str), use_na_sentinel=False)
    if strange := sorted(set(found) - set(classes)):
        raise ConfigurationError(f"{values.name}: {', '.join(strange)} is not among the classes {', '.join(classes)}")
    return np.array([classes.index(name) for name in found], dtype=np.int64)[codes]


def training_values(windows: Windows, target: Target) -> Array:
    """A regression target as a family learns it: float64, cut at the target's cap."""
    values: Array = windows.labels[target.name].to_numpy(dtype=np.float64)
    return values if target.train_cap is None else values.clip(max=target.train_cap)


def fitted_assets(*parts: Windows) -> tuple[str, ...]:
    """The assets of these windows, for `Predictor.assets`."""
    return tuple(sorted({asset for part in parts for asset in part.rows[ASSET].unique()}))


def decides(train: Windows, validation: Windows) -> bool:
    """Whether validation windows can choose what other assets need; a single asset that training lacks cannot.

    Where training knows it, as in a split by time, it is what the model will be asked about.
    """
    assets = set(validation.rows[ASSET].unique())
    return len(assets) > 1 or assets <= set(train.rows[ASSET].unique())


def fitted_until(*parts: Windows) -> pd.Timestamp:
    """The last time of these windows, for `Predictor.fitted_until`."""
    latest: pd.Timestamp = max(part.rows[TIME].max() for part in parts)
    return latest


def _floats(answer: Array) -> Array:
    """An answer in double precision: networks and boosters give less."""
    return np.asarray(answer, dtype=np.float64)


def _within(values: Array, target: Target) -> Array:
    """Values cut at the target's range; a true value, which lies in it, stays inside of an interval that is cut."""
    cut: Array = np.clip(_floats(values), target.low, target.high)
    return cut


def _likeliest(probabilities: Array, target: Target) -> NDArray[np.str_]:
    """Name of the class with the highest probability, ``(windows,)``."""
    names: NDArray[np.str_] = np.array(target.classes)[probabilities.argmax(axis=1)]
    return names
