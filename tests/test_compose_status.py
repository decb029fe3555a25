"""`make status`: what runs, with its memory; nothing that Docker says makes it fall over."""

import json
from pathlib import Path

import pytest

from pump_ml.compose import status


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the PATH whose `docker` prints the file of its command's name."""
    script = '#!/bin/sh\ncase "$*" in compose*) file=ps;; stats*) file=stats;; esac\ncat "$(dirname "$0")/$file"\n'
    (tmp_path / "docker").write_text(script + '[ -e "$(dirname "$0")/$file.fails" ] && exit 1 || true\n')
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def container(name: str, **facts: object) -> str:
    """A line of ``docker compose ps --format json``."""
    known = {"ID": name * 20, "Name": f"pump-ml-{name}-1", "Project": "pump-ml", "State": "running"}
    known |= {"ExitCode": 0, "Health": "healthy", "Publishers": []}
    return json.dumps(known | facts) + "\n"


def memory(name: str, used: str) -> str:
    """A line of ``docker stats --format json``."""
    return json.dumps({"ID": (name * 20)[:12], "MemUsage": used}) + "\n"


def test_the_table_has_memory_and_addresses(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = {"Publishers": [{"URL": "127.0.0.1", "PublishedPort": 5000}]}
    (docker / "ps").write_text(container("a", **published) + container("b"))
    (docker / "stats").write_text(memory("a", "512MiB / 2GiB") + memory("b", "1GiB / 8GiB"))
    assert status.main([]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown[1] == ["a-1", "running", "healthy", "512MiB", "2GiB", "http://127.0.0.1:5000"]
    assert " ".join(shown[-1]) == "memory in all: 1.50 GiB"


def test_a_container_that_ends_meanwhile_does_not_hide_the_others(
    docker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (docker / "ps").write_text(container("a") + container("b"))
    (docker / "stats").write_text(memory("a", "-- / --") + memory("b", "1GiB / 8GiB"))
    (docker / "stats.fails").touch()
    assert status.main([]) == 0
    assert "memory in all: 1.00 GiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("facts", "word"), [({"Health": "unhealthy"}, "unhealthy"), ({"State": "exited", "ExitCode": 137}, "exited (137)")]
)
def test_what_is_not_well_is_shown_and_makes_the_exit_code(
    docker: Path, capsys: pytest.CaptureFixture[str], facts: dict[str, object], word: str
) -> None:
    (docker / "ps").write_text(container("a", **facts))
    (docker / "stats").write_text("")
    assert status.main([]) == 1
    assert word in capsys.readouterr().out


def test_a_stack_that_does_not_run_is_told(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (docker / "ps").write_text("")
    assert status.main([]) == 0
    assert "make up" in capsys.readouterr().out


def test_a_host_without_docker_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="no docker on the PATH"):
        status.main([])
