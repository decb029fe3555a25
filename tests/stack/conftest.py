"""Fixtures of the full stack's tests."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import BUILD_S, PROJECT, QUICK, RESULTS, SMALL, VARIABLES, Stack, host, show

ORDER = ("pipeline", "browser", "security", "lifecycle", "backup", "machines", "faults", "celery")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Look at the stack first, then break it, then change its executor."""
    folder = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        if not item.path.is_relative_to(folder):
            return -1
        return ORDER.index(item.path.relative_to(folder).parts[0].removeprefix("test_").removesuffix(".py"))

    for item in items:
        if place(item) >= 0:  # whole stacks are started within them
            item.add_marker(pytest.mark.timeout(7500 if os.environ.get("PUMP_ML_TEST_FLEET") else 900))
    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    for row in RESULTS:
        terminalreporter.write_line("  ".join(f"{name}: {value}" for name, value in row.items()))


def _what_is_missing() -> str | None:
    if shutil.which("docker") is None:
        return "docker is not installed"
    for words, name in ((["docker", "info"], "the docker engine"), (["docker", "compose", "version"], "Compose v2")):
        if subprocess.run(words, capture_output=True, check=False).returncode:
            return f"{name} does not answer"
    return None


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is up; taken down with its volumes at the end.

    For those who write tests, PUMP_ML_TEST_STACK=keep leaves it up and takes it again the next time.
    """
    if reason := _what_is_missing():
        pytest.fail(f"the full stack's tests need Docker with Compose: {reason}")
    keep = os.environ.pop("PUMP_ML_TEST_STACK", "") == "keep"
    folder = host(Path("/tmp/pump-ml-test") if keep else tmp_path_factory.mktemp("stack"))
    stack = Stack(folder, PROJECT, {"airflow": 18080, "mlflow": 15000, "s3": 19000}, VARIABLES)
    stack.make("init")
    try:
        stack.compose("build", "--quiet", timeout=BUILD_S)
        begun = time.monotonic()
        stack.up()
        show([{"make up, images built: all services healthy (s)": round(time.monotonic() - begun)}])
        yield stack
    finally:
        if not keep:
            stack.down(volumes=True)


@pytest.fixture(scope="session")
def snapshot(stack: Stack) -> str:
    """Key of a small dataset that the DAG ``dataset`` made on the stack."""
    name = f"test__{time.time():.0f}"
    assert stack.run_dag("dataset", name, {**SMALL, "publish": False}) == "success", stack.tasks("dataset", name)
    with stack.airflow() as api:
        return str(api.xcom("dataset", name, "snapshot")["snapshot"])


@pytest.fixture(scope="session")
def trained(stack: Stack, snapshot: str) -> str:
    """Id of a run of the DAG ``training``, of the baseline and XGBoost, that ended well: there is a champion."""
    run = f"trained__{time.time():.0f}"
    assert stack.run_dag("training", run, {"snapshot": snapshot, **QUICK}) == "success", stack.tasks("training", run)
    return run
