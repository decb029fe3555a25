"""What a DAG or a shell may ask for. Each step takes and returns small JSON; frames travel by key, never by value.

    fetch -> validate -> snapshot                                              a dataset
    plan -> train(baseline) -> gate -> train(…) -> evaluate -> promote -> report    a training run

A step may be tried again at any time: it finds what an earlier try finished by its key, and does the rest. Heavy
imports stand inside the functions.
"""

import functools
import hashlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pump_ml import catalog
from pump_ml.errors import ConfigurationError, ContractError, GateError, UnknownNameError, name_failure
from pump_ml.settings import PACKAGE, Settings, git_sha

if TYPE_CHECKING:
    import pandas as pd


Json = dict[str, Any]
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0 to 1."""

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def step(function: Callable[P, R]) -> Callable[P, R]:
    """A step gives a failure for want of room or memory its name, see `pump_ml.errors.name_failure`."""

    @functools.wraps(function)
    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if failure := name_failure(error, f"step {function.__name__}"):
                raise failure from error
            raise

    return named


def log_progress() -> Progress:
    """Progress as log lines, at most one every five seconds for each kind of work."""
    last: dict[str, float] = {}

    def report(what: str, share: float) -> None:
        if share >= 1.0 or time.monotonic() - last.get(what, 0.0) > 5.0:
            last[what] = time.monotonic()
            log.info("%s: %.0f %%", what, 100.0 * share)

    return report


# --- a dataset
# ----------------------------------------------------------------------------------------------------------


@step
def fetch(source: str, options: Mapping[str, Any], progress: Progress | None = None) -> Json:
    """Read or make readings and store them as they came.

    Args:
        source: a name of `pump_ml.catalog.SOURCES`.
        options: what that source takes, such as ``{"pumps": 560, "seed": 7}`` or ``{"mapping": …, "path": …}``.
        progress: gets the share that is done.

    Returns:
        ``raw`` (key) and ``rows``.

    Raises:
        ConfigurationError: the source does not take such an option.
        SourceError: it cannot be read.
    """
    from pump_ml import snapshots

    made = catalog.load("source", catalog.SOURCES, source)
    known = made.__init__.__kwdefaults__ or {}
    accepted = [name for name in made.__init__.__annotations__ if name not in ("return", "progress")]
    if strange := sorted(set(options) - set(accepted)):
        raise UnknownNameError(f"option of source {source!r}", strange[0], accepted)
    if missing := [name for name in accepted if name not in options and name not in known]:
        raise ConfigurationError(
            f"source {source!r} needs {', '.join(missing)}; given: {', '.join(options) or 'nothing'}"
        )
    report = progress or log_progress()
    extra = {"progress": lambda share: report(f"fetch {source}", share)} if "progress" in known else {}
    telemetry = made(**options, **extra).fetch()
    key = snapshots.store(Settings.load().data, "raw", telemetry)
    log.info("stored %d raw readings as %s", len(telemetry.readings), key)
    return {"raw": key, "rows": len(telemetry.readings)}


@step
def validate(raw: str) -> Json:
    """Hold raw readings against their suite; rows that break a rule go to quarantine with the rules they broke.

    Returns:
        ``raw``, ``validation`` (key of the report and of the quarantined rows), ``rows``, ``quarantined`` and ``docs``
        (address of the Data Docs).

    Raises:
        ContractError: the readings break the contract; nothing can be made of them, and the quarantine holds why.
    """
    from pump_ml import files, snapshots
    from pump_ml.validation import validate as hold_against

    settings = Settings.load()
    telemetry = snapshots.load(settings.data, "raw", raw).telemetry
    rules = [*sorted(settings.suites.glob("*.json")), PACKAGE / "validation.py", PACKAGE / "expectation_types.py"]
    key = f"{raw}-{hashlib.sha256(b''.join(path.read_bytes() for path in rules)).hexdigest()[:8]}"
    docs, folder = settings.docs / key, settings.data / "quarantine" / key
    with tempfile.TemporaryDirectory() as built:
        # The key stands for the readings and the rules, so another try would build the same pages.
        pages = None if files.exists(docs / "index.html") else Path(built)
        try:
            result = hold_against(telemetry, suites=settings.suites, docs=pages)
        except ContractError as error:
            if error.quarantined is not None and len(error.quarantined):
                _quarantine(folder, error.quarantined, "contract_broken.json")
            files.write_once(folder / "contract_broken.json", {"raw": raw, "error": str(error), "report": error.report})
            files.publish(Path(built), docs, last="index.html")
            raise
        files.publish(Path(built), docs, last="index.html")
    if len(result.quarantined):
        _quarantine(folder, result.quarantined, "report.json")
        log.warning("%d of %d rows are in quarantine: %s", len(result.quarantined), len(telemetry.readings), folder)
    files.write_once(folder / "report.json", result.report)
    return {
        "raw": raw,
        "validation": key,
        "rows": len(telemetry.readings),
        "quarantined": len(result.quarantined),
        "docs": (docs / "index.html").as_uri(),
    }


def _quarantine(folder: Any, rows: "pd.DataFrame", report: str) -> None:
    """Store the rows, unless the report says that an earlier try finished: it is written after them."""
    from pump_ml import files

    if not files.exists(folder / report):
        files.write_parquet(folder / "readings.parquet", rows)


@step
def snapshot(validated: Mapping[str, Any]) -> Json:
    """Store the readings that met their suite as an immutable snapshot.

    Args:
        validated: what `validate` returned.

    Returns:
        ``snapshot`` (key), ``rows``, ``quarantined`` and ``docs``.
    """
    from pump_ml import files, snapshots
    from pump_ml.schema import TIME, Telemetry

    root = Settings.load().data
    telemetry = snapshots.load(root, "raw", validated["raw"]).telemetry
    good = telemetry.readings
    if validated["quarantined"]:
        rows = files.read_parquet(root / "quarantine" / validated["validation"] / "readings.parquet", ["row"])
        good = good.drop(index=good.index[rows["row"].to_numpy()]).reset_index(drop=True)
    if good[TIME].dtype.kind == "f":  # cycles of which some were missing; those rows are in quarantine now
        good = good.astype({TIME: "int64"})
    kept = Telemetry(good, telemetry.sensors, telemetry.labels, telemetry.suite, telemetry.origin)
    key = snapshots.store(
        root,
        "snapshots",
        kept,
        raw=validated["raw"],
        validation=validated["validation"],
        quarantined=validated["quarantined"],
    )
    return {"snapshot": key, "rows": len(good), "quarantined": validated["quarantined"], "docs": validated["docs"]}


# --- a training run
# -----------------------------------------------------------------------------------------------------


def check_names(problem: str, families: Sequence[str], preset: str) -> None:
    """Raise UnknownNameError for a name that does not exist, before anything long is started for it.

    Args:
        problem: a name of `pump_ml.catalog.PROBLEMS`, or the path of a YAML file, which is read.
        families: names of `pump_ml.catalog.FAMILIES`.
        preset: a name of `pump_ml.catalog.PRESETS`.
    """
    from pump_ml.problems import load_problem

    for family in families:
        if family not in catalog.FAMILIES:
            raise UnknownNameError("family", family, catalog.FAMILIES)
    if preset not in catalog.PRESETS:
        raise UnknownNameError("preset", preset, catalog.PRESETS)
    load_problem(problem)


@step
def plan(
    snapshot: str | None,
    problem: str,
    run_key: str,
    *,
    families: Sequence[str] = tuple(catalog.FAMILIES),
    preset: str = "standard",
    seed: int = 7,
    tags: Mapping[str, str] | None = None,
) -> Json:
    """Settle what a training run does: data, split, families; and open its run in MLflow.

    Args:
        snapshot: key of the snapshot that all families learn from; None when a DAG found none that was published.
        problem: a name of `pump_ml.catalog.PROBLEMS`, or the path of a YAML file.
        run_key: names the training run; the same key goes on with the same run.
        families: names of `pump_ml.catalog.FAMILIES`; the baseline always takes part.
        preset: a name of `pump_ml.catalog.PRESETS`.
        seed: of the split and of every family.
        tags: more tags of the MLflow run, such as the DAG's name.

    Returns:
        The plan, which the other steps take: the arguments, ``split`` (key), ``experiment``, ``parent`` (MLflow run)
        and ``others`` (the families beside the baseline).

    Raises:
        ConfigurationError: there is no snapshot, or the run was planned otherwise before.
        UnknownNameError: a family, a preset or a problem does not exist.
        LeakError: a label stands among the features, or an asset in two parts.
    """
    from pump_ml import files, registry, snapshots, splits
    from pump_ml.problems import load_problem

    if not re.fullmatch(r"[\w./:+~-]+", run_key):
        raise ConfigurationError(f"training run {run_key!r}: a name has letters, digits and . / : + ~ - _ only")
    if snapshot is None:
        raise ConfigurationError("there is no snapshot to learn from: name one, or run the DAG `dataset` first")
    settings = Settings.load()
    check_names(problem, families, preset)
    asked = load_problem(problem, settings)
    data = snapshots.load(settings.data, "snapshots", snapshot)
    asked.choose_features([s.name for s in data.telemetry.sensors], data.telemetry.labels)
    split = splits.by_asset(data.telemetry.readings, asked.split, seed=seed)
    policy = hashlib.sha256(asked.split.model_dump_json().encode()).hexdigest()[:8]
    split_key = f"{snapshot}-{policy}-s{seed}"
    files.write_once(settings.data / "splits" / f"{split_key}.json", split.to_json())

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
        "split": split_key,
        "experiment": experiment,
        "parent": parent,
        "tags": common,
        "others": [family for family in dict.fromkeys(families) if family != "baseline"],
    }
    files.write_once(_plan_path(settings, run_key), settled)
    stored = read_plan(run_key)
    for name in ("snapshot", "definition", "preset", "seed", "others"):
        if stored[name] != settled[name]:
            raise ConfigurationError(
                f"training run {run_key!r} was planned with {name} = {stored[name]!r}, not {settled[name]!r}; take "
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
    from pump_ml import registry
    from pump_ml.work import Work

    client = registry.connect()
    name = Work(plan).problem.model_name
    candidates: list[Json] = []
    for family in ("baseline", *plan["others"]):
        run = registry.find_run(client, plan["experiment"], f"{plan['run_key']}/{family}")
        done = registry.registered(client, name, run.info.run_id) if run else None
        if done is None:
            raise UnknownNameError(f"trained family of {plan['run_key']}", family, [c["family"] for c in candidates])
        candidates.append(_candidate(*done))
    return candidates


def _candidate(version: str, tags: Mapping[str, str]) -> Json:
    """What `train` returned, from the version that holds it: the same for every try."""
    from pump_ml import registry

    return dict(json.loads(tags[registry.CANDIDATE]), version=version)


def _plan_path(settings: Settings, run_key: str) -> Any:
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", run_key)
    return settings.data / "plans" / f"{readable}-{hashlib.sha256(run_key.encode()).hexdigest()[:8]}.json"


@step
def train(
    plan: Mapping[str, Any], family: str, tags: Mapping[str, str] | None = None, progress: Progress | None = None
) -> Json:
    """Fit one family on the training assets and register the model.

    The commit point is the registered version, see `pump_ml.registry.register`: a try that finds one fits nothing and
    returns what belongs to it, also when a try that was taken for dead was faster.

    Args:
        plan: what `plan` returned.
        family: a name of `pump_ml.catalog.FAMILIES`.
        tags: more tags of the MLflow run, such as the task's name and map index.
        progress: gets the share that is done.

    Returns:
        ``family``, ``run`` (MLflow run), ``version`` (registered), ``seconds`` of the fit, and ``validation``: each
        target's metric on the validation windows.
    """
    from pump_ml import registry
    from pump_ml.evaluation import as_learnt, judge
    from pump_ml.work import Curves, Work, hyper_parameters

    work = Work(plan)
    name = work.problem.model_name
    hyper, parameters = hyper_parameters(family, plan["preset"])
    client, key = registry.connect(work.settings), f"{plan['run_key']}/{family}"
    earlier = registry.find_run(client, plan["experiment"], key)
    if earlier and (done := registry.registered(client, name, earlier.info.run_id)):
        log.info("%s was registered as version %s by an earlier try", family, done[0])
        registry.finish(client, earlier)
        return _candidate(*done)
    with registry.child_run(
        client, plan["experiment"], plan["parent"], key, family,
        {**plan["tags"], "family": family, **(tags or {})},
    ) as run:  # fmt: skip
        if work.settings.mlflow_ui:
            log.info("MLflow: %s/#/experiments/%s/runs/%s", work.settings.mlflow_ui, plan["experiment"], run)
        learn, tune = work.windows("train"), work.windows("validation")
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
        predictor = hyper.fit(learn, tune, work.problem, seed=plan["seed"], watch=curves.watch)
        seconds = round(time.monotonic() - started, 1)
        if done := registry.registered(client, name, run):
            log.warning(
                "%s was registered as version %s by another try meanwhile; this fit is dropped", family, done[0]
            )
            return _candidate(*done)
        card = judge(family, predictor.table(tune), tune.rows.join(as_learnt(tune.labels, work.problem)), work.problem)
        registry.log_points(client, run, [*curves.points, ("train/seconds", seconds, 0)])
        registry.log_values(client, run, "validation", card.values)
        client.log_dict(run, work.split.to_json(), "split.json")
        if figure := curves.figure():
            client.log_figure(run, figure, "plots/learning_curves.png")
        model = registry.log_predictor(predictor, work.example())
        candidate = {"family": family, "run": run, "seconds": seconds, "validation": card.headline(work.problem)}
        labels = {"family": family, "run_key": plan["run_key"], "snapshot": plan["snapshot"], "git_sha": git_sha()}
        labels[registry.CANDIDATE] = json.dumps(candidate)  # with the version, so that a retry finds what belongs to it
        settled = _candidate(*registry.register(client, name, model, run, labels))
    log.info("%s learnt in %.1f s and is version %s; validation: %s", family, seconds, settled["version"],
             settled["validation"])  # fmt: skip
    return settled


@step
def gate(plan: Mapping[str, Any], baseline: Mapping[str, Any]) -> Json:
    """Let the run go on only when the baseline beats the naive predictor on every target, on the validation windows.

    Args:
        plan: what `plan` returned.
        baseline: what `train` returned for the baseline.

    Returns:
        ``naive``: each target's metric of the naive predictor, and ``baseline``: of the baseline.

    Raises:
        GateError: the data do not carry a target.
    """
    from pump_ml import metrics
    from pump_ml.evaluation import as_learnt, judge, naive_answers
    from pump_ml.work import Work

    work = Work(plan)
    learn, tune = work.windows("train"), work.windows("validation")
    truth = tune.rows.join(as_learnt(tune.labels, work.problem))
    naive = judge("naive", naive_answers(learn.labels, tune.rows, work.problem), truth, work.problem).headline(
        work.problem
    )
    ours = baseline["validation"]
    failed = [
        f"{t.name} ({t.metric}: naive {naive[t.name]:.4g}, baseline {ours[t.name]:.4g})"
        for t in work.problem.targets
        if not metrics.get(t.metric).shortfall(ours[t.name]) < metrics.get(t.metric).shortfall(naive[t.name])
    ]
    if failed:
        raise GateError(
            f"the data do not carry {', '.join(failed)}: a constant answer is as good as the baseline, so nothing "
            "else is trained. Check the labels, bring more assets or sensors that see the fault, or drop the target "
            "from the problem"
        )
    log.info("the baseline beats the naive predictor on every target: %s against %s", ours, naive)
    return {"naive": naive, "baseline": ours}


@step
def evaluate(
    plan: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], progress: Progress | None = None
) -> Json:
    """Judge this run's models, and the standing champion, on the same test rows.

    Each model is the registered artifact and gets raw readings. Where the champion has learnt from some of the test
    assets, it is compared with the others on the rest.

    Args:
        plan: what `plan` returned.
        candidates: what `train` returned for each family.
        progress: gets the share that is done.

    Returns:
        ``rows`` judged, ``scorecards`` (family, version, seconds, validation, test, contest, passed) and ``champion``
        (family, version, rows it is compared on, contest, and why it is unfit for the problem, if it is) or None.
        ``test`` is over all test rows, ``contest`` over those that the champion is compared on. A value that is no
        number is None.

    Raises:
        LeakError: a model was fitted on an asset it is judged by.
    """
    from pump_ml import figures, registry
    from pump_ml.evaluation import json_safe, judge, refuse_known_assets
    from pump_ml.schema import ASSET
    from pump_ml.work import Work

    work = Work(plan)
    problem, name = work.problem, work.problem.model_name
    report = progress or log_progress()
    client = registry.connect(work.settings)
    readings, truth = work.rows("test"), work.truth()

    standing = registry.champion(client, name)
    champion: Json | None = None
    contested = truth
    if standing is not None:
        version, family = standing
        model = registry.load_model(name, version)
        predictor = registry.predictor_of(model)
        champion = {"family": family, "version": version, "contest": None, "unfit": work.unfit(predictor)}
        if not champion["unfit"]:
            contested = truth[~truth[ASSET].isin(predictor.assets)]
            champion["rows"] = len(contested)
        if champion.get("rows"):
            answers = work.ask(model, readings[readings[ASSET].isin(set(contested[ASSET]))])
            champion["contest"] = judge(family, answers, contested, problem).headline(problem)

    cards = []
    for number, candidate in enumerate(candidates):
        family, run = candidate["family"], candidate["run"]
        model = registry.load_model(name, candidate["version"])
        refuse_known_assets(registry.predictor_of(model).assets, truth)
        answers = work.ask(model, readings)
        card = judge(family, answers, truth, problem)
        contest = judge(family, answers, contested, problem) if len(contested) else card
        registry.log_values(client, run, "test", card.values)
        work.log_lineage("test", run)
        client.log_dict(run, card.to_json(), "scorecard.json")
        for file, figure in figures.of_answers(answers, truth, problem):
            client.log_figure(run, figure, f"plots/{file}")
        cards.append(
            {
                **{key: candidate[key] for key in ("family", "version", "run", "seconds", "validation")},
                "test": card.headline(problem),
                "contest": contest.headline(problem),
                "passed": card.passed,
            }
        )
        report("evaluate", (number + 1) / len(candidates))
    return dict(json_safe({"rows": len(truth), "scorecards": cards, "champion": champion}))


@step
def promote(plan: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Json:
    """Give the alias ``champion`` to the best eligible family, if it beats the standing champion; write the ledger.

    One run at a time reads the champion and replaces it. The commit point is the alias; the ledger's row follows, and
    is what a later try returns. A try that finds the alias moved but no row decides the same again, and writes it.

    Args:
        plan: what `plan` returned.
        evaluation: what `evaluate` returned.

    Returns:
        `pump_ml.promotion.Decision` as JSON, with ``champion``: version and family after it, or None.

    Raises:
        ConfigurationError: another run moved the alias since `evaluate` compared with it.
    """
    from pump_ml import ledger, registry
    from pump_ml.promotion import Contender, decide
    from pump_ml.work import Work

    work = Work(plan)
    ledger.prepare(work.settings)
    client, name = registry.connect(work.settings), work.problem.model_name
    contenders = [Contender.from_json(card) for card in evaluation["scorecards"]]
    standing = evaluation["champion"]
    decision = decide(contenders, standing and Contender.from_json(standing), work.problem)
    with registry.changing(name):
        if taken := ledger.find(plan["run_key"], work.settings):
            log.info("this run's decision was taken by an earlier try: %s", taken.decision["reason"])
            return dict(taken.decision)
        now = registry.champion(client, name)
        compared = standing and standing["version"]
        if (now and now[0]) not in (compared, decision.challenger if decision.promoted else compared):
            raise ConfigurationError(
                f"the champion of {name} is version {now and now[0]} now, but this run was compared with version "
                f"{compared}; clear the task `evaluate`, or run `pump-ml evaluate --run` again"
            )
        if decision.promoted and decision.challenger:
            registry.crown(client, name, decision.challenger)
        after = registry.champion(client, name)
        taken_now = decision.to_json() | {"champion": after and {"name": name, "version": after[0], "family": after[1]}}
        ledger.record(
            plan["run_key"], model=name, snapshot=plan["snapshot"], promoted=decision.promoted,
            champion_before=compared, champion_after=after and after[0], decision=taken_now, settings=work.settings,
        )  # fmt: skip
    log.info(decision.reason)
    return taken_now


@step
def report(plan: Mapping[str, Any], evaluation: Mapping[str, Any], decision: Mapping[str, Any]) -> Json:
    """Write the training run's report, and end its run in MLflow.

    Args:
        plan: what `plan` returned.
        evaluation: what `evaluate` returned.
        decision: what `promote` returned.

    Returns:
        What `pump_ml.scoreboard` shows.
    """
    from pump_ml import registry
    from pump_ml.work import Work

    work = Work(plan)
    client = registry.connect(work.settings)
    docs = work.settings.docs / str(work.snapshot.manifest.get("validation")) / "index.html"
    content = {
        "problem": work.problem.name,
        "run": plan["run_key"],
        "snapshot": plan["snapshot"],
        "rows_judged": evaluation["rows"],
        "scorecards": [
            {
                "family": card["family"],
                "version": card["version"],
                "seconds": card["seconds"],
                "eligible": decision["eligible"][card["family"]],
                "targets": [
                    {
                        "name": t.name,
                        "metric": t.metric,
                        "value": card["test"][t.name],
                        "threshold": t.threshold,
                        "better": t.better,
                        "passed": card["passed"][t.name],
                    }
                    for t in work.problem.targets
                ],
            }
            for card in evaluation["scorecards"]
        ],
        "published": [figure.model_dump() for figure in work.problem.published],
        "decision": {"promoted": decision["promoted"], "reason": decision["reason"]},
        "champion": decision["champion"],
        "data_docs": str(docs),
        "mlflow_experiment": plan["experiment"],
    }
    client.log_dict(plan["parent"], content, "report.json")
    registry.log_values(client, plan["parent"], "relative_error", {"test": decision["errors"]})
    registry.close(client, plan["parent"], "FINISHED")
    return content


@step
def close(run_key: str, status: str = "FAILED") -> Json:
    """Make sure that no MLflow run of this training run is left open, however it ended; safe to call at any time.

    Args:
        run_key: name of the training run; one that was never planned has nothing open.
        status: how an open parent run ends.

    Returns:
        ``killed``: how many runs were left open by tasks that died.
    """
    from pump_ml import registry

    client = registry.connect()
    return {"killed": sum(registry.close(client, parent, status) for parent in registry.parents(client, run_key))}


@step
def reconcile(
    is_over: Callable[[str, str], bool | None], *, quiet_s: float = 300.0, stale_s: float = 6 * 3600.0
) -> Json:
    """End as KILLED the MLflow runs that nobody will end: their processes died, and `close` with them.

    A run is left alone while it shows signs of life, while its DAG run goes on (a retry may take it up), and for ever
    once it has ended. One that is killed by mistake ends as it should when its process ends.

    Args:
        is_over: given the ids of a DAG and of a DAG run, whether that is over; None when it is not known there. It may
            raise: then nothing more is killed.
        quiet_s: how long a run whose DAG run is over must have been silent, in seconds; longer than MLflow's client
            waits in an outage.
        stale_s: how long one whose DAG run is not known, or that came from the command line, must have been silent.

    Returns:
        ``killed``: the keys of the runs that were ended, and ``open``: of those that were left alone.
    """
    from pump_ml import registry

    client = registry.connect()
    content: dict[str, list[str]] = {"killed": [], "open": []}
    for left in registry.open_runs(client):
        over = is_over(*left.dag) if left.dag else None
        silent = time.time() - left.seen
        dead = over is not False and silent > (quiet_s if over else stale_s)
        ended = dead and registry.kill(client, left)
        content["killed" if ended else "open"].append(left.key)
        if ended:
            log.warning("ended the MLflow run of %s, which had been silent for %.0f s", left.key, silent)
    return dict(content)
