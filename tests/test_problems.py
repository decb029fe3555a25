"""What a problem's YAML may say, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pump_ml import catalog
from pump_ml.errors import ConfigurationError, LeakError, UnknownNameError
from pump_ml.problems import Problem, load_problem, parse_problem
from pump_ml.settings import Settings


def content(**changes: Any) -> dict[str, Any]:
    problem = {
        "name": "wear",
        "windows": {"length": 10, "stride": 5},
        "predicts": [
            {"name": "mode", "kind": "classes", "classes": ["healthy", "worn"], "metric": "accuracy"},
            {"name": "rul_pct", "kind": "regression", "metric": "mae"},
        ],
        "targets": {"mode": 0.9, "rul_pct": 5.0},
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
    }
    return {key: value for key, value in {**problem, **changes}.items() if value is not None}


def parse(**changes: Any) -> Problem:
    return parse_problem(content(**changes), where="wear.yaml")


@pytest.mark.parametrize("name", catalog.PROBLEMS)
def test_every_listed_problem_loads_under_its_own_name(name: str) -> None:
    assert load_problem(name).name == name


def test_thresholds_travel_with_their_targets() -> None:
    problem = parse()
    assert [(t.name, t.threshold, t.better) for t in problem.targets] == [
        ("mode", 0.9, "higher"),
        ("rul_pct", 5.0, "lower"),
    ]
    assert problem.has_thresholds
    assert problem.model_name == "pump-wear"


def test_without_thresholds_the_baseline_is_the_bar() -> None:
    assert not parse(targets="none").has_thresholds
    assert not parse(targets=None).has_thresholds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"targets": {"mode": 0.9}}, "a threshold for each of mode, rul_pct", id="threshold missing"),
        pytest.param({"targets": {"mode": 1, "rul_pct": 1, "rpm": 1}}, "a threshold for each", id="threshold of none"),
        pytest.param({"targets": "all"}, "targets is 'all'", id="thresholds as text"),
        pytest.param({"hyper": {"xgb": {"dept": 3}}}, "hyper: .*'dept'.*'depth'", id="hyper-parameter"),
        pytest.param({"window": {"length": 3}}, "window\n.*Extra inputs", id="unknown key"),
        pytest.param({"windows": {"length": 0, "stride": 1}}, "greater than 0", id="empty windows"),
        pytest.param({"split": {"train": 0.6, "validation": 0.3, "test": 0.2}}, "add up to 1.1", id="shares"),
        pytest.param({"name": "Wear 1"}, "name", id="name"),
        pytest.param({"predicts": [], "targets": "none"}, "at least 1 item", id="no target"),
        pytest.param({"mode": "speed"}, "mode 'speed' is no target", id="mode that is no target"),
        pytest.param(
            {"conditions": {"relative": ["speed_rpm"]}}, "state reference: commissioning", id="conditions of no record"
        ),
        pytest.param(
            {"predicts": [{"name": "mode", "kind": "classes", "metric": "accuracy"}], "targets": "none"},
            "lists its classes",
            id="classes without names",
        ),
        pytest.param(
            {
                "predicts": [{"name": "rul", "kind": "regression", "metric": "mae", "classes": ["a"]}],
                "targets": "none",
            },
            "lists its classes",
            id="names without classes",
        ),
        pytest.param(
            {"predicts": [{"name": "rul", "kind": "regression", "metric": "mae"}] * 2, "targets": "none"},
            "'rul' stands twice",
            id="a target twice",
        ),
    ],
)
def test_a_yaml_that_breaks_the_schema_is_refused_by_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?s)wear.yaml.*{message}"):
        parse(**changes)


def test_an_unknown_metric_names_its_neighbour() -> None:
    predicts = [{"name": "rul", "kind": "regression", "metric": "maes"}]
    with pytest.raises(UnknownNameError, match="Did you mean 'mae'"):
        parse(predicts=predicts, targets="none")


def test_an_unknown_problem_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"'diagnose'; known: cwru, diagnosis, femto, hydraulic, lives, rul\. Did you mean 'diagnosis'",
    ):
        load_problem("diagnose")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "does not exist", id="missing"),
        pytest.param("a: [", "is not YAML", id="not YAML"),
        pytest.param("- a", "expected keys and values, got list", id="a list"),
    ],
)
def test_a_file_that_holds_no_problem_says_so(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "wear.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_problem(path)


def test_a_users_file_is_a_problem_as_any_other(tmp_path: Path) -> None:
    path = tmp_path / "wear.yaml"
    path.write_text(yaml.safe_dump(content()))
    assert load_problem(path) == load_problem(str(path)) == parse()


def test_a_deployment_replaces_the_thresholds_of_the_problems_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "targets.yaml"
    file.write_text(yaml.safe_dump({"diagnosis": {"severity": 0.5, "mode": 0.6, "rul_pct": 7, "health_pct": 8}}))
    monkeypatch.setenv("PUMP_ML_TARGETS_FILE", str(file))
    assert [t.threshold for t in load_problem("diagnosis", Settings.load()).targets] == [0.5, 0.6, 7, 8]
    assert not load_problem("rul").has_thresholds
    file.write_text(yaml.safe_dump({"diagnosis": {"severity": 0.5}}))
    with pytest.raises(ConfigurationError, match="a threshold for each of severity, mode, rul_pct, health_pct"):
        load_problem("diagnosis")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            {"severity": 0.5},
            r"targets\.yaml: diagnosis is \{'severity': 0\.5\}; expected 'none' or a threshold for each",
        ),
        (
            dict.fromkeys(("severity", "mode", "rul_pct", "health_pct"), "low"),
            r"diagnosis\.yaml with .*targets\.yaml: ",
        ),
    ],
    ids=["not all targets", "no numbers"],
)
def test_an_error_of_the_deployments_thresholds_names_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: dict[str, Any], message: str
) -> None:
    file = tmp_path / "targets.yaml"
    file.write_text(yaml.safe_dump({"diagnosis": targets}))
    monkeypatch.setenv("PUMP_ML_TARGETS_FILE", str(file))
    with pytest.raises(ConfigurationError, match=message):
        load_problem("diagnosis")


# Features


def test_features_are_the_sensors_unless_the_problem_names_some() -> None:
    assert parse().choose_features(["p_bar", "q_m3_h"], ["mode"]) == ("p_bar", "q_m3_h")
    assert parse(features=["q_m3_h"]).choose_features(["p_bar", "q_m3_h"], ["mode"]) == ("q_m3_h",)


@pytest.mark.parametrize(
    ("features", "sensors", "labels", "leaked"),
    [
        pytest.param(["p_bar", "mode"], ["p_bar"], ["mode", "rul_pct"], "mode", id="a target in the YAML"),
        pytest.param(["p_bar", "severity"], ["p_bar"], ["severity"], "severity", id="another label in the YAML"),
        pytest.param(None, ["p_bar", "rul_pct"], ["mode"], "rul_pct", id="a target among the sensors"),
        pytest.param(None, ["p_bar", "severity"], ["severity"], "severity", id="a label among the sensors"),
    ],
)
def test_a_label_among_the_features_is_a_leak(
    features: list[str] | None, sensors: list[str], labels: list[str], leaked: str
) -> None:
    with pytest.raises(LeakError, match=f"'wear': {leaked} would be learnt from"):
        parse(features=features).choose_features(sensors, labels)


def test_a_feature_that_the_data_lack_is_named() -> None:
    with pytest.raises(ConfigurationError, match="asks for the sensors q_m3_h; the data have p_bar"):
        parse(features=["p_bar", "q_m3_h"]).choose_features(["p_bar"], ["mode"])


def test_conditions_that_stand_twice_or_leave_nothing_to_compare_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'p_bar' stands twice"):
        parse(reference="commissioning", conditions={"relative": ["p_bar"], "absolute": ["p_bar"]})
    problem = parse(reference="commissioning", conditions={"relative": ["p_bar", "q_m3_h"]})
    with pytest.raises(ConfigurationError, match="all features are conditions"):
        problem.choose_features(["p_bar", "q_m3_h"], ["mode"])


def test_a_condition_that_is_no_feature_is_named() -> None:
    problem = parse(reference="commissioning", conditions={"relative": ["p_bar"], "absolute": ["t_c"]})
    with pytest.raises(ConfigurationError, match="the conditions t_c are no features; expected some of p_bar, q_m3_h"):
        problem.choose_features(["p_bar", "q_m3_h"], ["mode"])
