"""Where the networks of a training run are kept while they learn."""

import hashlib
import json
import re
from typing import TYPE_CHECKING

from pump_ml.settings import git_sha
from pump_ml.steps.common import Json, readable

if TYPE_CHECKING:
    from upath import UPath

    from pump_ml.models.checkpoint import Checkpoint
    from pump_ml.work import Work


def of_family(work: "Work", family: str, parameters: Json) -> "Checkpoint":
    """Where a family's training is kept until its version is registered."""
    from pump_ml.models.checkpoint import Checkpoint

    plan = work.plan
    settled = {name: plan[name] for name in ("definition", "snapshot", "split", "seed")}
    told = json.dumps([family, parameters, settled, git_sha()], sort_keys=True)
    return Checkpoint(_folder(work) / f"{family}.npz", hashlib.sha256(told.encode()).hexdigest())


def _folder(work: "Work") -> "UPath":
    """The folder of a training run's checkpoints."""
    return work.settings.data / "checkpoints" / readable(work.plan["run_key"])


def retire(work: "Work", family: str) -> None:
    """Retire a family's checkpoints, those of a committee's members too; an earlier try may have died before it did."""
    from pump_ml import files
    from pump_ml.models.checkpoint import Checkpoint

    folder = _folder(work)
    for name in files.names(folder):
        if re.fullmatch(rf"{family}(-\d+)?\.npz", name):
            Checkpoint(folder / name, "").retire()
