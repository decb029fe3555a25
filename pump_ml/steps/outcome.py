"""What comes of a training run: evaluate -> promote -> report -> close; and what dead tasks left open."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pump_ml.errors import ConfigurationError, OutdatedModelError
from pump_ml.steps.common import Json, Progress, log, log_progress, step


@step
def evaluate(
    plan: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], progress: Progress | None = None
) -> Json:
    """Judge this run's models, and the standing champion, on the same test rows.

    Each model is the registered artifact and gets raw readings. Where the champion may have seen some of the test rows
    (`pump_ml.evaluation.seen`), it is compared with the others on the rest.

    Args:
        plan: what `plan` returned.
        candidates: what `train` returned for each family.
        progress: gets the share that is done.

    Returns:
        ``rows`` judged, ``scorecards`` (family, version, seconds, validation, test, contest, passed, and the coverage
        and width of the ``intervals``), ``champion`` (family, version, rows it is compared on, contest, and why it is
        unfit for the problem, if it is) or None, and ``limit``: the best score that anyone can reach by target, where
        the data are simulated. ``test`` is over all test rows, ``contest`` over those that the champion is compared on.
        A value that is no number is None.

    Raises:
        LeakError: a model was fitted on what it is judged by.
    """
    from pump_ml import figures, registry
    from pump_ml.evaluation import json_safe, judge, refuse_seen, seen
    from pump_ml.schema import ASSET
    from pump_ml.work import Work

    work = Work(plan)
    problem, name = work.problem, work.problem.model_name
    report = progress or log_progress()
    client = registry.connect(work.settings)
    readings, judged = work.rows("test"), work.judged()
    truth = judged.rows.join(judged.labels)

    standing = registry.champion(client, name)
    champion: Json | None = None
    contested = truth
    if standing is not None:
        version, family = standing
        champion = {"family": family, "version": version, "contest": None}
        try:
            model = registry.load_model(name, version)
        except OutdatedModelError as error:
            champion["unfit"] = str(error)
        else:
            predictor = registry.predictor_of(model)
            champion["unfit"] = work.unfit(predictor)
        if not champion["unfit"]:
            contested = truth[~seen(predictor, judged)]
            champion["rows"] = len(contested)
        if champion.get("rows"):
            answers = work.ask(model, readings[readings[ASSET].isin(set(contested[ASSET]))])
            champion["contest"] = judge(family, answers, contested, problem).headline(problem)

    cards = []
    for number, candidate in enumerate(candidates):
        family, run = candidate["family"], candidate["run"]
        model = registry.load_model(name, candidate["version"])
        predictor = registry.predictor_of(model)
        refuse_seen(predictor, judged)
        answers = work.ask(model, readings)
        card = judge(family, answers, truth, problem, predictor.calibration)
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
                "intervals": {name: {k: card.values[name][k] for k in ("coverage", "width")} for name in card.coverage},
            }
        )
        report("evaluate", (number + 1) / len(candidates))
    limit = work.limit(lambda share: report("limit", share))
    return dict(json_safe({"rows": len(truth), "scorecards": cards, "champion": champion, "limit": limit}))


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
        "interval": work.problem.interval,
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
                        "limit": evaluation["limit"].get(t.name),
                        "better": t.better,
                        "passed": card["passed"][t.name],
                        "interval": card["intervals"].get(t.name),
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
    if work.settings.mlflow_ui:
        runs = [card["run"] for card in evaluation["scorecards"]]
        content["compare"] = _comparison(work.settings.mlflow_ui, plan["experiment"], runs)
        log.info("MLflow compares the families: %s", content["compare"])
    client.log_dict(plan["parent"], content, "report.json")
    registry.log_values(client, plan["parent"], "relative_error", {"test": decision["errors"]})
    limit = evaluation["limit"]
    limits = {t.name: {t.metric: limit[t.name]} for t in work.problem.targets if t.name in limit}
    registry.log_values(client, plan["parent"], "limit", limits)
    registry.close(client, plan["parent"], "FINISHED")
    return content


def _comparison(ui: str, experiment: str, runs: Sequence[str]) -> str:
    """Address of MLflow's page that compares runs."""
    compared, inside = quote(json.dumps(list(runs))), quote(json.dumps([experiment]))
    return f"{ui}/#/compare-runs?runs={compared}&experiments={inside}&workflowType=machine_learning"


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
