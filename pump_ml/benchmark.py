"""Run a benchmark: a fixed protocol on one snapshot, family by family and seed by seed, into one document."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from pump_ml import benchmark_page, catalog, comparison, files, readiness, snapshots, splits, steps
from pump_ml.errors import ConfigurationError
from pump_ml.evaluation import json_safe
from pump_ml.problems import Problem, Target
from pump_ml.protocols import Protocol
from pump_ml.settings import Settings, git_sha
from pump_ml.split_policy import Folds
from pump_ml.steps import Progress
from pump_ml.trial import LIMIT, NAIVE, Trial, in_process

Json = dict[str, Any]
BASELINE = "baseline"
LIBRARIES = ("numpy", "pandas", "scikit-learn", "xgboost", "tensorflow-cpu", "keras", "onnxruntime")
"""Whose versions stand in a document."""


def run(name: str, protocol: Protocol, progress: Progress, *, path: str | None = None, fresh: bool = False) -> Json:
    """Do what is missing of a benchmark, and sum it up.

    Args:
        name: of the benchmark.
        protocol: what to do.
        progress: gets the share that is done, of all and of each rung.
        path: folder, file or archive, for a protocol of files.
        fresh: do again what is there.

    Returns:
        The document: ``name``, ``protocol``, ``snapshot``, ``git_sha``, ``machine``, and ``questions``, each with
        its ``targets``, ``published`` figures and ``rungs`` (`_rung`).

    Raises:
        ConfigurationError: the path is missing or not asked for, or a family cannot learn from the data.
        PumpMLError: as the steps and a trial raise them.
    """
    options = dict(protocol.options)
    if protocol.source == "files" and path is None:
        raise ConfigurationError(f"benchmark {name!r} reads files; say where they are: --path FOLDER, FILE or ARCHIVE")
    if protocol.source != "files" and path is not None:
        raise ConfigurationError(f"benchmark {name!r} makes its data itself; --path {path} is for one of files")
    if path is not None:
        options["path"] = path
    questions = protocol.questions()
    fetched = steps.fetch(protocol.source, options, progress=progress)
    key: str = steps.snapshot(steps.validate(fetched["raw"]))["snapshot"]
    snapshot = snapshots.load(Settings.load().data, "snapshots", key)
    rungs = (NAIVE, *fitting(protocol.families, snapshot))
    if protocol.source == "simulated":
        rungs = (*rungs, LIMIT)
    trials = [
        {rung: [_trial(rung, seed, snapshot, question, protocol) for seed in protocol.seeds] for rung in rungs}
        for question in questions
    ]
    done = _results([trial for of in trials for mine in of.values() for trial in mine], progress, fresh=fresh)
    found = [{rung: [done[trial.key] for trial in mine] for rung, mine in of.items()} for of in trials]
    document: Json = {
        "name": name,
        "protocol": protocol.model_dump(mode="json"),
        "snapshot": key,
        "readings": len(snapshot.telemetry.readings),
        "git_sha": git_sha(),
        "machine": machine(),
        "questions": [_question(*each, protocol) for each in zip(questions, found, strict=True)],
    }
    return dict(json_safe(document))


def fitting(asked: Sequence[str], snapshot: snapshots.Snapshot) -> tuple[str, ...]:
    """The families that take part, the baseline first: it is what the others are held against.

    Args:
        asked: names of `pump_ml.catalog.FAMILIES`; none: all that can learn from the data.
        snapshot: the data.

    Raises:
        ConfigurationError: a family that was asked for learns from what the data do not bring.
    """
    families = {name: catalog.load("family", catalog.FAMILIES, name) for name in catalog.FAMILIES}
    for name in asked:
        readiness.check_inputs(families[name], snapshot)
    fit = [name for name, family in families.items() if readiness.fits(family, snapshot)]
    return tuple(dict.fromkeys((BASELINE, *(asked or fit))))


def _trial(rung: str, seed: int, snapshot: snapshots.Snapshot, problem: Problem, protocol: Protocol) -> Trial:
    readings, root = snapshot.telemetry.readings, Settings.load().data
    folds = len(splits.folds(readings, problem.split)) if isinstance(problem.split.test, Folds) else 1
    keys = [
        splits.store(root, snapshot.key, readings, problem.split, seed=seed, fold=fold, reference=problem.reference)[0]
        for fold in range(folds)
    ]
    definition = problem.model_dump(mode="json")
    return Trial(rung, seed, snapshot.key, definition, tuple(keys), protocol.preset, protocol.reference)


def _results(trials: Sequence[Trial], progress: Progress, *, fresh: bool) -> dict[str, Json]:
    """What each trial returned, by its key; what is kept under the data root is not done again, unless `fresh`."""
    kept = Settings.load().data / "trials"
    results: dict[str, Json] = {}
    for number, trial in enumerate(trials):
        path = kept / f"{trial.key}.json"
        if fresh or not files.exists(path):

            def report(share: float, number: int = number) -> None:
                progress("benchmark", (number + share) / len(trials))

            files.write_json(path, in_process(trial, report))
        results[trial.key] = files.read_json(path)
        progress("benchmark", (number + 1) / len(trials))
    return results


def machine() -> Json:
    """What seconds and MiB were measured on, without its name."""
    found = {name: _version(name) for name in LIBRARIES}
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: number for name, number in found.items() if number is not None},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _question(problem: Problem, results: Mapping[str, Sequence[Json]], protocol: Protocol) -> Json:
    """A problem's part of the document.

    Args:
        problem: what was asked.
        results: what the trials of each rung returned, seed by seed.
        protocol: of the benchmark.
    """
    scores = {rung: [_scores(result, problem, protocol.over) for result in of] for rung, of in results.items()}
    return {
        "definition": problem.model_dump(mode="json"),
        "published": [figure.model_dump(mode="json") for figure in problem.published],
        "rungs": {
            rung: _rung(rung, of, scores, problem, protocol)
            for rung, of in results.items()
            if any(score["values"] for score in scores[rung])
        },
    }


def _rung(
    rung: str, of: Sequence[Json], scores: Mapping[str, Sequence[Json]], problem: Problem, asked: Protocol
) -> Json:
    """A family, or what stands beside them.

    Returns:
        ``seconds`` (median over seeds) and ``peak_mib`` (largest), None of the limit and the naive answer;
        ``targets``: each with ``median``, ``low`` and ``high`` over the seeds, and `comparison.Ratio` as
        ``over_baseline`` and ``over_limit`` where there is one; ``seeds``: all values, also of each fold.
    """
    measured = rung not in (NAIVE, LIMIT)
    targets: Json = {}
    for target in problem.targets:
        if target.name not in scores[rung][0]["values"]:
            continue
        values = [score["values"][target.name][target.metric] for score in scores[rung]]
        targets[target.name] = {"median": median(values), "low": min(values), "high": max(values)}
        for other in (BASELINE, LIMIT):
            if rung not in (other, LIMIT) and (found := _ratio(scores[rung], scores.get(other, ()), target)):
                targets[target.name][f"over_{other}"] = asdict(found)
    return {
        "seconds": median(result["seconds"] for result in of) if measured else None,
        "peak_mib": max(result["peak_mib"] for result in of) if measured else None,
        "targets": targets,
        "seeds": [
            {
                "seed": seed,
                "values": score["values"],
                "coverage_by_mode": score["by_mode"],
                "folds": score["folds"],
                **({"seconds": result["seconds"], "peak_mib": result["peak_mib"]} if measured else {}),
            }
            for seed, score, result in zip(asked.seeds, scores[rung], of, strict=True)
        ],
    }


def _ratio(ours: Sequence[Json], theirs: Sequence[Json], target: Target) -> comparison.Ratio | None:
    """Over all seeds; None where the metric, the folds or the other side allow none."""
    mine, others = ([sums for score in side if (sums := score["sums"].get(target.name))] for side in (ours, theirs))
    if not mine or len(mine) != len(others):
        return None
    return comparison.ratio(comparison.pooled(mine), comparison.pooled(others), target.metric)


def _scores(result: Json, problem: Problem, over: str) -> Json:
    """One seed's scores: ``values`` by target and metric, ``by_mode`` (coverage), ``folds``, and ``sums`` by target.

    Sums are what `comparison` resamples; there are none where the score is a mean over several folds.
    """
    if "scores" in result:
        return _limit_scores(result["scores"], problem)
    folds, together = result["folds"], result["pooled"]
    cards = [fold["card"] for fold in folds]
    if over == "mean":
        values = _mean([card["values"] for card in cards])
        by_mode = _mean([{name: of["by_mode"] for name, of in card["coverage"].items()} for card in cards])
    else:
        values, by_mode = together["values"], {name: of["by_mode"] for name, of in together["coverage"].items()}
    for of_target in values.values():
        of_target.pop("ece_before", None)  # each fold has a temperature of its own
    resampled = [t for t in problem.targets if t.metric in comparison.POWER and (over == "pooled" or len(folds) == 1)]
    rows = {asset: count for fold in folds for asset, count in fold["rows"].items()}
    return {
        "values": values,
        "by_mode": {name: of for name, of in by_mode.items() if of},
        "folds": [
            {"assets": len(fold["rows"]), "rows": sum(fold["rows"].values()), "values": fold["card"]["values"]}
            | ({"asset": next(iter(fold["rows"]))} if len(fold["rows"]) == 1 else {})
            for fold in folds
        ],
        "sums": {
            t.name: comparison.sums(rows, {a: of[t.name] for a, of in together["by_asset"].items()}, t.metric)
            for t in resampled
        },
    }


def _limit_scores(scores: Sequence[Json], problem: Problem) -> Json:
    """The same of the twin's limit, whose folds are pooled."""
    values: Json = {}
    sums: Json = {}
    for target in problem.targets:
        of_assets = {asset: found for fold in scores for asset, found in fold.get(target.name, {}).items()}
        if of_assets:
            rows = sum(count for count, _ in of_assets.values())
            total = sum(count * score for count, score in of_assets.values())
            values[target.name] = {target.metric: total / rows}
            sums[target.name] = {asset: (count, count * score) for asset, (count, score) in of_assets.items()}
    return {"values": values, "by_mode": {}, "folds": [], "sums": sums}


def _mean(each: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, float]]:
    """Mean over folds of what two names lead to; a fold that has no such number does not count."""
    found: dict[str, dict[str, list[float]]] = {}
    for content in each:
        for name, inner in content.items():
            for key, value in inner.items():
                if value is not None:
                    found.setdefault(name, {}).setdefault(key, []).append(value)
    return {name: {key: sum(v) / len(v) for key, v in inner.items()} for name, inner in found.items()}


def write(document: Json, folder: Path) -> Path:
    """Write a document as ``NAME.json``, and the page of all documents there beside the folder, ``FOLDER.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{document['name']}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    folder.with_name(f"{folder.name}.md").write_text(benchmark_page.of_folder(folder), encoding="utf-8")
    return path


def log(document: Json, path: Path) -> str:
    """Keep a document as a finished run of the MLflow experiment ``benchmarks``; returns the run's id.

    Its metrics are the medians, ``RUNG/TARGET_METRIC``, with the seconds and MiB of each family.
    """
    from pump_ml import registry  # MLflow is heavy

    settings = Settings.load()
    client = registry.connect(settings)
    experiment = registry.named_experiment(client, "benchmarks", "Fixed protocols: docs/benchmarks.md", settings)
    tags = {name: str(document[name]) for name in ("snapshot", "git_sha")} | {"benchmark": document["name"]}
    run = str(client.create_run(experiment, run_name=document["name"], tags=tags).info.run_id)
    points: list[tuple[str, float, int]] = []
    for question in document["questions"]:
        of_target = {target["name"]: target["metric"] for target in question["definition"]["targets"]}
        asked = f"/{next(iter(of_target))}" if document["protocol"]["each_target"] else ""
        for rung, content in question["rungs"].items():
            points += [(f"{rung}/{t}_{of_target[t]}", found["median"], 0) for t, found in content["targets"].items()]
            measured = {name: content[name] for name in ("seconds", "peak_mib") if content[name] is not None}
            points += [(f"{rung}{asked}/{name}", value, 0) for name, value in measured.items()]
    registry.log_points(client, run, points)
    client.log_artifact(run, str(path))
    client.set_terminated(run)
    return run
