"""Windows over consecutive readings as views: overlapping ones take no memory of their own."""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pump_ml.errors import DataError


def create_sequences(
    data: NDArray[Any], sequence_length: int = 60, *, horizon: int = 1, target: NDArray[Any] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Each window of readings, and what is asked of it: the value `horizon` readings after its last.

    Args:
        data: readings, ``(rows, features)``, or ``(rows,)`` of one feature.
        sequence_length: readings in a window.
        horizon: readings ahead; 1 is the next one.
        target: what is asked for, ``(rows,)``; unset, the last feature.

    Returns:
        X ``(n, sequence_length, features)`` and y ``(n,)`` with ``n = rows - sequence_length - horizon + 1``, both
        read-only views of what was given.

    Raises:
        DataError: there are too few rows for one window.
    """
    table = data[:, None] if data.ndim == 1 else data
    asked = table[:, -1] if target is None else target
    count = len(table) - sequence_length - horizon + 1
    if sequence_length < 1 or horizon < 1 or count < 1:
        raise DataError(
            f"{len(table)} rows, sequence_length {sequence_length}, horizon {horizon}: expected both from 1 up, and "
            "rows for a window and its horizon"
        )
    windows = sliding_window_view(table, sequence_length, axis=0)[:count].transpose(0, 2, 1)
    y = asked[sequence_length + horizon - 1 :]
    y.flags.writeable = False
    return windows, y


def unbroken(
    stretch: NDArray[np.int64], usable: NDArray[np.bool_], sequence_length: int, horizon: int
) -> NDArray[np.int64]:
    """Where the windows begin that lie in one stretch with their horizon and hold usable readings alone.

    Args:
        stretch: number of the stretch of each reading, ascending, ``(rows,)``.
        usable: whether a reading has all that is needed, ``(rows,)``.
        sequence_length: readings in a window.
        horizon: readings ahead.

    Returns:
        First rows, ascending, ``(n,)``.
    """
    span = sequence_length + horizon
    if len(stretch) < span:
        return np.empty(0, dtype=np.int64)
    bad = np.concatenate([[0], np.cumsum(~usable)])
    first = np.arange(len(stretch) - span + 1)
    whole = (stretch[first] == stretch[first + span - 1]) & (bad[first + span] == bad[first])
    begins: NDArray[np.int64] = first[whole]
    return begins
