"""DAG files: light to import, without errors, with Params that refuse what is out of range, the same on every parse."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pump_ml.catalog import POOLS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("airflow") is None, reason="the airflow extra is not installed"
)

DAGS = Path(__file__).resolve().parents[1] / "dags"
FILES = sorted(path for path in DAGS.glob("*.py") if path.name != "common.py")
HEAVY = {
    "boto3", "great_expectations", "keras", "matplotlib", "mlflow", "pandas", "pyarrow", "scipy", "sklearn",
    "tensorflow", "xgboost",
}  # fmt: skip

LIGHT = """
import runpy, sys, time
sys.path.insert(0, sys.argv[1])
import airflow.sdk, airflow.models
before, started = set(sys.modules), time.process_time()
runpy.run_path(sys.argv[2], run_name="dagfile")
print("SECONDS", time.process_time() - started)
print("MODULES", *sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""

FACTS = """
import datetime, json, pathlib, sys, types
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

from airflow.sdk.exceptions import AirflowTaskTimeout
from pump_ml.catalog import PRESETS
from pump_ml.errors import SnapshotError

sys.path.insert(0, sys.argv[1])
asked = json.loads(sys.argv[2])
never = datetime.timedelta()

def policy(task):
    # what follows each failure
    raised = {"ours": SnapshotError("x"), "timeout": AirflowTaskTimeout("x"), "lost": ConnectionError("x")}
    return {name: task.retry_policy.evaluate(error, 1, 3).action.value for name, error in raised.items()}

def limit(preset, trials=0):
    from common import TRAINING
    task = types.SimpleNamespace(execution_timeout=None)
    TRAINING["pre_execute"]({"task": task, "params": {"preset": preset, "trials": trials}})
    return task.execution_timeout.total_seconds()

def parse():
    bag = DagBag(dag_folder=sys.argv[1], bundle_path=pathlib.Path(sys.argv[1]), bundle_name="dags-folder")
    return bag, {name: json.dumps(DagSerialization.to_dict(dag), default=str) for name, dag in bag.dags.items()}

(bag, one), (_, other) = parse(), parse()
tasks = {f"{name}.{task.task_id}": task for name, dag in bag.dags.items() for task in dag.tasks}
answers = []
for dag, params in asked:
    try:
        for name, value in params.items():
            bag.dags[dag].params[name] = value
        answers.append("accepted")
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
print("FACTS" + json.dumps({
    "errors": bag.import_errors,
    "docs": {name: dag.doc_md for name, dag in bag.dags.items()},
    "retries": {name: task.retries for name, task in tasks.items()},
    "delays": {name: task.retry_delay.total_seconds() for name, task in tasks.items()},
    "growth": {name: task.retry_exponential_backoff for name, task in tasks.items()},
    "limits": {name: (task.execution_timeout or never).total_seconds() for name, task in tasks.items()},
    "pools": {name: [task.pool, task.queue] for name, task in tasks.items()},
    "policies": {name: policy(task) for name, task in tasks.items()},
    "learning": {preset: limit(preset) for preset in PRESETS},
    "tuning": limit("quick", trials=5),
    "rules": {name: task.trigger_rule.value for name, task in tasks.items()},
    "paused": {name: dag.is_paused_upon_creation for name, dag in bag.dags.items()},
    "downstream": {name: sorted(task.downstream_task_ids) for name, task in tasks.items()},
    "stable": one == other,
    "answers": answers,
}))
"""

COMMAND_LINE = "from pump_ml.cli import main; main()"

RUN = """
import json, os, pathlib, sys
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = sys.argv[1]
from airflow.dag_processing.dagbag import DagBag

sys.path.insert(0, sys.argv[1])
dag = DagBag(sys.argv[1], bundle_path=pathlib.Path(sys.argv[1]), bundle_name="dags-folder").dags["dataset"]
run = dag.test(run_conf=json.loads(sys.argv[2]))
tasks = {}
for ti in run.get_task_instances():
    tasks.setdefault(ti.task_id, []).append([ti.rendered_map_index, str(ti.state)])
print("RUN" + json.dumps({"state": str(run.state), "tasks": {name: sorted(found) for name, found in tasks.items()}}))
"""

REFUSED: list[tuple[str, str, Any]] = [
    ("dataset", "pumps", 3),
    ("dataset", "pumps", "many"),
    ("dataset", "samples", 1000),
    ("dataset", "dataset", "v9"),
    ("dataset", "days", 0),
    ("dataset", "shards", 0),
    ("dataset", "shards", 1001),
    ("dataset", "seed", -1),
    ("dataset", "source", "sql"),
    ("training", "seed", -1),
    ("training", "preset", "fast"),
    ("training", "families", ["forest"]),
    ("training", "families", ["xgb", "xgb"]),
    ("training", "families", "xgb"),
    ("training", "hyper", "xgb.depth=6"),
    ("training", "trials", -1),
    ("training", "trials", 2.5),
    ("upkeep", "quiet_minutes", 0),
    ("machines", "machines", "MP-001"),
    ("machines", "machines", [""]),
    ("machines", "machines", ["MP-001", "MP-001"]),
    ("machines", "kinds", ["cnn1d"]),
    ("machines", "days", 0),
    ("machines", "from", "last week"),
    ("machines", "to", "2026-13-01T00:00:00+00:00"),
    ("machines", "least_share", 1.1),
]
ACCEPTED: list[tuple[str, str, Any]] = [
    ("dataset", "pumps", 140),
    ("dataset", "pumps", None),
    ("dataset", "dataset", "v3"),
    ("dataset", "days", 30.5),
    ("dataset", "shards", 1000),
    ("dataset", "source", "files"),
    ("training", "families", []),
    ("training", "families", None),
    ("training", "preset", "quick"),
    ("training", "snapshot", "v2-1a2b3c"),
    ("training", "hyper", {"xgb": {"depth": 6}}),
    ("training", "trials", 20),
    ("upkeep", "stale_hours", 48),
    ("machines", "machines", ["MP-001", "Bomba d'agua"]),
    ("machines", "machines", None),
    ("machines", "kinds", ["gru"]),
    ("machines", "days", None),
    ("machines", "from", "2026-01-01T00:00:00+00:00"),
    ("machines", "least_share", 0),
]


def python(code: str, folder: Path, *arguments: str) -> str:
    """What the code prints in a fresh interpreter whose Airflow has a home of its own."""
    done = subprocess.run(  # noqa: S603 - this interpreter, fixed words
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=False,
        env={**os.environ, "AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow makes of the folder of DAGs, parsed twice."""
    folder = tmp_path_factory.mktemp("airflow")
    asked = json.dumps([[dag, {name: value}] for dag, name, value in [*REFUSED, *ACCEPTED]])
    printed = python(FACTS, folder, str(DAGS), asked)
    assert not (folder / "airflow.db").exists()
    content: dict[str, Any] = json.loads(printed.split("FACTS", 1)[1])
    return content


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_a_dag_file_is_light_to_import(file: Path, tmp_path: Path) -> None:
    printed = python(LIGHT, tmp_path, str(DAGS), str(file))
    modules = set(re.search(r"^MODULES ?(.*)$", printed, re.MULTILINE)[1].split())
    assert not modules & HEAVY
    assert float(re.search(r"^SECONDS (.*)$", printed, re.MULTILINE)[1]) < 1.0


def test_every_dag_is_imported_without_an_error(facts: dict[str, Any]) -> None:
    assert facts["errors"] == {}
    assert sorted(facts["docs"]) == [path.stem for path in FILES]
    assert set(facts["docs"]) == {"dataset", "machines", "training", "upkeep"}
    assert all(facts["docs"].values())


def test_a_dag_is_the_same_on_every_parse(facts: dict[str, Any]) -> None:
    assert facts["stable"], "a DAG that changes on every parse makes a new version each time"


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=lambda n: "{} {}={!r}".format(*REFUSED[n]))
def test_a_param_out_of_its_range_is_refused(number: int, facts: dict[str, Any]) -> None:
    assert facts["answers"][number].startswith("ParamValidationError")


@pytest.mark.parametrize("number", range(len(ACCEPTED)), ids=lambda n: "{} {}={!r}".format(*ACCEPTED[n]))
def test_a_param_within_its_range_is_accepted(number: int, facts: dict[str, Any]) -> None:
    assert facts["answers"][len(REFUSED) + number] == "accepted"


def test_a_task_that_was_killed_is_tried_again(facts: dict[str, Any]) -> None:
    assert {name: retries for name, retries in facts["retries"].items() if retries < 1} == {}


def test_the_tries_of_a_task_last_longer_than_an_outage_of_two_minutes(facts: dict[str, Any]) -> None:
    for name, retries in facts["retries"].items():
        growth = facts["growth"][name] or 1
        waited = sum(facts["delays"][name] * growth**number for number in range(retries))
        assert waited > 180, name
    assert facts["retries"]["training.close"] * facts["delays"]["training.close"] >= 600


def test_what_does_not_heal_is_not_tried_again(facts: dict[str, Any]) -> None:
    for name, policy in facts["policies"].items():
        slow = "fail" if name in ("training.baseline", "training.train") else "default"
        assert policy == {"ours": "fail", "timeout": slow, "lost": "default"}, name


def test_no_task_runs_for_ever(facts: dict[str, Any]) -> None:
    assert {name: limit for name, limit in facts["limits"].items() if not 0 < limit <= 24 * 3600} == {}
    assert facts["learning"] == {"quick": 3600.0, "standard": 6 * 3600.0, "full": 24 * 3600.0}
    assert facts["tuning"] == 6 * 3600.0


def test_heavy_tasks_run_in_pools_that_the_setup_makes_and_in_queues_of_the_same_name(facts: dict[str, Any]) -> None:
    heavy = {name: pool for name, (pool, _) in facts["pools"].items() if pool != "default_pool"}
    tasks = ("plan", "make_shard", "fetch", "validate", "snapshot")
    ingestion = tuple(f"dataset.{task}" for task in tasks)
    learning = ("training.baseline", "training.train")
    expected = dict.fromkeys(ingestion, "ingestion") | dict.fromkeys(learning, "training")
    assert heavy == expected | {"machines.train": "machines"}
    assert set(heavy.values()) == set(POOLS)
    assert {name: queue for name, (_, queue) in facts["pools"].items() if queue != "default"} == heavy


def test_every_worker_of_celery_takes_every_pool_s_tasks_and_all_pools_fit_side_by_side() -> None:
    compose = (DAGS.parent / "docker-compose.yaml").read_text()
    queues = re.search(r"WORKER_QUEUES:-([\w,]+)", compose)
    slots = re.search(r"AIRFLOW_PARALLELISM:-(\d+)", compose)
    assert queues
    assert slots
    assert set(queues[1].split(",")) == {"default", *POOLS}
    assert int(slots[1]) > sum(POOLS.values())


def test_readings_are_fetched_after_all_shards_are_made(facts: dict[str, Any]) -> None:
    below = facts["downstream"]
    assert below["dataset.plan"] == ["make_shard"]
    assert below["dataset.make_shard"] == ["fetch"]
    assert below["dataset.fetch"] == ["validate"]


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of Airflow with an empty database."""
    folder = tmp_path_factory.mktemp("database")
    python("from airflow.utils.db import initdb; initdb()", folder)
    return folder


def run_dataset(airflow_home: Path, **conf: Any) -> dict[str, Any]:
    """Run the DAG dataset to its end in one process; its state, and name and state of each task instance."""
    printed = python(RUN, airflow_home, str(DAGS), json.dumps({"publish": False, **conf}))
    found: dict[str, Any] = json.loads(re.search(r"^RUN(.*)$", printed, re.MULTILINE)[1])
    return found


def test_a_fleet_of_three_shards_becomes_the_snapshot_that_the_command_line_makes_of_one(
    airflow_home: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run_dataset(airflow_home, pumps=21, samples=4, shards=3)
    assert ran["state"] == "success", ran
    assert ran["tasks"]["make_shard"] == [[f"{number} of 3", "success"] for number in (1, 2, 3)]
    (fleet,) = (home / "data" / "fleets").iterdir()
    assert len(list(fleet.glob("readings-*-of-00003.parquet"))) == 3
    monkeypatch.setenv("PUMP_ML_VAR", str(tmp_path / "other"))
    printed = python(COMMAND_LINE, tmp_path, "dataset", "--pumps", "21", "--samples", "4")
    assert [path.name for path in (home / "data" / "snapshots").iterdir()] == [json.loads(printed)["snapshot"]]


def test_files_have_no_shards_and_are_fetched_all_the_same(airflow_home: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("unit,cycle,p\n1,1,1.5\n1,2,1.7\n2,1,2.5\n")
    mapping = {
        "name": "small",
        "format": {"kind": "csv"},
        "files": [{"pattern": "*.csv"}],
        "asset_id": "{unit}",
        "time": {"column": "cycle", "kind": "cycle"},
        "sensors": {"p_bar": {"column": "p", "unit": "bar"}},
        "labels": {"rul_cycles": {"derive": "cycles_to_last_row"}},
    }
    (tmp_path / "mapping.yaml").write_text(json.dumps(mapping))
    ran = run_dataset(
        airflow_home, source="files", mapping=str(tmp_path / "mapping.yaml"), path=str(tmp_path / "a.csv")
    )
    assert ran["state"] == "success", ran
    assert ran["tasks"]["make_shard"] == [[None, "skipped"]]
    assert ran["tasks"]["fetch"] == [[None, "success"]]
    assert [path.name.split("-")[0] for path in (home / "data" / "snapshots").iterdir()] == ["small"]


def test_nothing_is_trained_beside_the_baseline_before_the_gate(facts: dict[str, Any]) -> None:
    below = facts["downstream"]
    assert "gate" in below["training.baseline"]
    assert "train" in below["training.gate"]
    before = {name for name, tasks in below.items() if name.startswith("training.") and "train" in tasks}
    assert before <= {"training.gate", "training.plan"}


def test_what_was_left_open_is_closed_after_everything_else(facts: dict[str, Any]) -> None:
    assert facts["downstream"]["training.close"] == []
    assert "close" in facts["downstream"]["training.report"]
    # One family that fails must not have the others' runs closed while they still learn.
    assert "close" in facts["downstream"]["training.train"]


def test_machines_are_counted_whatever_became_of_them_and_the_count_decides_the_run(facts: dict[str, Any]) -> None:
    assert facts["downstream"]["machines.plan"] == ["train"]
    assert facts["downstream"]["machines.train"] == ["roll_up"]
    assert facts["downstream"]["machines.roll_up"] == []
    assert facts["rules"]["machines.roll_up"] == "all_done"


def test_no_machine_is_trained_at_night_before_somebody_says_so(facts: dict[str, Any]) -> None:
    assert {name for name, paused in facts["paused"].items() if paused} == {"machines"}


def test_pump_ml_never_imports_airflow() -> None:
    package = DAGS.parent / "pump_ml"
    found = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) airflow\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert found == []
