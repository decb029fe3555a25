"""The search for a family's hyper-parameters. The only module that knows Optuna.

What is tried next follows from the trials that are settled, and from the plan's seed, and from nothing else: a search
that was killed goes on as if it had not been, and the same seed gives the same trials.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from pump_ml import hyper, ledger
from pump_ml.models.space import Choice, Range
from pump_ml.settings import Settings

Pruned = optuna.TrialPruned
"""Raised in a fit that is not worth going on with."""
JUDGED = "validation/loss"
"""What a trial is pruned by, where a family reports it: the loss over all targets on the validation windows."""
PATIENT_TRIALS, PATIENT_STEPS = 5, 3
"""Nothing is pruned before so many trials are complete, nor in the first steps of a fit."""
AGAIN = "again"
"""Marks a trial that does a failed one again, and says which."""


@dataclass(frozen=True)
class Best:
    """The best trial of a study: its number, its relative error on the validation assets, and what it tried."""

    number: int
    error: float
    hyper: dict[str, Any]


class Study:
    """The trials of one family in one training run, in the ledger's database.

    Args:
        plan: what `pump_ml.steps.plan` returned.
        family: a name of `pump_ml.catalog.FAMILIES`.
        settings: where the ledger is.
    """

    def __init__(self, plan: Mapping[str, Any], family: str, settings: Settings | None = None) -> None:
        fixed = plan["hyper"].get(family, {})
        self.seed = int(plan["seed"])
        # A plan of an earlier version lacks the problem's.
        self.first = hyper.make(family, plan["preset"], plan["definition"].get("hyper", {}), plan["hyper"])
        self.space = hyper.tuned_space(family, fixed)
        # A study of other data or bounds is another one, though the training run has the same name.
        of = {name: plan[name] for name in ("snapshot", "split", "definition", "preset", "seed", "hyper")}
        of["space"] = {name: str(each) for name, each in self.space.items()}
        digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:8]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with ledger.lock("tuning/studies", settings):  # families that start together don't all make the tables
            url, options = ledger.studies(settings)
            self.study = optuna.create_study(
                storage=optuna.storages.RDBStorage(url, engine_kwargs=options),
                study_name=f"{plan['run_key']}/{family}/{digest}",
                pruner=optuna.pruners.MedianPruner(PATIENT_TRIALS, PATIENT_STEPS),
                load_if_exists=True,
            )

    @property
    def settled(self) -> list[FrozenTrial]:
        """The trials that count: complete, pruned, or failed twice."""
        return [
            trial
            for trial in self.study.trials
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            or (trial.state == TrialState.FAIL and AGAIN in trial.user_attrs)
        ]

    @property
    def best(self) -> Best | None:
        """The complete trial with the lowest error, the first of equals; None where there is none."""
        complete = [  # a pruned one has a value as well: its last loss
            Best(trial.number, trial.values[0], trial.params)
            for trial in self.study.get_trials(states=(TrialState.COMPLETE,))
        ]
        return min(complete, key=lambda trial: trial.error, default=None)

    def take_back(self) -> Sequence[int]:
        """Give up the trials that a try left, which was killed or failed; each is done again, once.

        A try that is alive all the same, though it was taken for dead, fails at its trial's next step.

        Returns:
            Their numbers.
        """
        left = self.study.get_trials(states=(TrialState.RUNNING,))
        for trial in left:
            self.study.tell(trial.number, state=TrialState.FAIL)
            if AGAIN not in trial.user_attrs:
                self.study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
        return [trial.number for trial in left]

    def ask(self) -> Trial:
        """The next trial; the first has the values that the family would have without tuning."""
        settled = len(self.settled)
        if not settled and not self.study.get_trials(states=(TrialState.WAITING,)):
            self.study.enqueue_trial({name: getattr(self.first, name) for name in self.space})
        self.study.sampler = optuna.samplers.TPESampler(seed=self.seed + settled)
        return self.study.ask({name: distribution(each) for name, each in self.space.items()})

    def tell(self, trial: Trial, error: float | None) -> None:
        """Settle a trial with its error, or as pruned where there is none."""
        self.study.tell(trial, error, TrialState.PRUNED if error is None else TrialState.COMPLETE)


def look(trial: Trial, step: int, values: Mapping[str, float]) -> None:
    """Take what a family reports while it learns, see `pump_ml.models.Watch`.

    Raises:
        Pruned: the loss is worse than that of half of the trials at this step, or is no number.
    """
    if JUDGED not in values:
        return
    if not math.isfinite(values[JUDGED]):
        raise Pruned
    trial.report(values[JUDGED], step)
    if trial.should_prune():
        raise Pruned


def distribution(space: Range | Choice) -> BaseDistribution:
    """A hyper-parameter's space in Optuna's terms."""
    if isinstance(space, Choice):
        return CategoricalDistribution(space.options)
    if space.whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)
