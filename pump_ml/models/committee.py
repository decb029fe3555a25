"""Models of one family that each set other assets aside, and answer together.

Where assets are few, those that are set aside for validation are missed, and what they say depends on which they are.
So every asset is set aside once, by one member; the answers of all members are averaged, and each held-out asset is
answered by the member that did not learn from it. Intervals come from those answers (cross-conformal prediction,
Vovk 2015; scikit-learn's ``CalibratedClassifierCV`` with ``ensemble=True`` parts the data alike).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pump_ml.errors import DataError
from pump_ml.models import Answers, Family, Predictor, Watch, load_predictor
from pump_ml.problems import Problem
from pump_ml.schema import ASSET
from pump_ml.windows import Windows

if TYPE_CHECKING:
    from pump_ml.models.checkpoint import Checkpoint


class Committee(Predictor):
    """The mean of its members' answers.

    Args:
        problem: what is asked.
        sensors: the columns that they learnt from.
        assets: those whose windows any of them learnt from or was stopped by.
        members: of one family.
        held_out: the assets that each of them did not learn from.
    """

    tempered = False
    """Held-out answers are those of single members, and a mean of probabilities is softer already."""

    def __init__(
        self,
        problem: Problem,
        sensors: tuple[str, ...],
        assets: tuple[str, ...],
        members: Sequence[Predictor],
        held_out: Sequence[tuple[str, ...]],
    ) -> None:
        super().__init__(problem, sensors, assets)
        self.members, self.held_out = tuple(members), tuple(held_out)
        first = self.members[0]
        self.family, self.recording, self.normal = first.family, first.recording, first.normal

    def answer(self, windows: Windows) -> Answers:
        """See `Predictor.answer`."""
        every = [self._within(member.answer(windows)) for member in self.members]
        return {name: np.mean([answers[name] for answers in every], axis=0) for name in every[0]}

    def _within(self, answers: Answers) -> Answers:
        """Values within their range before they are averaged: one member that is far out would outvote the others."""
        values = {t.name: (t.low, t.high) for t in self.problem.targets if t.kind == "regression"}
        return {name: np.clip(answer, *values[name]) if name in values else answer for name, answer in answers.items()}

    def answer_held_out(self, windows: Windows) -> Answers:
        """Each window is answered by the member that did not learn from its asset; of a strange asset, by all."""
        owners = windows.rows[ASSET].to_numpy(dtype=str)
        known = np.isin(owners, [asset for assets in self.held_out for asset in assets])
        parts: list[tuple[Any, Predictor | None]] = [(~known, None)]
        parts += [(np.isin(owners, assets), who) for assets, who in zip(self.held_out, self.members, strict=True)]
        found: Answers = {}
        for mask, member in parts:
            if not mask.any():
                continue
            some = windows.where(mask)
            for name, answer in (member.answer(some) if member else self.answer(some)).items():
                found.setdefault(name, np.empty((len(windows), *answer.shape[1:])))[mask] = answer
        return found

    def first(self) -> Predictor:
        """The first member, about whose errors the others tell (scikit-learn's ``ensemble=False``)."""
        alone = self.members[0]
        alone.held_out_by = self
        return alone

    def save_state(self, folder: Path) -> dict[str, Any]:
        """Each member in a folder of its own."""
        for place, member in enumerate(self.members):
            (folder / _name(place)).mkdir()
            member.save(folder / _name(place))
        return {"held_out": self.held_out}

    @classmethod
    def load_state(
        cls, folder: Path, state: dict[str, Any], problem: Problem, sensors: tuple[str, ...], assets: tuple[str, ...]
    ) -> Self:
        """See `Predictor.load_state`."""
        held_out = [tuple(each) for each in state["held_out"]]
        members = [load_predictor(folder / _name(place)) for place in range(len(held_out))]
        return cls(problem, sensors, assets, members, held_out)


def _name(place: int) -> str:
    return f"member_{place + 1}"


def fit(
    family: Family,
    windows: Windows,
    held_out: Sequence[tuple[str, ...]],
    problem: Problem,
    *,
    seed: int,
    watch: Watch,
    checkpoint: "Checkpoint | None" = None,
) -> Committee:
    """Fit a family as often as assets are set aside.

    Args:
        family: with its hyper-parameters.
        windows: of all assets that may be learnt from or set aside.
        held_out: the assets that are set aside for each member, its validation part.
        problem: what is asked.
        seed: of the first member; the others have the next ones.
        watch: gets what the members report: the first one's by its own names, the others' below ``member_2`` and so on.
        checkpoint: of the whole; see `Checkpoint.of_member`.

    Raises:
        DataError: a turn sets no window aside, or all of them.
    """
    members = []
    owners = windows.rows[ASSET].to_numpy(dtype=str)
    turns = [np.isin(owners, assets) for assets in held_out]
    for aside, assets in zip(turns, held_out, strict=True):
        if not aside.any() or aside.all():
            raise DataError(
                f"{aside.sum()} of {len(aside)} windows are of {', '.join(assets)}, whose turn it is to be set aside; "
                "expected some and not all: bring assets with whole windows, or drop rotate from the split"
            )
    for place, aside in enumerate(turns):
        members.append(
            family.fit(
                windows.where(~aside),
                windows.where(aside),
                problem,
                seed=seed + place,
                watch=partial(_report, watch, place, len(held_out)),
                checkpoint=checkpoint and checkpoint.of_member(place),
            )
        )
    assets = tuple(sorted({asset for member in members for asset in member.assets}))
    return Committee(problem, windows.sensors, assets, members, held_out)


def _report(watch: Watch, place: int, count: int, step: int, values: Mapping[str, float]) -> None:
    below = f"{_name(place)}/" if place else ""
    watch(
        step,
        {
            name if name == "progress" else below + name: (place + value) / count if name == "progress" else value
            for name, value in values.items()
        },
    )
