"""Settings come from the environment and from nowhere else, and a misspelt one is an error."""

import re
from pathlib import Path

import pytest

from pump_ml.errors import UnknownNameError
from pump_ml.settings import CHECKOUT, Settings, git_sha


def test_unset_everything_lies_under_var_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PUMP_ML_VAR")
    monkeypatch.chdir(tmp_path)
    settings = Settings.load()
    var = tmp_path / "var"
    assert str(settings.data) == str(var / "data")
    assert settings.ledger == f"sqlite:///{var / 'ledger.db'}"
    assert settings.telemetry == f"sqlite:///{var / 'telemetry.db'}"
    assert settings.tracking == f"sqlite:///{var / 'mlflow.db'}"
    assert settings.mlflow_artifacts == (var / "mlartifacts").as_uri()
    assert settings.suites == CHECKOUT / "expectations"
    assert not var.exists()


def test_a_deployment_names_its_services_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PUMP_ML_DATA_ROOT": "memory://pump-data",
        "PUMP_ML_LEDGER_URL": "postgresql+psycopg2://u@db/ledger",
        "PUMP_ML_TELEMETRY_URL": "postgresql+psycopg2://u@historian/plant",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "PUMP_ML_EXPECTATIONS": "/etc/suites",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert str(settings.data / "raw") == "memory://pump-data/raw"
    assert settings.ledger == "postgresql+psycopg2://u@db/ledger"
    assert settings.telemetry == "postgresql+psycopg2://u@historian/plant"
    assert settings.tracking == "http://mlflow:5000"
    assert settings.mlflow_artifacts is None
    assert settings.suites == Path("/etc/suites")


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("PUMP_ML_VARR", "PUMP_ML_VAR"),
        ("PUMP_ML_DATAROOT", "PUMP_ML_DATA_ROOT"),
        ("PUMP_ML_TARGET_FILE", "PUMP_ML_TARGETS_FILE"),
        ("PUMP_ML_LEDGER_URI", "PUMP_ML_LEDGER_URL"),
    ],
)
def test_a_misspelt_variable_is_an_error_that_names_its_neighbour(
    given: str, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(given, "x")
    with pytest.raises(UnknownNameError, match=f"environment variable {given!r}.*Did you mean {near!r}"):
        Settings.load()


def test_settings_are_frozen_and_refuse_unknown_names() -> None:
    settings = Settings.load()
    with pytest.raises(ValueError, match="frozen"):
        settings.var = Path("elsewhere")
    with pytest.raises(ValueError, match="colour"):
        Settings(colour="red")


def test_the_commit_is_known_in_a_checkout() -> None:
    assert git_sha() == "unknown" or re.fullmatch("[0-9a-f]{40}(-dirty)?", git_sha())


def test_an_image_tells_the_commit_that_it_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    known = git_sha()
    monkeypatch.setenv("PUMP_ML_GIT_SHA", "0123abc")
    assert git_sha() == "0123abc"
    monkeypatch.setenv("PUMP_ML_GIT_SHA", "")
    assert git_sha() == known


@pytest.mark.parametrize(
    ("root", "docs"),
    [
        pytest.param("s3://pump-data", "s3://pump-data/docs", id="bucket"),
        pytest.param("s3://plant/pumps/", "s3://plant/pumps/docs", id="folder of a bucket"),
        pytest.param("/mnt/pumps", None, id="another disk"),
        pytest.param(None, None, id="embedded"),
    ],
)
def test_data_docs_lie_beside_the_data_where_these_are_remote(
    root: str | None, docs: str | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if root:
        monkeypatch.setenv("PUMP_ML_DATA_ROOT", root)
    assert str(Settings.load().docs) == (docs or str(home / "docs"))
