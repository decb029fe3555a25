"""`make up` tells what would go wrong before it starts anything."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pump_ml.compose import preflight
from pump_ml.compose.environment import PORTS, initialise
from pump_ml.errors import ConfigurationError


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which something listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with secrets, on free ports; its `docker` prints the file `ps`, empty."""
    (tmp_path / "docker-compose.yaml").write_text("services: {}\n")
    initialise(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(f"#!/bin/sh\ncat {tmp_path}/ps\n")
    (tmp_path / "bin" / "docker").chmod(0o755)
    (tmp_path / "ps").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    for name in PORTS:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            monkeypatch.setenv(name, str(probe.getsockname()[1]))
    return tmp_path


def container(of: Path, port: int = 0) -> str:
    """A line of ``docker compose ps --format json``."""
    labels = f"a=b,com.docker.compose.project.working_dir={of},c=d"
    published = [{"URL": "127.0.0.1", "PublishedPort": port}] if port else []
    return json.dumps({"Project": "pump-ml", "Labels": labels, "Publishers": published}) + "\n"


def test_a_host_that_is_ready_is_let_be(folder: Path) -> None:
    preflight.check(folder)


def test_a_stack_of_another_checkout_is_not_taken_over(folder: Path) -> None:
    (folder / "ps").write_text(container(folder) + container(Path("/srv/other")))
    with pytest.raises(ConfigurationError, match=r"/srv/other has containers of the stack.*COMPOSE_PROJECT_NAME"):
        preflight.check(folder)


def test_a_port_that_something_else_has_is_named(folder: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PORT", str(taken))
    with pytest.raises(ConfigurationError, match=rf"port {taken} .* is taken.*make stop.*MLFLOW_PORT"):
        preflight.check(folder)


def test_a_port_that_this_stack_has_already_is_fine(folder: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PORT", str(taken))
    (folder / "ps").write_text(container(folder, taken))
    preflight.check(folder)


@pytest.mark.parametrize("given", ["http", "0", "70000", "-1"])
def test_a_port_that_is_none_is_told(folder: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_PORT", given)
    with pytest.raises(ConfigurationError, match=f"S3_PORT is '{given}'; expected a port"):
        preflight.check(folder)


def test_the_command_tells_it_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert preflight.main([]) == 0
    (folder / ".env").unlink()
    assert preflight.main([]) == 1
    assert capsys.readouterr().err == "ConfigurationError: there is no .env; `make init` makes one\n"
