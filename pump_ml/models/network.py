"""What every network has learnt: it answers through ONNX Runtime, so no TensorFlow is needed where it is asked."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pump_ml.errors import DataError
from pump_ml.models import Answers, Predictor, Recording
from pump_ml.models.features import Channels
from pump_ml.problems import Problem
from pump_ml.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BATCH = 2048
"""Windows that are answered at a time: what a batch of them takes in memory stays small."""
MAX_DIFFERENCE = 1e-4
"""By which the answers of the exported network may differ from those of the one that learnt, in training units."""


class NetworkPredictor(Predictor):
    """A network with a head a target; regression heads answer in units of the training standard deviation.

    Args:
        problem: what is asked.
        sensors: the columns it learnt from.
        assets: whose rows it was fitted on.
        onnx: the network: ``readings``, float32 ``(windows, length, channels)``, and maybe ``waveform``, float32
            ``(windows, channels, samples)``, to an output a target.
        keras: the same in Keras' own format, to go on learning with.
        channels: what the network sees of the readings.
        scales: mean and standard deviation of each regression target's training labels.
        difference: largest one seen between the answers of both formats.
        recording: of the waveforms; None where it sees readings alone.
    """

    def __init__(
        self,
        problem: Problem,
        sensors: tuple[str, ...],
        assets: tuple[str, ...],
        *,
        onnx: bytes,
        keras: bytes,
        channels: Channels,
        scales: dict[str, tuple[float, float]],
        difference: float,
        recording: Recording | None = None,
    ) -> None:
        super().__init__(problem, sensors, assets)
        self.onnx, self.keras, self.channels, self.scales, self.difference = onnx, keras, channels, scales, difference
        self.recording, self.normal = recording, channels.normal

    @cached_property
    def session(self) -> Any:
        """The network, ready to be run. On one thread, so that equal inputs give equal answers to the last digit."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(self.onnx, options, providers=["CPUExecutionProvider"])

    def answer(self, windows: Windows) -> Answers:
        """See `Predictor.answer`."""
        steps = self.channels.steps(windows)
        names = [target.name for target in self.problem.targets]
        size = BATCH if self.recording is None else BATCH // 16
        parts = [self.session.run(names, feed(steps, windows, some, self.recording)) for some in windows.chunks(size)]
        answers: Answers = {}
        for place, target in enumerate(self.problem.targets):
            raw: NDArray[np.float64] = np.concatenate([part[place] for part in parts]).astype(np.float64)
            if target.kind == "regression":
                mean, scale = self.scales[target.name]
                raw = raw[:, 0] * scale + mean
            answers[target.name] = raw
        return answers

    def save_state(self, folder: Path) -> dict[str, Any]:
        """The network in both formats."""
        (folder / "network.onnx").write_bytes(self.onnx)
        (folder / "network.keras").write_bytes(self.keras)
        return {
            "channels": self.channels.to_json(),
            "scales": self.scales,
            "onnx_difference": self.difference,
            "recording": self.recording.to_json() if self.recording else None,
        }

    @classmethod
    def load_state(
        cls, folder: Path, state: dict[str, Any], problem: Problem, sensors: tuple[str, ...], assets: tuple[str, ...]
    ) -> Self:
        """See `Predictor.load_state`."""
        return cls(
            problem,
            sensors,
            assets,
            onnx=(folder / "network.onnx").read_bytes(),
            keras=(folder / "network.keras").read_bytes(),
            channels=Channels.from_json(state["channels"]),
            scales={name: (mean, scale) for name, (mean, scale) in state["scales"].items()},
            difference=state["onnx_difference"],
            recording=Recording.from_json(state["recording"]) if state["recording"] else None,
        )


def feed(
    steps: "Callable[[slice], NDArray[np.float32]]",
    windows: Windows,
    some: slice,
    recording: Recording | None,
) -> dict[str, "NDArray[np.float32]"]:
    """Inputs of a network for some of the windows.

    Args:
        steps: what it sees of the windows' readings, see `Channels.steps`.
        windows: all of them.
        some: which.
        recording: of the waveforms that it sees beside the readings.

    Raises:
        DataError: it sees waveforms, and the windows have none, or others.
    """
    given = {"readings": steps(some)}
    return given if recording is None else given | waveform_feed(windows, some, recording)


def waveform_feed(windows: Windows, some: slice, recording: Recording) -> "dict[str, NDArray[np.float32]]":
    """The part of `feed` that is waveforms."""
    found = waveforms_of(windows, recording)
    return {"waveform": found[windows.taken[some]]}  # type: ignore[index] # where there are waveforms they were taken


def waveforms_of(windows: Windows, recording: Recording) -> "NDArray[np.float32]":
    """The waveforms of windows, ``(waveforms, channels, samples)``, after a look that they were taken like that."""
    found = windows.waveforms
    if found is None or found.values is None or windows.taken is None:
        raise DataError("this model needs waveforms beside the readings, and these readings have none")
    there = Recording(found.channels, found.rate_hz, found.values.shape[2])
    if not there.like(recording):
        raise DataError(f"waveforms of {there}; the model learnt from {recording}")
    return found.values
