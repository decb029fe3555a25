"""What is looked at before anything is trained: whether the labels can be learnt, and whether a family fits."""

from typing import Any

import pandas as pd

from pump_ml.errors import ConfigurationError, DataError
from pump_ml.problems import Problem
from pump_ml.schema import COMMISSIONING
from pump_ml.snapshots import Snapshot
from pump_ml.splits import Split


def check_labels(readings: pd.DataFrame, split: Split, problem: Problem) -> None:
    """Refuse labels from which nothing can be learnt; the test part is not looked at.

    Args:
        readings: of all assets, with their labels.
        split: says which readings are learnt from and tuned on.
        problem: targets.

    Raises:
        DataError: a target has no column, has no value at all, or is of one class only.
    """
    if problem.reference is not None:
        readings = readings[~readings[COMMISSIONING].astype(bool)]
    for target in problem.targets:
        if target.name not in readings:
            raise DataError(
                f"the data have no column {target.name!r}, which problem {problem.name!r} asks for; expected one label "
                "a reading: bring it in the source's `labels`, or drop the target from the problem"
            )
        for part in ("train", "validation"):
            labels = split.rows(readings, part)[target.name].dropna()
            where = f"target {target.name!r} of the {len(getattr(split, part))} {part} assets"
            if labels.empty:
                raise DataError(
                    f"{where}: no value in any reading; expected labels to learn from: look at the source's `labels`, "
                    "or drop the target from the problem"
                )
            if part == "train" and target.kind == "classes" and labels.nunique() == 1:
                raise DataError(
                    f"{where}: all {len(labels)} readings are {labels.iloc[0]!r}; expected two classes or more of "
                    f"{', '.join(target.classes)}: bring assets of another class, or drop the target from the problem"
                )


def fits(family: Any, snapshot: Snapshot) -> bool:
    """Whether the data bring what a family learns from: readings always, waveforms sometimes."""
    return family.inputs == "readings" or snapshot.manifest.get("waveforms") is not None


def check_inputs(family: Any, snapshot: Snapshot) -> None:
    """Raise ConfigurationError for a family that learns from what the data do not bring."""
    if not fits(family, snapshot):
        raise ConfigurationError(
            f"family {family.name!r} learns from each window's {family.inputs}, and snapshot {snapshot.key!r} has "
            f"readings only; expected data with waveforms: leave {family.name} out, or take a dataset that has them"
        )
