"""Two-dimensional convolutional network over spectrograms of the waveform, and beside it the readings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from pump_ml.models import Recording
from pump_ml.models.learning import LEARNING, NetworkFamily
from pump_ml.models.network import NetworkPredictor
from pump_ml.models.space import Choice, Range

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOOR = 1e-3
"""Share of a band's mean power over the training waveforms that the logarithm does not look below."""


class Cnn2dPredictor(NetworkPredictor):
    """What `Cnn2d` learnt."""

    family = "cnn2d"


@dataclass(frozen=True)
class Cnn2d(NetworkFamily):
    """Log-power spectrograms in bands that widen with frequency, convolutions over both axes, and the readings beside.

    The spectrogram is computed by the network itself: short-time Fourier transforms with a Hann window, whose powers
    are summed in triangular bands of equal width on a logarithmic scale of frequency, as mel bands are above 1 kHz
    (Stevens, Volkmann and Newman, JASA 8, 1937).

    Args:
        frame: samples of a short-time Fourier transform.
        hop: samples from one to the next.
        bands: of the spectrogram.
        lowest: frequency at which the bands begin, Hz.
        filters: channels of the first convolution; each further one has twice as many.
        blocks: convolutions, each of which halves time and frequency.
        noise: standard deviation of what a training step adds to a spectrogram, in its own standard deviations.
        width: of the layers that look at the readings.
    """

    frame: int = 1024
    hop: int = 512
    bands: int = 48
    lowest: float = 40.0
    filters: int = 12
    blocks: int = 3
    noise: float = 0.2
    width: int = 96

    name: ClassVar[str] = "cnn2d"
    inputs: ClassVar[Literal["readings", "waveform"]] = "waveform"
    predictor: ClassVar[type[NetworkPredictor]] = Cnn2dPredictor
    space: ClassVar[Mapping[str, Range | Choice]] = {
        **LEARNING,
        "frame": Choice((256, 512, 1024, 2048)),
        "hop": Choice((128, 256, 512, 1024)),
        "bands": Range(16, 96),
        "lowest": Range(5.0, 200.0, log=True),
        "filters": Range(4, 32, log=True),
        "blocks": Range(1, 4),
        "noise": Range(0.0, 1.0),
        "width": Range(8, 256, log=True),
    }

    def trunk(self, *inputs: Any) -> Any:
        """See `NetworkFamily.trunk`."""
        from keras import layers

        readings, image = inputs
        x = layers.GaussianNoise(self.noise)(image)
        for block in range(self.blocks):
            x = layers.Conv2D(self.filters * 2**block, 3, padding="same", activation="swish")(x)
            x = layers.MaxPooling2D(2, padding="same")(x)
        x = layers.Dense(self.width, activation="swish")(layers.Flatten()(x))
        x = layers.Dropout(self.dropout)(x)
        y = layers.Conv1D(self.width, 1, activation="swish")(readings)
        y = layers.add([y, layers.Conv1D(self.width, 3, padding="same", activation="swish")(y)])
        y = layers.GlobalAveragePooling1D()(y)
        z = layers.Dense(self.dense, activation="swish")(layers.concatenate([x, y]))
        z = layers.Dropout(self.dropout)(z)
        return layers.Dense(self.dense, activation="swish")(z)

    def front(self, recording: Recording, waves: "NDArray[np.float32]") -> Any:
        """A Keras model from waveforms to spectrograms ``(batch, frames, bands, channels)``.

        Each band has zero mean and unit variance over the training waveforms.
        """
        import keras
        from keras import layers, ops

        frame = min(self.frame, recording.samples)
        weights = triangles(frame, self.bands, self.lowest, recording.rate_hz)
        wave = keras.Input((len(recording.channels), recording.samples), name="waveform")
        x = layers.Permute((2, 1))(wave)
        x = layers.STFTSpectrogram(
            mode="psd", frame_length=frame, frame_step=self.hop, fft_length=frame, padding="valid", expand_dims=True
        )(x)
        bands = layers.Dense(self.bands, use_bias=False, trainable=False)
        x = layers.Permute((1, 3, 2))(bands(layers.Permute((1, 3, 2))(x)))
        bands.set_weights([weights])
        power = keras.Model(wave, x)
        some = power.predict_on_batch(waves[:: max(1, len(waves) // 512)])
        floor = np.maximum(FLOOR * some.mean(axis=(0, 1), keepdims=True), 1e-20)
        shown = np.log(some + floor)
        mean, spread = shown.mean(axis=(0, 1)), np.maximum(shown.std(axis=(0, 1)), 1e-3)
        x = (ops.log(power(wave) + floor[0]) - mean) / spread
        return keras.Model(wave, x)


def triangles(frame: int, bands: int, lowest_hz: float, rate_hz: float) -> "NDArray[np.float32]":
    """Weights of the bins of a Fourier transform in bands that are equally wide on a logarithmic scale.

    Args:
        frame: samples of the transform.
        bands: how many; the last ends at half the sampling rate.
        lowest_hz: where the first begins.
        rate_hz: samples a second.

    Returns:
        ``(bins, bands)``; each band's weights add up to 1. A band that is narrower than a bin has the nearest bin.
    """
    frequency = np.fft.rfftfreq(frame, 1.0 / rate_hz)
    edges = np.geomspace(lowest_hz, rate_hz / 2.0, bands + 2)
    rising = (frequency[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - frequency[:, None]) / np.diff(edges)[1:]
    weights = np.clip(np.minimum(rising, falling), 0.0, None)
    empty = weights.sum(axis=0) == 0.0
    weights[np.abs(frequency[:, None] - edges[1:-1]).argmin(axis=0)[empty], np.flatnonzero(empty)] = 1.0
    shares: NDArray[np.float32] = (weights / weights.sum(axis=0)).astype(np.float32)
    return shares
