"""A training run until its families are trained: plan -> train(baseline) -> gate -> train(…)."""

import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pump_ml import catalog
from pump_ml.errors import ConfigurationError, GateError, UnknownNameError
from pump_ml.settings import Settings, git_sha
from pump_ml.steps import checkpoints
from pump_ml.steps.common import Json, Progress, log, log_progress, readable, step

CLEAR = 0.95
"""Share of the naive error that the baseline has to stay below: it chose its rung on the same validation windows, so
that on data which carry nothing it is ahead by a per cent or two."""


def check_names(
    problem: str, families: Sequence[str] | None, preset: str, hyper: Mapping[str, Any] | None = None, trials: int = 0
) -> None:
    """Raise for a name that does not exist or a value out of its bounds, before anything long is started for it.

    Args:
        problem: a name of `pump_ml.catalog.PROBLEMS`, or the path of a YAML file, which is read.
        families: names of `pump_ml.catalog.FAMILIES`; None for all that fit the data.
        preset: a name of `pump_ml.catalog.PRESETS`.
        hyper: hyper-parameters that the run sets, family -> name -> value; see `pump_ml.hyper.check`.
        trials: how often each family but the baseline is tuned.

    Raises:
        UnknownNameError: a name does not exist.
        ConfigurationError: a value cannot be used.
    """
    from pump_ml.problems import load_problem

    families = list(catalog.FAMILIES) if families is None else families
    for family in families:
        if family not in catalog.FAMILIES:
            raise UnknownNameError("family", family, catalog.FAMILIES)
    if preset not in catalog.PRESETS:
        raise UnknownNameError("preset", preset, catalog.PRESETS)
    if isinstance(trials, bool) or not isinstance(trials, int) or not 0 <= trials <= catalog.MOST_TRIALS:
        raise ConfigurationError(f"trials = {trials!r}; expected 0, for no tuning, to {catalog.MOST_TRIALS}")
    load_problem(problem)
    if hyper or trials:
        from pump_ml import hyper as values

        others = [family for family in families if family != "baseline"]
        values.check(hyper or {}, ["baseline", *others])
        for family in others if trials else ():
            values.tuned_space(family, (hyper or {}).get(family, ()))


def own_problem(snapshot: str) -> str:
    """The problem that a snapshot's data are for: of the twin its dataset's, else ``diagnosis``.

    Raises:
        SnapshotError: there is no such snapshot.
    """
    from pump_ml import snapshots

    origin = snapshots.read_manifest(Settings.load().data, "snapshots", snapshot)["origin"]
    dataset = origin.get("dataset") if origin.get("source") == "simulated" else None
    return catalog.DATASETS.get(str(dataset), "diagnosis")


@step
def plan(
    snapshot: str | None,
    problem: str,
    run_key: str,
    *,
    families: Sequence[str] | None = None,
    preset: str = "standard",
    seed: int = 7,
    hyper: Mapping[str, Mapping[str, Any]] | None = None,
    trials: int = 0,
    tags: Mapping[str, str] | None = None,
) -> Json:
    """Settle what a training run does: data, split, families; and open its run in MLflow.

    Args:
        snapshot: key of the snapshot that all families learn from; None when a DAG found none that was published.
        problem: a name of `pump_ml.catalog.PROBLEMS`, or the path of a YAML file.
        run_key: names the training run; the same key goes on with the same run.
        families: names of `pump_ml.catalog.FAMILIES`, None for all that fit the data; the baseline always takes part.
        preset: a name of `pump_ml.catalog.PRESETS`.
        seed: of the split, of every family and of the tuning.
        hyper: hyper-parameters that this run sets, family -> name -> value; the others are the problem's and
            the preset's.
        trials: how often each family but the baseline is tried to tune its hyper-parameters; 0 for no tuning.
        tags: more tags of the MLflow run, such as the DAG's name.

    Returns:
        The plan, which the other steps take: the arguments, ``split`` (key), ``experiment``, ``parent`` (MLflow run)
        and ``others`` (the families beside the baseline).

    Raises:
        ConfigurationError: there is no snapshot, a hyper-parameter is out of its bounds, a family does not fit the
            problem, or the run was planned otherwise before.
        UnknownNameError: a family, a preset, a problem or a hyper-parameter does not exist.
        DataError: a target has no labels, or one class only; see `pump_ml.readiness`.
        LeakError: a label stands among the features, or an asset in two parts.
    """
    from pump_ml import files, readiness, registry, snapshots, splits
    from pump_ml.problems import load_problem
    from pump_ml.schema import ASSET
    from pump_ml.split_policy import Folds

    if not re.fullmatch(r"[\w./:+~-]+", run_key):
        raise ConfigurationError(f"training run {run_key!r}: a name has letters, digits and . / : + ~ - _ only")
    if snapshot is None:
        raise ConfigurationError(
            "no dataset was published: name a snapshot (the task `snapshot` returns its key), or run the DAG `dataset` "
            "with `publish`"
        )
    settings = Settings.load()
    check_names(problem, families, preset, hyper, trials)
    asked = load_problem(problem, settings)
    data = snapshots.load(settings.data, "snapshots", snapshot)
    asked.choose_features([s.name for s in data.telemetry.sensors], data.telemetry.labels)
    listed = catalog.FAMILIES if families is None else families
    classes = {name: catalog.load("family", catalog.FAMILIES, name) for name in listed}
    if families is None:
        families = [name for name, family in classes.items() if readiness.fits(family, data)]
        check_names(problem, families, preset, hyper, trials)  # nothing is set for one that does not fit
    for name in families:
        readiness.check_inputs(classes[name], data)
    split_key, split = splits.store(
        settings.data, snapshot, data.telemetry.readings, asked.split, seed=seed, reference=asked.reference
    )
    readiness.check_labels(data.telemetry.readings, split, asked)
    if isinstance(asked.split.test, Folds):
        some = ", ".join(split.test[:5]) + (", …" if len(split.test) > 5 else "")
        log.warning(
            "%s has folds, and a training run judges the first alone: %d of %d assets (%s); `pump-ml benchmark` judges "
            "all of them, for the problems of its protocols",
            asked.name, len(split.test), data.telemetry.readings[ASSET].nunique(), some,
        )  # fmt: skip

    client = registry.connect(settings)
    experiment = registry.experiment(client, asked, settings)
    common = {
        "problem": asked.name,
        "snapshot": snapshot,
        "dataset_hash": data.content_hash,
        "git_sha": git_sha(),
        "seed": str(seed),
        "preset": preset,
        **(tags or {}),
    }
    parent = registry.open_parent(client, experiment, run_key, f"{asked.name} {run_key.rsplit('/', 1)[-1]}", common)
    client.log_dict(parent, split.to_json(), "split.json")
    settled = {
        "snapshot": snapshot,
        "problem": problem,
        "definition": asked.model_dump(mode="json"),
        "run_key": run_key,
        "preset": preset,
        "seed": seed,
        "hyper": {family: dict(values) for family, values in (hyper or {}).items()},
        "trials": trials,
        "split": split_key,
        "experiment": experiment,
        "parent": parent,
        "tags": common,
        "others": [family for family in dict.fromkeys(families) if family != "baseline"],
    }
    files.write_once(_plan_path(settings, run_key), settled)
    stored = read_plan(run_key)
    for name in ("snapshot", "definition", "preset", "seed", "hyper", "trials", "others"):
        if stored.get(name) != settled[name]:  # a plan of an earlier version lacks some
            raise ConfigurationError(
                f"training run {run_key!r} was planned with {name} = {stored.get(name)!r}, not {settled[name]!r}; take "
                "another name for another run"
            )
    return stored


@step
def read_plan(run_key: str) -> Json:
    """The plan of a training run that `plan` settled before.

    Raises:
        UnknownNameError: there was no such run.
    """
    from pump_ml import files

    path = _plan_path(Settings.load(), run_key)
    if not files.exists(path):
        known = [files.read_json(path.parent / name)["run_key"] for name in files.names(path.parent)[-5:]]
        raise UnknownNameError("training run", run_key, known)
    return dict(files.read_json(path))


@step
def read_candidates(plan: Mapping[str, Any]) -> list[Json]:
    """What `train` returned for each family of a training run so far, the baseline first."""
    candidates: list[Json] = []
    for family in ("baseline", *plan["others"]):
        done = read_candidate(plan, family)
        if done is None:
            raise UnknownNameError(f"trained family of {plan['run_key']}", family, [c["family"] for c in candidates])
        candidates.append(done)
    return candidates


def read_candidate(plan: Mapping[str, Any], family: str) -> Json | None:
    """What `train` returned for one family; None as long as it is not trained."""
    from pump_ml import registry
    from pump_ml.work import Work

    client = registry.connect()
    run = registry.find_run(client, plan["experiment"], f"{plan['run_key']}/{family}")
    done = registry.registered(client, Work(plan).problem.model_name, run.info.run_id) if run else None
    return done and _candidate(*done)


def _candidate(version: str, tags: Mapping[str, str]) -> Json:
    """What `train` returned, from the version that holds it: the same for every try."""
    from pump_ml import registry

    return dict(json.loads(tags[registry.CANDIDATE]), version=version)


def _plan_path(settings: Settings, run_key: str) -> Any:
    return settings.data / "plans" / f"{readable(run_key)}.json"


@step
def train(
    plan: Mapping[str, Any], family: str, tags: Mapping[str, str] | None = None, progress: Progress | None = None
) -> Json:
    """Fit one family on the training part, with the hyper-parameters that tuning found best, and register the model.

    The commit point is the registered version, see `pump_ml.registry.register`: a try that finds one fits nothing and
    returns what belongs to it, also when a try that was taken for dead was faster. Until then a network's checkpoint
    lies below the data root, and a try goes on from the epoch that the one before it finished.

    Args:
        plan: what `plan` returned.
        family: a name of `pump_ml.catalog.FAMILIES`.
        tags: more tags of the MLflow run, such as the task's name and map index.
        progress: gets the share that is done.

    Returns:
        ``family``, ``run`` (MLflow run), ``version`` (registered), ``seconds`` of the fit, and ``validation``: each
        target's metric on the validation windows.

    Raises:
        ConfigurationError: the plan asks for trials, and `tune` has not tuned the family yet.
    """
    from pump_ml import explanation, figures, hyper, registry
    from pump_ml.evaluation import as_learnt, judge
    from pump_ml.models import fitted_until
    from pump_ml.work import Curves, Work

    work = Work(plan)
    name = work.problem.model_name
    client, key = registry.connect(work.settings), f"{plan['run_key']}/{family}"
    earlier = registry.find_run(client, plan["experiment"], key)
    if earlier and (done := registry.registered(client, name, earlier.info.run_id)):
        log.info("%s was registered as version %s by an earlier try", family, done[0])
        registry.finish(client, earlier)
        checkpoints.retire(work, family)
        return _candidate(*done)
    tuned = {family: _tuned(plan, family)}
    learner = hyper.make(family, plan["preset"], work.problem.hyper, plan["hyper"], tuned)
    parameters = dataclasses.asdict(learner)
    with registry.child_run(
        client, plan["experiment"], plan["parent"], key, family,
        {**plan["tags"], "family": family, **(tags or {})},
    ) as run:  # fmt: skip
        if work.settings.mlflow_ui:
            page = f"{work.settings.mlflow_ui}/#/experiments/{plan['experiment']}/runs/{run}"
            log.info("MLflow: %s?workflowType=machine_learning", page)
        learn, tune = work.learning(learner.inputs)
        registry.log_parameters(
            client,
            run,
            {"family": family, "preset": plan["preset"], "seed": plan["seed"], "windows_train": len(learn)}
            | parameters,
        )
        for part in ("train", "validation"):
            work.log_lineage(part)
        curves = Curves(f"train {family}", progress or log_progress())
        started = time.monotonic()
        checkpoint = checkpoints.of_family(work, family, parameters)
        predictor = work.fit(learner, learn, tune, seed=plan["seed"], watch=curves.watch, checkpoint=checkpoint)
        seconds = round(time.monotonic() - started, 1)
        if done := registry.registered(client, name, run):
            log.warning(
                "%s was registered as version %s by another try meanwhile; this fit is dropped", family, done[0]
            )
            checkpoints.retire(work, family)
            return _candidate(*done)
        if work.split.times:
            predictor.fitted_until = fitted_until(learn, tune)
        predictor.calibrate(tune)
        predictor.remember(learn, {sensor.name: sensor.unit for sensor in work.snapshot.telemetry.sensors})
        truth = tune.rows.join(as_learnt(tune.labels, work.problem))
        card = judge(family, predictor.table(tune, held_out=True), truth, work.problem, predictor.calibration)
        registry.log_points(client, run, [*curves.points, ("train/seconds", seconds, 0)])
        registry.log_values(client, run, "validation", card.values)
        client.log_dict(run, work.split.to_json(), "split.json")
        if figure := curves.figure():
            client.log_figure(run, figure, "plots/learning_curves.png")
        important = explanation.importance(predictor, tune, seed=plan["seed"])
        client.log_dict(run, important, "importance.json")
        client.log_figure(run, figures.importance(important), "plots/importance.png")
        model = registry.log_predictor(predictor, work.example())
        candidate = {"family": family, "run": run, "seconds": seconds, "validation": card.headline(work.problem)}
        labels = {"family": family, "run_key": plan["run_key"], "snapshot": plan["snapshot"], "git_sha": git_sha()}
        labels["hyper"] = json.dumps(parameters)
        labels[registry.CANDIDATE] = json.dumps(candidate)  # with the version, so that a retry finds what belongs to it
        settled = _candidate(*registry.register(client, name, model, run, labels))
    checkpoints.retire(work, family)
    log.info("%s learnt in %.1f s and is version %s; validation: %s", family, seconds, settled["version"],
             settled["validation"])  # fmt: skip
    return settled


def _tuned(plan: Mapping[str, Any], family: str) -> Json:
    """The hyper-parameters that `tune` found best; none where nothing is tuned."""
    if not plan["trials"] or family == "baseline":
        return {}
    from pump_ml.tuning import Study

    best = Study(plan, family).best
    if best is None:
        raise ConfigurationError(
            f"{family} of training run {plan['run_key']!r} is to be tuned in {plan['trials']} trials, and none is "
            "complete; expected `tune` before `train`"
        )
    return best.hyper


@step
def gate(plan: Mapping[str, Any], baseline: Mapping[str, Any]) -> Json:
    """Let the run go on only when the baseline clearly beats the naive predictor on every target, on validation data.

    Args:
        plan: what `plan` returned.
        baseline: what `train` returned for the baseline.

    Returns:
        ``naive``: each target's metric of the naive predictor, and ``baseline``: of the baseline.

    Raises:
        GateError: the data do not carry a target.
    """
    import pandas as pd

    from pump_ml import metrics
    from pump_ml.evaluation import as_learnt, judge, naive_answers
    from pump_ml.schema import ASSET
    from pump_ml.work import Work

    work = Work(plan)
    learn, tune = work.learning()
    truth = tune.rows.join(as_learnt(tune.labels, work.problem))
    if work.rotations:  # a naive answer about assets that are set aside follows from the others, as the baseline's does
        turns = [tune.rows[ASSET].isin(assets).to_numpy() for assets in work.rotations]
        answers = pd.concat([naive_answers(learn.labels[~turn], tune.rows[turn], work.problem) for turn in turns])
    else:
        answers = naive_answers(learn.labels, tune.rows, work.problem)
    naive = judge("naive", answers, truth, work.problem).headline(work.problem)
    ours = baseline["validation"]
    failed = [
        f"{t.name} ({t.metric}: naive {naive[t.name]:.4g}, baseline {ours[t.name]:.4g})"
        for t in work.problem.targets
        if not metrics.get(t.metric).shortfall(ours[t.name]) < CLEAR * metrics.get(t.metric).shortfall(naive[t.name])
    ]
    if failed:
        raise GateError(
            f"the data do not carry {', '.join(failed)}: the baseline's error is expected below {100 * CLEAR:g} % of "
            "that of the naive answer, which is always the same, so nothing else is trained. Check the labels, bring "
            "more assets or sensors that see the fault, or drop the target from the problem"
        )
    log.info("the baseline beats the naive predictor on every target: %s against %s", ours, naive)
    return {"naive": naive, "baseline": ours}
