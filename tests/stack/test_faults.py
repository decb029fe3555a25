"""Faults in the middle of a training run: each ends well or with a name, and nothing is lost or doubled."""

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import httpx
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from harness import Stack, crash, eventually, show

from pump_ml.errors import StackError

# One network beside the baseline: its fit takes long enough to be hit.
# So long that a fault meets a network that learns.
CONF = {
    "families": ["baseline", "cnn1d"], "preset": "quick", "hyper": {"cnn1d": {"epochs": 80, "patience": 80}},
}  # fmt: skip
FAMILIES = ("baseline", "cnn1d")
MODEL = "pump-diagnosis"
OUTAGE_S = 30

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="killing a container's processes from outside needs root"),
    pytest.mark.usefixtures("trained"),  # so that there is a champion to lose
]


def kill_task(stack: Stack) -> None:
    """Kill the process that fits the network right now, and nothing else."""
    listed = subprocess.run(
        ["docker", "top", stack.container("airflow-scheduler"), "-eo", "pid,args"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # its supervisor, the parent, is called "airflow worker -- LocalExecutor: …"
    with stack.airflow() as api:
        found = api.ask("GET", "/api/v2/dags/training/dagRuns/~/taskInstances", query={"state": "running"}) or {}
    (task,) = (one["id"] for one in found["task_instances"] if one["task_id"] == "train")
    process = re.search(rf"^(\d+)\s+airflow worker -- {task}", listed.stdout, flags=re.MULTILINE)
    assert process, listed.stdout
    os.kill(int(process[1]), signal.SIGKILL)


@contextmanager
def cut_off(stack: Stack, service: str) -> Iterator[None]:
    """Off the network that the services share."""
    container, network = stack.container(service), f"{stack.project}_inside"
    subprocess.run(["docker", "network", "disconnect", network, container], check=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "network", "connect", "--alias", service, network, container], check=True)


@contextmanager
def full(stack: Stack) -> Iterator[None]:
    """The store takes not one byte more: a quota on its buckets, which clients meet as they meet a full disk."""
    tool = "export CEPH_CONF=/data/ceph.conf; command -v radosgw-admin >/dev/null || exit 3; "
    buckets = ("mlflow", "pump-data")

    def quota(command: str) -> None:
        for bucket in buckets:
            words = f"radosgw-admin quota {command} --quota-scope=bucket --bucket={bucket}"
            done = stack.compose(
                "exec", "-T", "s3", "sh", "-c", tool + words.replace("LIMIT", "--max-size=1K"), check=False
            )
            if done.returncode == 3:
                pytest.skip("this S3 image is not Ceph: its quota cannot be set from here")
            assert done.returncode == 0, done.stderr

    quota("set LIMIT")
    quota("enable")
    try:
        yield
    finally:
        quota("disable")


def for_a_while(held: Callable[[Stack], "object"], seconds: float = OUTAGE_S) -> Callable[[Stack], None]:
    def inject(stack: Stack) -> None:
        with held(stack):  # type: ignore[attr-defined]
            time.sleep(seconds)

    return inject


def stop_and_start(stack: Stack) -> None:
    stack.compose("stop", "--timeout", "30")
    stack.up()


SERVICES = (
    "postgres", "s3", "mlflow", "airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What happens to the stack, which services start anew by it, and how often the network's task is tried."""

    name: str
    inject: Callable[[Stack], None]
    restarts: tuple[str, ...] = ()
    tries: int | None = None
    mark: str = ""
    """What MLflow must have logged meanwhile, where only that tells that the fault was met."""


def killed(service: str, tries: int | None = None) -> Fault:
    return Fault(f"kill -9 of {service}", partial(crash, service=service), (service,), tries)


FAULTS = [
    *map(killed, ("postgres", "s3", "mlflow", "airflow-apiserver")),
    killed("airflow-scheduler", tries=2),  # whose container runs the tasks
    Fault("kill -9 of the task's process", kill_task, tries=2),
    Fault("s3 paused for 30 s", for_a_while(lambda stack: stack.without("s3", by="pause"))),
    Fault("s3 full for 20 s", for_a_while(full, 20), mark="QuotaExceeded"),
    Fault("network of mlflow cut for 30 s", for_a_while(lambda stack: cut_off(stack, "mlflow"))),
    Fault("whole stack stopped and started", stop_and_start, SERVICES),
]


@dataclass(frozen=True)
class Before:
    """What stood before the fault: the champion's version and its files in the bucket, and all versions' runs."""

    champion: str
    files: dict[str, str]
    versions: dict[str, str]


def look(stack: Stack) -> Before:
    client = stack.mlflow()
    found = client.search_model_versions(f"name='{MODEL}'", max_results=1000)
    # what a dead try had registered beside the one that counts is marked, since nothing is ever deleted
    versions = {v.version: v.run_id for v in found if "pump_ml.superseded_by" not in v.tags}
    champion = client.get_model_version_by_alias(MODEL, "champion").version
    return Before(champion, files(stack, champion), versions)


def files(stack: Stack, version: str) -> dict[str, str]:
    """Key and ETag of each object of a registered version."""
    prefix = stack.mlflow().get_model_version_download_uri(MODEL, version).removeprefix("mlflow-artifacts:/") + "/"
    listed = stack.s3().list_objects_v2(Bucket="mlflow", Prefix=prefix)["Contents"]
    return {one["Key"]: one["ETag"] for one in listed}


def start(stack: Stack, snapshot: str, fault: str) -> str:
    """A training run whose network has learnt an epoch or more, and goes on."""
    name = f"{re.sub('[^a-z0-9]+', '-', fault.lower())}__{time.time():.0f}"
    with stack.airflow() as api:
        api.trigger("training", name, {"snapshot": snapshot, **CONF})

    assert eventually(lambda: stack.learns(name, "cnn1d"), 180), stack.tasks("training", name)
    return name


def check(stack: Stack, name: str, state: str, before: Before) -> None:
    """No version lost or doubled, the champion whole, one decision, nothing open."""
    client = stack.mlflow()
    now = look(stack)
    assert before.versions.items() <= now.versions.items(), "a version was lost"
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.run_id = '{name}'")
    found = Counter(run.data.tags.get("family", "parent") for run in runs)
    assert max(found.values(), default=1) == 1, f"a run was doubled: {found}"
    new = {version: run for version, run in now.versions.items() if version not in before.versions}
    owners = Counter(run.data.tags["family"] for run in runs for owner in new.values() if owner == run.info.run_id)
    assert max(owners.values(), default=1) == 1, f"a version was doubled: {owners}"
    assert len(new) == sum(owners.values()), "a version belongs to nobody"
    decided = stack.sql("ledger", f"SELECT champion_after FROM promotions WHERE run_key = 'training/{name}'")  # noqa: S608
    if state == "success":
        assert set(owners) == set(FAMILIES)
        assert now.champion in {before.champion, *new}
        assert decided == [now.champion]
    else:
        assert now.champion == before.champion
        assert decided == []
    assert files(stack, before.champion) == before.files, "the champion's files were touched"
    assert any(key.endswith("/MLmodel") for key in now.files)
    open_runs = [run.info.run_name for run in client.search_runs(experiments, "attributes.status = 'RUNNING'")]
    assert not open_runs, f"still RUNNING in MLflow: {open_runs}"
    with stack.airflow() as api:
        assert api.unfinished("training") == []


def containers(stack: Stack) -> dict[str, tuple[str, str]]:
    """When each service's container was started, and its health."""
    ids = stack.compose("ps", "--quiet").stdout.split()
    listed = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True).stdout
    return {
        one["Config"]["Labels"]["com.docker.compose.service"]: (
            one["State"]["StartedAt"],
            one["State"]["Health"]["Status"],
        )
        for one in json.loads(listed)
    }


def works(stack: Stack, fault: Fault, before: dict[str, tuple[str, str]]) -> bool:
    """Every service is healthy and answers a question, and those that should have started anew have."""
    now = containers(stack)
    if set(now) != set(SERVICES) or {health for _, health in now.values()} != {"healthy"}:
        return False
    if any(now[service][0] == before[service][0] for service in fault.restarts):
        return False
    try:
        with stack.airflow() as api:
            healthy = api.healthy()
        answer = httpx.get(
            f"{stack.address('mlflow')}/api/2.0/mlflow/experiments/get?experiment_id=0",
            auth=("viewer", stack.secrets["MLFLOW_VIEWER_PASSWORD"]), timeout=5,
        )  # fmt: skip
        store = bool(stack.s3().list_objects_v2(Bucket="pump-data", MaxKeys=1))
    except (httpx.HTTPError, BotoCoreError, ClientError, StackError):
        return False
    return healthy and answer.is_success and store and stack.sql("postgres", "SELECT 1") == ["1"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_training_run_gets_over_a_fault_in_its_middle(stack: Stack, snapshot: str, fault: Fault) -> None:
    before = look(stack)
    name = start(stack, snapshot, fault.name)
    were = containers(stack)
    begun, clock = time.monotonic(), time.time()
    fault.inject(stack)
    assert eventually(lambda: works(stack, fault, were), 240), stack.compose("ps", "--all").stdout
    recovered = time.monotonic() - begun
    state = stack.follow("training", name)
    ended = time.monotonic() - begun
    show(
        [
            {
                "fault": fault.name,
                "run": state,
                "all services answer again (s)": round(recovered),
                "run ended (s)": round(ended),
            }
        ]
    )
    assert state == "success", stack.tasks("training", name)
    check(stack, name, state, before)
    with stack.airflow() as api:
        (network,) = (task for task in api.tasks("training", name) if task.task == "train")
    assert fault.tries in (None, network.tries)
    assert fault.mark in stack.compose("logs", "--since", str(int(clock)), "mlflow").stdout


def test_a_store_that_is_full_from_the_start_fails_the_run_with_its_name(stack: Stack, snapshot: str) -> None:
    before = look(stack)
    with full(stack):
        name = f"full__{time.time():.0f}"
        begun = time.monotonic()
        # another seed, so another split: the run's first write is one that the data bucket refuses
        state = stack.run_dag("training", name, {"snapshot": snapshot, **CONF, "seed": 8})
        ended = time.monotonic() - begun
        with stack.airflow() as api:
            failed = [task for task in api.tasks("training", name) if task.state == "failed"]
            said = " ".join(str(event) for task in failed for event in api.log("training", name, task))
    show([{"fault": "s3 full from the start", "run": state, "run ended (s)": round(ended)}])
    assert state == "failed"
    assert "StorageFullError" in said, said[-3000:]
    check(stack, name, state, before)
