"""Between the gate and a family's training, where the plan asks for trials: the family's hyper-parameters are tuned."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from pump_ml.errors import ConfigurationError
from pump_ml.steps.common import Json, Progress, log, log_progress, step
from pump_ml.steps.training import read_candidate


@step
def tune(
    plan: Mapping[str, Any],
    family: str,
    tags: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    *,
    timeout_minutes: float | None = None,
) -> Json:
    """Try hyper-parameters until the plan's number of trials is settled; `train` then takes the best.

    Each trial learns from the training assets and is judged by its relative error on the validation assets; test assets
    are not looked at. The first trial has the values that the family would have without tuning. A trial is a run of its
    own in MLflow, below the family's tuning run. The commit point is the trial's result in the ledger's database: a try
    that comes after a killed one does the trial that it left again, and goes on.

    Args:
        plan: what `plan` returned; with ``trials`` 0 there is nothing to do.
        family: a name of `pump_ml.catalog.FAMILIES` but the baseline, which the others are measured by.
        tags: more tags of the MLflow runs, such as the task's name and map index.
        progress: gets the share that is done.
        timeout_minutes: no trial is started after it; the one that goes on then is finished.

    Returns:
        ``family``, ``trials`` (settled, pruned ones included), ``pruned``; and of the best ``trial`` (its number),
        ``error`` (relative) and ``hyper`` (its values), which are None where no trial is complete.

    Raises:
        ConfigurationError: the baseline is not tuned, or is not trained yet though the problem has no thresholds.
    """
    if family == "baseline":
        raise ConfigurationError("the baseline is what the others are measured by; expected another family to tune")
    if not plan["trials"]:
        return {"family": family, "trials": 0, "pruned": 0, "trial": None, "error": None, "hyper": None}
    from pump_ml import registry, tuning
    from pump_ml.work import Work

    work = Work(plan)
    client, key = registry.connect(work.settings), f"{plan['run_key']}/{family}/tuning"
    study = tuning.Study(plan, family, work.settings)
    if len(study.settled) >= plan["trials"]:
        if earlier := registry.find_run(client, plan["experiment"], key):
            registry.finish(client, earlier)
        return _found(study, family)
    labels = {**plan["tags"], "family": family, **(tags or {})}
    with registry.child_run(
        client, plan["experiment"], plan["parent"], key, f"tune {family}", labels,
    ) as run:  # fmt: skip
        for number in study.take_back():
            log.warning("trial %d of %s was left by a try that ended; it is done again", number, family)
            if left := registry.find_run(client, plan["experiment"], f"{key}/{number}"):
                client.set_terminated(left.info.run_id, status="KILLED")
        fixed = {"family": family, "preset": plan["preset"], "seed": plan["seed"], "trials": plan["trials"]}
        registry.log_parameters(client, run, fixed | plan["hyper"].get(family, {}))
        for part in ("train", "validation"):
            work.log_lineage(part)
        attempt = _Attempts(plan, work, family, study, progress or log_progress())
        started = time.monotonic()
        while (settled := len(study.settled)) < plan["trials"]:
            trial = study.ask()
            with registry.trial_run(
                client, plan["experiment"], run, f"{key}/{trial.number}", f"{family} trial {trial.number}", labels
            ) as below:
                error = attempt(trial, below, settled)
            study.tell(trial, error)
            if best := study.best:
                registry.log_points(client, run, [("tuning/best_relative_error", best.error, settled)])
            if timeout_minutes is not None and time.monotonic() - started > 60.0 * timeout_minutes:
                break
        found = _found(study, family)
        client.log_dict(run, found, "tuning.json")
    log.info("%s: the best of %d trials (%d pruned) is number %s, with a relative error of %s: %s", family,
             found["trials"], found["pruned"], found["trial"], found["error"], found["hyper"])  # fmt: skip
    return found


def _found(study: Any, family: str) -> Json:
    settled, best = study.settled, study.best
    return {
        "family": family,
        "trials": len(settled),
        "pruned": sum(trial.state.name == "PRUNED" for trial in settled),
        "trial": best and best.number,
        "error": best and best.error,
        "hyper": best and best.hyper,
    }


class _Attempts:
    """Fits a family with a trial's hyper-parameters on windows that are cut once."""

    def __init__(self, plan: Mapping[str, Any], work: Any, family: str, study: Any, progress: Progress) -> None:
        from pump_ml.evaluation import as_learnt
        from pump_ml.models import decides

        self.plan, self.problem, self.family, self.study = plan, work.problem, family, study
        self.progress = progress
        self.train, self.validation = (work.windows(part, study.first.inputs) for part in ("train", "validation"))
        if not decides(self.train, self.validation):
            log.warning("trials of %s are judged by a single asset that training lacks: chance chooses", family)
        self.truth = self.validation.rows.join(as_learnt(self.validation.labels, work.problem))
        self.allowed = _allowed(plan, work.problem)

    def __call__(self, trial: Any, run: str, settled: int) -> float | None:
        """The relative error on the validation windows; None for a trial that was pruned. Logged in its run."""
        from pump_ml import registry, tuning
        from pump_ml.evaluation import judge, relative_error
        from pump_ml.work import Curves

        client = registry.connect()
        learner = dataclasses.replace(self.study.first, **trial.params)
        registry.log_parameters(client, run, dataclasses.asdict(learner))
        curves = Curves(
            f"tune {self.family}", lambda what, share: self.progress(what, (settled + share) / self.plan["trials"])
        )

        def watch(step: int, values: Mapping[str, float]) -> None:
            curves.watch(step, values)
            tuning.look(trial, step, values)

        started = time.monotonic()
        error = None
        try:
            predictor = learner.fit(self.train, self.validation, self.problem, seed=self.plan["seed"], watch=watch)
        except tuning.Pruned:
            curves.watch(0, {"progress": 1.0})
        else:
            card = judge(self.family, predictor.table(self.validation), self.truth, self.problem)
            error = relative_error(card.headline(self.problem), self.allowed, self.problem)
            registry.log_values(client, run, "validation", card.values)
            registry.log_points(client, run, [("tuning/relative_error", error, 0)])
        registry.log_points(client, run, [*curves.points, ("train/seconds", time.monotonic() - started, 0)])
        client.set_tag(run, "trial", "pruned" if error is None else "complete")
        return error


def _allowed(plan: Mapping[str, Any], problem: Any) -> dict[str, float]:
    """What each target's metric may be: its threshold, else the baseline's on all windows that were held out for it."""
    if problem.has_thresholds:
        return {target.name: target.threshold for target in problem.targets}
    baseline = read_candidate(plan, "baseline")
    if baseline is None:
        raise ConfigurationError(
            f"problem {problem.name!r} has no thresholds, so its families are measured by the baseline, which training "
            f"run {plan['run_key']!r} has not trained; expected `train` of the baseline before `tune`"
        )
    return dict(baseline["validation"])
