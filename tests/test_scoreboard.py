from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pump_ml.scoreboard import render, show


def target(
    name: str, value: float | None, threshold: float | None, *, passed: bool, better: str = "higher"
) -> dict[str, Any]:
    return {
        "name": name,
        "metric": "accuracy" if better == "higher" else "mae",
        "value": value,
        "threshold": threshold,
        "better": better,
        "passed": passed,
    }


def report(**changes: Any) -> dict[str, Any]:
    baseline = [
        target("severity", 0.61, 0.95, passed=False),
        target("rul_pct", 9.12345, 2.0, passed=False, better="lower"),
    ]
    cnn1d = [target("severity", 0.98, 0.95, passed=True), target("rul_pct", 1.4, None, passed=True, better="lower")]
    return {
        "problem": "diagnosis",
        "snapshot": "ab12",
        "rows_judged": 1234,
        "scorecards": [
            {"family": "baseline", "version": "1", "seconds": 1.2, "eligible": False, "targets": baseline},
            {"family": "cnn1d", "version": "3", "seconds": 41.23, "eligible": True, "targets": cnn1d},
        ],
        "decision": {"promoted": True, "reason": "meets every target [first champion]"},
        "champion": {"name": "pump-diagnosis", "version": "3", "family": "cnn1d"},
        "data_docs": "/var/data/docs/index.html",
        "mlflow_experiment": "1",
    } | changes


def lines(content: dict[str, Any], width: int = 80) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(render(content), crop=False)
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def test_every_family_and_target_has_a_row_with_its_verdict_in_words() -> None:
    shown = lines(report())
    assert "baseline v1 severity accuracy 0.61 ≥ 0.95 FAIL 1.2" in shown
    assert "not eligible rul_pct mae 9.123 ≤ 2 FAIL" in shown
    assert "cnn1d v3 severity accuracy 0.98 ≥ 0.95 pass 41.2" in shown
    assert "champion rul_pct mae 1.4 none -" in shown


def test_the_limit_stands_beside_the_value_where_it_is_known() -> None:
    content = report()
    for card in content["scorecards"]:
        card["targets"][1]["limit"] = 0.4512
    shown = lines(content)
    assert "baseline v1 severity accuracy 0.61 ≥ 0.95 none FAIL 1.2" in shown
    assert "not eligible rul_pct mae 9.123 ≤ 2 0.4512 FAIL" in shown
    assert not any("limit" in line for line in lines(report()))


def test_the_intervals_of_each_family_stand_below_in_a_row() -> None:
    content = report(interval=0.9)
    content["scorecards"][0]["targets"][1]["interval"] = {"coverage": 0.912, "width": 7.654}
    shown = lines(content)
    assert "90 % intervals" in shown
    assert "family rul_pct" in shown
    assert "baseline v1 ± 3.83, 91 % inside" in shown
    assert "cnn1d v3 none" in shown
    assert not any("inside" in line for line in lines(report()))


def test_a_target_without_a_threshold_is_neither_passed_nor_failed() -> None:
    assert any(line.endswith("rul_pct mae 1.4 none -") for line in lines(report()))


@pytest.mark.parametrize("value", [pytest.param(None, id="absent"), pytest.param(float("nan"), id="not-a-number")])
def test_a_value_that_could_not_be_measured_is_shown_as_none(value: float | None) -> None:
    card = {"family": "gru", "version": "2", "seconds": 3.0, "eligible": True}
    shown = lines(report(scorecards=[card | {"targets": [target("mode", value, 0.99, passed=False)]}]))
    assert "gru v2 mode accuracy none ≥ 0.99 FAIL 3.0" in shown


def test_the_decision_the_champion_and_what_to_do_next_stand_below() -> None:
    shown = lines(report())
    assert "promoted: meets every target [first champion]" in shown
    assert "champion: pump-diagnosis version 3 (cnn1d)" in shown
    assert 'Python mlflow.pyfunc.load_model("models:/pump-diagnosis@champion")' in shown


def test_what_to_do_next_can_be_done_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = lines(report())
    assert "pump-ml local ui compare the runs in MLflow, look at the DAGs in Airflow" in shown
    assert "pump-ml local run train again" in shown
    (tmp_path / "Makefile").touch()
    shown = lines(report())
    assert "make ui compare the runs in MLflow, look at the DAGs in Airflow" in shown
    assert "make run train again" in shown


def test_without_a_champion_nothing_is_offered_to_load() -> None:
    shown = lines(report(champion=None, decision={"promoted": False, "reason": "nobody meets severity"}))
    assert "not promoted: nobody meets severity" in shown
    assert "champion: none yet" in shown
    assert not any("load_model" in line for line in shown)


def test_a_path_to_copy_is_not_broken_on_a_narrow_terminal() -> None:
    path = "/a/very/long/folder/" * 8
    assert any(line.endswith(path) for line in lines(report(data_docs=path), width=60))


def test_the_page_that_compares_the_families_is_shown_where_mlflow_has_a_ui() -> None:
    assert not any(line.startswith("MLflow") for line in lines(report()))
    assert "MLflow http://127.0.0.1:5000/#/compare-runs" in lines(
        report(compare="http://127.0.0.1:5000/#/compare-runs")
    )


def test_show_prints_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    show(report())
    assert "pump-diagnosis version 3" in capsys.readouterr().out
