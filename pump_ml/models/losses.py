"""Losses that Keras does not have in the form that is needed here."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("pump_ml")
class SparseFocalLoss(keras.losses.Loss):  # type: ignore[misc] # keras ships no types
    """Focal loss of classes given as numbers, from probabilities.

    ``FL(p) = -(1 - p)**gamma * log(p)`` with ``p`` the probability of the true class (Lin, Goyal, Girshick, He and
    Dollár, Focal Loss for Dense Object Detection, ICCV 2017, equation 4). At ``gamma = 0`` it is the cross-entropy; the
    larger it is, the less is made of what is answered well already. Classes are weighed by the samples' weights, which
    is the paper's alpha (equation 5).

    Args:
        gamma: focusing parameter, 0 or more; the paper's best is 2.
    """

    def __init__(self, gamma: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        self.gamma = gamma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each sample.

        Args:
            y_true: class numbers, ``(samples,)`` or ``(samples, 1)``.
            y_pred: probabilities, ``(samples, classes)``.
        """
        codes = ops.cast(ops.reshape(y_true, (-1, 1)), "int32")
        p = ops.squeeze(ops.take_along_axis(y_pred, codes, axis=1), axis=1)
        p = ops.clip(p, keras.config.epsilon(), 1.0)
        return -ops.power(1.0 - p, self.gamma) * ops.log(p)

    def get_config(self) -> dict[str, Any]:
        """What it was made with."""
        return {**super().get_config(), "gamma": self.gamma}
