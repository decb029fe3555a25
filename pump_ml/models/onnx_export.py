"""A Keras network as the two files that are stored: ONNX, which answers, and Keras' own."""

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pump_ml.errors import DataError
from pump_ml.models.network import MAX_DIFFERENCE


def export(network: Any, compared: Mapping[str, NDArray[np.float32]]) -> tuple[bytes, float]:
    """A network as ONNX, and the largest difference between the answers of both.

    Args:
        network: of Keras.
        compared: inputs to compare on, by name.

    Raises:
        DataError: the answers differ by more than `MAX_DIFFERENCE`.
    """
    import onnxruntime

    ours = network.predict_on_batch(dict(compared))  # the exporter asks for a network that was called
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "network.onnx"
        warnings.simplefilter("ignore")  # tf2onnx asks NumPy for names that it no longer has
        network.export(path, format="onnx", verbose=False)
        content = path.read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    theirs = session.run(list(ours), dict(compared))
    difference = max(float(np.abs(ours[name] - other).max()) for name, other in zip(ours, theirs, strict=True))
    if not difference <= MAX_DIFFERENCE:
        raise DataError(
            f"the exported network answers otherwise than the one that learnt, by {difference:g}; expected at most "
            f"{MAX_DIFFERENCE:g} training standard deviations"
        )
    return content, difference


def as_keras(network: Any) -> bytes:
    """A network in Keras' own format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        network.save(path)
        return path.read_bytes()
