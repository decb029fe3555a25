"""Benchmarks: a protocol's numbers are right, the test fold is never learnt from, an interrupted one goes on."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import whole_rows

from pump_ml import (
    benchmark,
    benchmark_page,
    catalog,
    comparison,
    files,
    hyper,
    protocols,
    registry,
    snapshots,
    splits,
    trial,
)
from pump_ml.errors import ConfigurationError, MemoryLimitError, PumpMLError, UnknownNameError
from pump_ml.problems import load_problem
from pump_ml.protocols import Protocol, load_protocol, names
from pump_ml.schema import Telemetry
from pump_ml.settings import CHECKOUT, Settings
from pump_ml.sources.mapping import shipped
from pump_ml.trial import Trial
from pump_ml.work import Work

MAIN = "import sys; from pump_ml.cli import main; sys.argv[0] = 'pump-ml'; main()"
RIG = {
    "name": "rig",
    "format": {"kind": "csv"},
    "files": [{"pattern": "*.csv"}],
    "asset_id": "{unit}",
    "time": {"column": "cycle", "kind": "cycle"},
    "sensors": {"pressure_bar": {"column": "p", "unit": "bar"}, "flow_m3_h": {"column": "q", "unit": "m3/h"}},
    "labels": {"fault": {"column": "fault", "type": "class"}, "left_pct": {"column": "left"}},
}
QUESTION = {
    "name": "rig",
    "windows": {"length": 5, "stride": 5, "judged": "all"},
    "predicts": [
        {"name": "fault", "kind": "classes", "classes": ["clogged", "none", "worn"], "metric": "macro_f1"},
        {"name": "left_pct", "kind": "regression", "metric": "mae", "more_metrics": ["r2"], "unit": "percent"},
    ],
    "split": {"train": 0.75, "validation": 0.25, "test": {"number": 3, "stratify": "fault"}},
    "published": [{"model": "a guess", "target": "left_pct", "value": 25.0, "source": "nobody"}],
}


@pytest.fixture(autouse=True)
def code_of_the_checkout() -> Iterator[None]:
    """A model that an earlier test loaded put its copy of the code on the path, which a trial's process takes over."""
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if "/artifacts/code" not in entry]
    yield
    sys.path[:] = before


def silent(_: str, __: float) -> None:
    pass


@pytest.fixture
def rig(tmp_path: Path) -> tuple[Protocol, str]:
    """Twelve made-up units of three faults, some watched three times as long as others; and where their file is."""
    draw = np.random.default_rng(5)
    parts = []
    for unit in range(12):
        cycles = 20 if unit < 6 else 60
        left = np.linspace(100.0, 10.0, cycles)
        fault = ("none", "worn", "clogged")[unit % 3]
        loss = {"none": 0.0, "worn": 0.02, "clogged": 0.05}[fault] * (100 - left)
        parts.append(
            pd.DataFrame({"unit": f"u{unit}", "cycle": range(cycles), "fault": fault, "left": left})
            .assign(p=5.0 - loss + draw.normal(0, 0.3, cycles), q=20.0 + 0.1 * left + draw.normal(0, 2.0, cycles))
        )  # fmt: skip
    folder = tmp_path / "rig"
    folder.mkdir()
    pd.concat(parts).to_csv(folder / "rig.csv", index=False)
    mapping, problem = tmp_path / "mapping.yaml", tmp_path / "problem.yaml"
    mapping.write_text(yaml.safe_dump(RIG))
    problem.write_text(yaml.safe_dump(QUESTION))
    asked = {"options": {"mapping": str(mapping)}, "problem": str(problem), "families": ["baseline"], "seeds": [7]}
    return Protocol(description="a made-up rig", source="files", preset="quick", **asked), str(folder)


def ran(monkeypatch: pytest.MonkeyPatch, stop_after: int = 10**6) -> list[Trial]:
    """The trials that are run from now on; the one after so many fails."""
    seen: list[Trial] = []
    real = trial.in_process

    def watched(asked: Trial, progress: Any) -> dict[str, Any]:
        if len(seen) == stop_after:
            raise KeyboardInterrupt
        seen.append(asked)
        return real(asked, progress)

    monkeypatch.setattr(benchmark, "in_process", watched)
    return seen


# The numbers


def test_folds_are_pooled_or_averaged_and_seeds_give_median_and_range_without_doing_any_again(
    rig: tuple[Protocol, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, path = rig[0].changed(seeds=(7, 8)), rig[1]
    seen = ran(monkeypatch)
    pooled = benchmark.run("rig", protocol, silent, path=path)
    assert len(seen) == 4
    mean = benchmark.run("rig", protocol.changed(over="mean"), silent, path=path)
    assert len(seen) == 4
    for rung in ("naive", "baseline"):
        one, other = (document["questions"][0]["rungs"][rung] for document in (pooled, mean))
        folds = one["seeds"][0]["folds"]
        assert folds == other["seeds"][0]["folds"]
        assert sum(fold["assets"] for fold in folds) == 12
        errors = [fold["values"]["left_pct"]["mae"] for fold in folds]
        rows = [fold["rows"] for fold in folds]
        assert one["seeds"][0]["values"]["left_pct"]["mae"] == pytest.approx(np.average(errors, weights=rows))
        assert other["seeds"][0]["values"]["left_pct"]["mae"] == pytest.approx(np.mean(errors))
        for document in (one, other):
            low, high = sorted(seed["values"]["left_pct"]["mae"] for seed in document["seeds"])
            of_seeds = document["targets"]["left_pct"]
            assert (of_seeds["low"], of_seeds["high"]) == (low, high)
            assert of_seeds["median"] == pytest.approx((low + high) / 2)
    assert pooled["questions"][0]["rungs"]["naive"]["targets"]["left_pct"]["over_baseline"]["value"] > 1.0
    assert "over_baseline" not in mean["questions"][0]["rungs"]["naive"]["targets"]["left_pct"]
    learnt = pooled["questions"][0]["rungs"]["baseline"]
    assert learnt["seconds"] > 0.0
    assert 50.0 < learnt["peak_mib"] < 4000.0
    assert {"coverage", "width", "mae", "r2"} == set(learnt["seeds"][0]["values"]["left_pct"])
    assert "ece" in learnt["seeds"][0]["values"]["fault"]


def test_readings_that_assets_are_compared_with_are_judged_too_where_the_protocol_says_so(
    rig: tuple[Protocol, str],
) -> None:
    protocol, path = rig
    Path(protocol.options["mapping"]).write_text(yaml.safe_dump(RIG | {"commissioning": {"first": 5}}))
    Path(protocol.problem).write_text(yaml.safe_dump(QUESTION | {"reference": "commissioning"}))
    without = benchmark.run("rig", protocol, silent, path=path)["questions"][0]["rungs"]
    whole = benchmark.run("rig", protocol.changed(reference=True), silent, path=path)["questions"][0]["rungs"]
    new = 12 * (5 + 4)  # the record, and what comes before the first window of five readings is whole
    for rung in ("naive", "baseline"):
        one, other = (rungs[rung]["seeds"][0] for rungs in (without, whole))
        assert sum(fold["rows"] for fold in other["folds"]) - sum(fold["rows"] for fold in one["folds"]) == new
    # A unit that has just been put up has nearly all of its life left, as the others had; a constant knows nothing.
    learnt, all_rows = (rungs["baseline"]["seeds"][0]["values"]["left_pct"]["mae"] for rungs in (without, whole))
    rows = sum(fold["rows"] for fold in without["baseline"]["seeds"][0]["folds"])
    assert (all_rows * (rows + new) - learnt * rows) / new < 10.0
    constants = [rungs["naive"]["seeds"][0]["values"]["left_pct"]["mae"] for rungs in (without, whole)]
    assert constants[1] > constants[0]


def test_each_target_is_a_question_of_its_own(rig: tuple[Protocol, str]) -> None:
    protocol, path = rig
    document = benchmark.run("rig", protocol.changed(each_target=True), silent, path=path)
    asked = [question["definition"] for question in document["questions"]]
    assert [[target["name"] for target in one["targets"]] for one in asked] == [["fault"], ["left_pct"]]
    assert [one["split"]["test"]["stratify"] for one in asked] == ["fault", "left_pct"]
    assert [len(question["published"]) for question in document["questions"]] == [0, 1]
    page = benchmark_page.render([document], "benchmarks")
    assert "| a guess | 25 | nobody |" in page
    assert "left_pct: mae by fold" in page


def test_a_ratio_is_that_of_the_means_and_resamples_the_same_assets_for_both() -> None:
    ours = comparison.sums({"a": 2, "b": 6}, {"a": 1.0, "b": 3.0}, "mae")
    theirs = comparison.sums({"a": 1, "b": 3}, {"a": 2.0, "b": 6.0}, "mae")
    assert ours == {"a": (2.0, 2.0), "b": (6.0, 18.0)}
    found = comparison.ratio(ours, theirs, "mae")
    # (20 / 8) / (20 / 4), and half of theirs on any assets that are drawn
    assert found == comparison.Ratio(pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.5))
    squared = comparison.ratio(
        comparison.sums({"a": 1}, {"a": 4.0}, "rmse"), comparison.sums({"a": 1}, {"a": 2.0}, "rmse"), "rmse"
    )
    assert squared is not None
    assert squared.value == pytest.approx(2.0)
    wide = comparison.ratio(ours, comparison.sums({"a": 1, "b": 3}, {"a": 2.0, "b": 1.0}, "mae"), "mae")
    assert wide is not None
    # the draws are: a twice 1/2, b twice 3/1, both (20/8)/(5/4)
    assert (wide.value, wide.low, wide.high) == (pytest.approx(2.0), pytest.approx(0.5), pytest.approx(3.0))
    assert comparison.ratio(ours, {"c": (1.0, 1.0)}, "mae") is None
    assert comparison.ratio(ours, {"a": (1.0, 0.0)}, "mae") is None
    assert comparison.pooled([ours, {"a": (1.0, 5.0)}]) == {"a": (3.0, 7.0), "b": (6.0, 18.0)}


# What learns


def test_labels_of_the_test_fold_reach_nothing_but_the_scores(rig: tuple[Protocol, str]) -> None:
    protocol, path = rig
    benchmark.run("rig", protocol, silent, path=path)  # makes the snapshot
    root = Settings.load().data
    (key,) = files.names(root / "snapshots")
    clean = snapshots.load(root, "snapshots", key).telemetry
    problem = load_problem(protocol.problem)
    tested = set(splits.by_asset(clean.readings, problem.split, seed=7, fold=1).test)
    poisoned = clean.readings.copy()
    judged = poisoned["asset_id"].isin(tested)
    poisoned.loc[judged, "left_pct"] = 12345.0
    answers, truths = [], []
    for telemetry in (clean, replace(clean, readings=poisoned, origin={"dataset": "poison"})):
        stored = snapshots.store(root, "snapshots", telemetry)
        split, found = splits.store(root, stored, telemetry.readings, problem.split, seed=7, fold=1)
        assert set(found.test) == tested
        work = Work({"snapshot": stored, "definition": problem.model_dump(mode="json"), "split": split})
        family = hyper.make("baseline", "quick", {})
        answers.append(trial.learn_and_answer(work, family, 7, lambda _: None)[0])
        truths.append(work.truth())
    pd.testing.assert_frame_equal(*answers)
    assert set(answers[0]["asset_id"]) == tested
    assert (truths[1]["left_pct"] == 12345.0).all()
    assert not (truths[0]["left_pct"] == 12345.0).any()


def test_a_family_without_the_waveforms_it_learns_from_is_refused_and_the_baseline_always_takes_part(
    rig: tuple[Protocol, str], fleet: Telemetry
) -> None:
    bare = snapshots.Snapshot("v2-0", fleet, {"waveforms": None})
    heard = replace(bare, manifest={"waveforms": {"rows": 1}})
    assert "cnn2d" not in benchmark.fitting((), bare)
    assert set(benchmark.fitting((), heard)) == set(catalog.FAMILIES)
    assert benchmark.fitting(("xgb",), bare) == ("baseline", "xgb")
    with pytest.raises(ConfigurationError, match=r"'cnn2d' learns from each window's waveform.*leave cnn2d out"):
        benchmark.run("rig", rig[0].changed(families=("cnn2d",)), silent, path=rig[1])


# Again


def test_an_interrupted_benchmark_goes_on_and_a_fresh_one_begins_anew(
    rig: tuple[Protocol, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, path = rig
    first = ran(monkeypatch, stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run("rig", protocol, silent, path=path)
    monkeypatch.undo()
    monkeypatch.setenv("PUMP_ML_VAR", str(Path(path).parent / "var"))
    second = ran(monkeypatch)
    document = benchmark.run("rig", protocol, silent, path=path)
    assert ([one.rung for one in first], [one.rung for one in second]) == (["naive"], ["baseline"])
    again = benchmark.run("rig", protocol, silent, path=path, fresh=True)
    assert [one.rung for one in second] == ["baseline", "naive", "baseline"]
    for part in (document, again):
        for rung in part["questions"][0]["rungs"].values():
            for content in (rung, *rung["seeds"]):
                content.pop("seconds", None)
                content.pop("peak_mib", None)
    assert document == again


def test_another_hyper_parameter_seed_or_code_is_another_trial(
    rig: tuple[Protocol, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Trial("baseline", 7, "rig-0", load_problem(rig[0].problem).model_dump(mode="json"), ("s",), "quick")
    others = [replace(one, seed=8), replace(one, preset="full"), replace(one, rung="xgb"), replace(one, snapshot="b")]
    assert len({one.key, *(other.key for other in others)}) == 5
    assert replace(one, definition=one.definition | {"hyper": {"baseline": {"trees": 7}}}).learner.trees == 7
    before = one.key
    monkeypatch.setattr(trial, "code", lambda: "changed")
    assert one.key != before


def measures(_: Trial, pipe: Connection) -> None:
    pipe.send(("result", {"peak": trial.peak_mib()}))
    pipe.close()


def dies(_: Trial, __: Connection) -> None:
    os._exit(9)


NOTHING = Trial("baseline", 7, "absent-0", {}, (), "quick")


def test_peak_memory_is_that_of_the_trial_and_not_of_who_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_child", measures)
    held = np.ones(150_000_000)
    assert trial.peak_mib() > held.nbytes / 2**20
    assert trial.in_process(NOTHING, lambda _: None)["peak"] < held.nbytes / 2**20


def test_a_trial_that_is_killed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_child", dies)
    with pytest.raises(MemoryLimitError, match=r"baseline, seed 7: its process ended without a word, exit code 9"):
        trial.in_process(NOTHING, lambda _: None)


def test_an_error_on_purpose_and_one_by_accident_come_back_from_the_process(rig: tuple[Protocol, str]) -> None:
    definition = load_problem(rig[0].problem).model_dump(mode="json")
    with pytest.raises(PumpMLError, match="baseline, seed 7: SnapshotError: no snapshots 'absent-0'"):
        trial.in_process(replace(NOTHING, definition=definition, splits=("s",)), lambda _: None)
    with pytest.raises(RuntimeError, match="Traceback"):
        trial.in_process(replace(NOTHING, definition=definition), lambda _: None)


# Protocols


@pytest.mark.parametrize("name", protocols.names())
def test_every_protocol_reads_and_what_it_names_exists(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.source in catalog.SOURCES
    assert protocol.questions()
    if protocol.source == "files":
        assert protocol.options.keys() == {"mapping"}
        assert protocol.options["mapping"] in shipped()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"famillies": []}, "unknown key 'famillies'.*Did you mean 'families'"),
        ({"families": ["gruu"]}, "unknown family 'gruu'.*Did you mean 'gru'"),
        ({"preset": "qick"}, "unknown preset 'qick'.*Did you mean 'quick'"),
        ({"over": "median"}, "over: .*'pooled' or 'mean'"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [-1]}, "seed -1; expected whole numbers of 0 or more"),
    ],
)
def test_a_protocol_that_cannot_be_meant_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    entry = {"description": "x", "source": "simulated", "problem": "diagnosis"} | changes
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"x": entry}))
    with pytest.raises(ConfigurationError, match=message):
        load_protocol("x", tmp_path / "b.yaml")


def test_a_goal_or_an_earlier_figure_of_no_target_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown target of a goal.*Did you mean 'rul_pct'"):
        load_protocol("twin_v2").changed(goals={"rul_pctt": 1.0}).questions()
    strange = {"model": "m", "target": "rul_pctt", "value": 1.0, "source": "s"}
    with pytest.raises(UnknownNameError, match=r"unknown target of a figure.*Did you mean 'rul_pct'"):
        load_protocol("twin_v2").changed(before=[strange]).questions()


# The command and the page


def pump_ml(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - this interpreter, fixed words
        [sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, check=False, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip


def test_a_benchmark_of_the_twin_is_held_against_its_limit(tmp_path: Path) -> None:
    words = ("--seed", "7", "--family", "baseline", "--preset", "quick", "--pumps", "28", "--samples", "4")
    done = pump_ml("benchmark", "twin_v2", *words, "--out", "scores", "--mlflow", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ limit +1 ", done.stdout, re.MULTILINE)
    text = (tmp_path / "scores" / "twin_v2.json").read_text()
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text
    rungs = json.loads(text)["questions"][0]["rungs"]
    assert list(rungs) == ["naive", "baseline", "limit"]
    ratio = rungs["baseline"]["targets"]["rul_pct"]["over_limit"]
    share = rungs["baseline"]["targets"]["rul_pct"]["median"] / rungs["limit"]["targets"]["rul_pct"]["median"]
    assert ratio["value"] == pytest.approx(share)
    assert 1.0 < ratio["low"] < ratio["value"] < ratio["high"]
    page = (tmp_path / "scores.md").read_text()
    assert "## twin_v2" in page
    assert "| goal | 2 |" in page
    assert "inside the 90 % interval, by fault mode" in page
    client = registry.connect()
    (run,) = client.search_runs([client.get_experiment_by_name("benchmarks").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["baseline/rul_pct_mae"] == rungs["baseline"]["targets"]["rul_pct"]["median"]
    assert [each.path for each in client.list_artifacts(run.info.run_id)] == ["twin_v2.json"]


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (("twin_v4",), "unknown benchmark 'twin_v4'"),
        (("fd01",), "Did you mean 'fd001'?"),
        (("fd001",), "--path FOLDER, FILE or ARCHIVE"),
        (("twin_v2", "--path", "x"), "makes its data itself"),
        (("twin_v2", "--seed", "3"), "other seeds than its protocol's"),
        (("twin_v2", "--family", "gruu", "--out", "x"), "Did you mean 'gru'?"),
    ],
)
def test_a_benchmark_that_cannot_be_run_is_told_before_anything_is_made(
    arguments: tuple[str, ...], cure: str, tmp_path: Path, home: Path
) -> None:
    done = pump_ml("benchmark", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert cure in " ".join(done.stderr.split())
    assert not home.exists()


def test_the_page_is_what_the_documents_say() -> None:
    page = (CHECKOUT / "docs" / "benchmarks.md").read_text()
    assert page == benchmark_page.of_folder(CHECKOUT / "docs" / "benchmarks")
    assert ("No benchmark has been run" in page) == (not list((CHECKOUT / "docs" / "benchmarks").glob("*.json")))


def test_caveats_and_figures_from_elsewhere_follow_the_protocol_and_not_an_old_document() -> None:
    folder = CHECKOUT / "docs" / "benchmarks"
    document = json.loads((folder / "cwru.json").read_text())
    document["protocol"].pop("caveat", None)
    document["questions"][0]["published"] = []
    page = benchmark_page.render([document], "benchmarks")
    assert f"mean over sizes.\n\n**Caveat:** {load_protocol('cwru').caveat}\n\nsnapshot `" in page
    assert "| random forest on 64 bands, log std and kurtosis | 0.622 |" in page
    ours = benchmark_page.tables(json.loads((folder / "twin_v2.json").read_text()))
    start = {table.title: table.rows for table in ours if table.title.endswith("where this project started")}
    assert list(start) == [
        f"{name}: where this project started" for name in ("severity", "mode", "rul_pct", "health_pct")
    ]
    assert [row[:2] for row in start["rul_pct: where this project started"]] == [
        ("former CNN", "1.64"), ("former scikit-learn baseline", "4"),
    ]  # fmt: skip
    assert "Caveat" not in benchmark_page.render([document | {"name": "mine"}], "benchmarks")


def test_the_limit_by_pump_is_the_limit(tmp_path: Path) -> None:
    made = whole_rows(tmp_path / "fleet", pumps=28, samples=4, seed=7)
    problem, root = load_problem("diagnosis"), Settings.load().data
    key = snapshots.store(root, "snapshots", made)
    split, found = splits.store(root, key, made.readings, problem.split, seed=7)
    work = Work({"snapshot": key, "definition": problem.model_dump(mode="json"), "split": split})
    scores = work.limit_scores(lambda _: None)
    assert sorted(scores) == sorted(found.test)
    total = np.concatenate([of["rul_pct"] for of in scores.values()])
    assert work.limit(lambda _: None)["rul_pct"] == pytest.approx(total.mean(), abs=1e-4)


def test_the_benchmarks_that_may_be_chosen_are_those_that_ship() -> None:
    assert names() == catalog.BENCHMARKS
