"""Who becomes champion. Pure: numbers in, a decision out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from pump_ml import metrics
from pump_ml.evaluation import relative_error
from pump_ml.problems import Problem


@dataclass(frozen=True)
class Contender:
    """A registered model and its metrics, each target's own.

    Args:
        family: its family.
        version: its version in the registry.
        validation: on the validation rows, which choose among the families of a run.
        test: on the test rows, which say whether it meets the targets.
        contest: on the test rows that the champion has not learnt from; None where there are none.
        unfit: why a champion cannot be asked about this problem any more, if so.
    """

    family: str
    version: str
    validation: dict[str, float]
    test: dict[str, float]
    contest: dict[str, float] | None = None
    unfit: str | None = None

    @classmethod
    def from_json(cls, card: Mapping[str, Any]) -> Self:
        """From a card of `pump_ml.steps.evaluate`, where None stands for a value that is no number."""
        parts = {
            part: {target: math.nan if value is None else value for target, value in (card.get(part) or {}).items()}
            for part in ("validation", "test", "contest")
        }
        return cls(card["family"], card["version"], parts["validation"], parts["test"], parts["contest"] or None,
                   card.get("unfit"))  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """What happens to the alias ``champion``.

    Args:
        promoted: whether a challenger takes it.
        challenger: the challenger's version; None when no family was eligible.
        reason: in words.
        eligible: whether each family meets the targets.
        errors: relative error of each family and of the champion where they were compared; below 1 is inside the
            targets, and one that is no number is left out.
    """

    promoted: bool
    challenger: str | None
    reason: str
    eligible: dict[str, bool]
    errors: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def decide(contenders: Sequence[Contender], champion: Contender | None, problem: Problem) -> Decision:
    """Choose the challenger among the eligible by validation rows, and compare it with the champion on the test rows.

    A family is eligible when each target reaches its threshold; where the problem has none, when it beats the baseline
    of the same run on each target; a metric that is no number makes it ineligible. The champion falls only to a
    strictly lower relative error.

    Args:
        contenders: this run's families, measured on the same rows; the baseline among them.
        champion: the standing champion, measured on the same rows in the same call; None when there is none.
        problem: targets.
    """
    allowed = _allowed(contenders, problem, "test")
    eligible = {c.family: _eligible(c, allowed, problem) for c in contenders}
    errors = {c.family: relative_error(c.contest or c.test, allowed, problem) for c in contenders}
    if champion is not None and champion.contest:
        errors["champion"] = relative_error(champion.contest, allowed, problem)
    errors = {name: error for name, error in errors.items() if math.isfinite(error)}
    able = [c for c in contenders if eligible[c.family]]
    if not able:
        bar = "meets all targets" if problem.has_thresholds else "beats the baseline"
        return Decision(False, None, f"no family {bar}; the champion stays as it is", eligible, errors)
    # The scale of the ranking is the validation rows' own: test rows judge, they don't rank.
    scale = _allowed(contenders, problem, "validation")
    best = min(able, key=lambda c: relative_error(c.validation, scale, problem))
    ours = errors[best.family]
    if champion is None:
        reason = f"{best.family} is the first eligible model (relative error {ours:.3f})"
        return Decision(True, best.version, reason, eligible, errors)
    standing = f"version {champion.version} ({champion.family})"
    if champion.unfit:
        reason = f"{best.family} takes over: {standing} cannot answer this problem any more, {champion.unfit}"
        return Decision(True, best.version, reason, eligible, errors)
    if not champion.contest:
        reason = f"{standing} stays: it has learnt from every test asset, so nothing can be compared"
        return Decision(False, best.version, reason, eligible, errors)
    theirs = errors.get("champion", math.inf)
    if ours < theirs:
        reason = f"{best.family} beats {standing}: relative error {ours:.3f} < {theirs:.3f}"
        return Decision(True, best.version, reason, eligible, errors)
    reason = f"{standing} stays: its relative error is {theirs:.3f}, {best.family} has {ours:.3f}"
    return Decision(False, best.version, reason, eligible, errors)


def _allowed(
    contenders: Sequence[Contender], problem: Problem, part: Literal["validation", "test"]
) -> dict[str, float]:
    """What each metric may be: the threshold, or where there is none what the baseline reached on that part."""
    baseline = next(c for c in contenders if c.family == "baseline")
    reached: dict[str, float] = getattr(baseline, part)
    return {t.name: reached[t.name] if t.threshold is None else t.threshold for t in problem.targets}


def _eligible(contender: Contender, allowed: dict[str, float], problem: Problem) -> bool:
    measured = (contender.validation, contender.test, contender.contest or {})
    if not all(math.isfinite(value) for values in measured for value in values.values()):
        return False
    for target in problem.targets:
        metric, value = metrics.get(target.metric), contender.test[target.name]
        if target.threshold is not None:
            good = metric.passes(value, target.threshold)
        else:
            good = metric.shortfall(value) < metric.shortfall(allowed[target.name])
        if not good:
            return False
    return True
