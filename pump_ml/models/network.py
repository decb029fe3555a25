"""What every network has learnt: it answers through ONNX Runtime, so no TensorFlow is needed where it is asked."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pump_ml.models import Answers, Predictor
from pump_ml.models.features import Channels
from pump_ml.problems import Problem
from pump_ml.windows import Windows, gather

if TYPE_CHECKING:
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
        onnx: the network, ``float32 (windows, length, channels)`` to an output a target.
        keras: the same in Keras' own format, to go on learning with.
        channels: what the network sees of the readings.
        scales: mean and standard deviation of each regression target's training labels.
        difference: largest one seen between the answers of both formats.
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
    ) -> None:
        super().__init__(problem, sensors, assets)
        self.onnx, self.keras, self.channels, self.scales, self.difference = onnx, keras, channels, scales, difference

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
        table = self.channels.transform(windows)
        [given] = self.session.get_inputs()
        names = [target.name for target in self.problem.targets]
        parts = [
            self.session.run(names, {given.name: gather(table, windows.starts[some], windows.length)})
            for some in windows.chunks(BATCH)
        ]
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
        return {"channels": self.channels.to_json(), "scales": self.scales, "onnx_difference": self.difference}

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
        )
