"""Starting again changes nothing, and a newer commit takes over the volumes of an older one."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from harness import RESULTS, ROOT, SMALL, Stack, host, show

SETUPS = ("mlflow-setup", "airflow-setup")
BASELINE = {"families": ["baseline"], "preset": "quick"}
SERVICES = ("mlflow", "airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")


@pytest.mark.parametrize("profile", ["", "celery"], ids=["no profile", "celery"])
def test_the_compose_file_is_clean(stack: Stack, profile: str) -> None:
    done = stack.compose(*(["--profile", profile] if profile else []), "config", "--quiet")
    assert done.stdout + done.stderr == ""


@pytest.mark.usefixtures("stack")
def test_the_stack_was_healthy_within_3_minutes() -> None:
    assert RESULTS[0]["make up, images built: all services healthy (s)"] < 180


def test_the_idle_stack_takes_at_most_4_gib(stack: Stack) -> None:
    used = stack.memory()
    show([{"service": name, "memory (MiB)": round(value / 2**20)} for name, value in used.items()])
    assert len(used) == 7
    assert sum(used.values()) <= 4 * 2**30


def schemas(stack: Stack) -> list[str]:
    """Revision of each database's schema."""
    databases = ("airflow", "mlflow", "ledger")
    return [row for name in databases for row in stack.sql(name, "SELECT version_num FROM alembic_version")]


def migrations(stack: Stack, *services: str, since: float = 0) -> int:
    """How many steps of a migration the services have logged."""
    logs = stack.compose("logs", "--no-log-prefix", "--since", str(int(since)), *services).stdout
    return len(re.findall("Running (upgrade|stamp_revision)|Creating initial MLflow database", logs))


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    def rights(bucket: str) -> list[Any]:
        s3 = stack.s3()
        try:
            policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
        except ClientError:  # another store has the policies with its users
            policy = None
        return [bucket, policy, s3.get_bucket_versioning(Bucket=bucket).get("Status")]

    def picture() -> dict[str, list[Any]]:
        return {
            "containers": sorted(stack.compose("ps", "--quiet").stdout.split()),
            "airflow users": stack.sql("airflow", "SELECT username, password FROM ab_user ORDER BY 1"),
            "pools": stack.sql("airflow", "SELECT pool, slots FROM slot_pool ORDER BY 1"),
            "mlflow users": stack.sql("mlflow", "SELECT username, password_hash, is_admin FROM users ORDER BY 1"),
            "roles": stack.sql("postgres", "SELECT rolname, rolsuper FROM pg_roles WHERE rolcanlogin ORDER BY 1"),
            "schemas": schemas(stack),
            "buckets": [rights(name) for name in sorted(b["Name"] for b in stack.s3().list_buckets()["Buckets"])],
            "keys": [bool(stack.s3("PUMP_ML").list_objects_v2(Bucket="pump-data"))],
        }

    before = picture()
    begun = time.time()
    stack.up()
    after = picture()
    assert after == before
    assert migrations(stack, since=begun) == 0, "a migration ran again"


@pytest.fixture
def previous(tmp_path: Path, stack: Stack) -> Iterator[Stack]:
    """The stack of the commit before this one."""
    folder = tmp_path / "previous"
    folder.mkdir()
    archive = ["git", "-C", str(ROOT), "-c", "tar.umask=0022", "archive", "HEAD~1"]  # modes as in a checkout
    packed = subprocess.run(archive, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip("this is no checkout, or one without the commit before")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    images = {"AIRFLOW_IMAGE": "pump-ml-airflow:previous", "MLFLOW_IMAGE": "pump-ml-mlflow:previous"}
    ports = {name: port + 100 for name, port in stack.ports.items()}
    previous = Stack(folder, f"{stack.project}-upgrade", ports, {**stack.variables, **images})
    try:
        previous.make("init")
        previous.up()
        yield previous
    finally:
        previous.down(volumes=True)


def test_this_commit_goes_on_with_the_volumes_of_the_one_before(previous: Stack, stack: Stack, tmp_path: Path) -> None:
    name = f"before__{time.time():.0f}"
    assert previous.run_dag("dataset", name, {**SMALL, "publish": False}) == "success"
    with previous.airflow() as api:
        key = api.xcom("dataset", name, "snapshot")["snapshot"]
    assert migrations(previous, *SETUPS) > 0, "an empty database is filled by the setup"
    assert migrations(previous, *SERVICES) == 0
    previous.make("down")
    now = replace(previous, variables=stack.variables, folder=host(tmp_path / "now"))
    shutil.copy(previous.folder / ".env", now.folder)
    now.make("init")
    now.up()
    assert migrations(now, *SERVICES) == 0, "only the setup migrates"
    assert schemas(now) == schemas(stack), "as in a stack that was made by this commit"
    assert now.tasks("dataset", name)["snapshot"] == "success", "the history of Airflow is there"
    assert now.run_dag("training", name, {"snapshot": key, **BASELINE}) == "success", now.tasks("training", name)
    assert now.mlflow("viewer").get_model_version_by_alias("pump-diagnosis", "champion").version
    assert len(now.sql("ledger", "SELECT run_key FROM promotions")) == 1
