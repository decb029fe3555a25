"""What tests share: a home of their own, a small simulated dataset, and one training run that crowned a champion."""

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import httpx
import numpy as np
import pytest
import yaml

from pump_ml import steps
from pump_ml.problems import Problem, load_problem
from pump_ml.schema import Telemetry
from pump_ml.settings import PREFIX, Settings
from pump_ml.sources.simulated import SimulatedSource
from pump_ml.windows import Windows, make_windows

FLEET = {"pumps": 56, "samples": 8, "seed": 7}
"""Small, and balanced: every fault mode and every severity level occurs equally often."""
WITHIN_REACH = {"severity": 0.5, "mode": 0.5, "rul_pct": 20.0, "health_pct": 20.0}
"""Thresholds that models of a small fleet meet."""


def forget_deployment(patch: pytest.MonkeyPatch) -> None:
    """Take this machine's own settings out of the environment."""
    for name in list(os.environ):
        if name.startswith((PREFIX, "MLFLOW_TRACKING", "MLFLOW_REGISTRY", "MLFLOW_RUN", "MLFLOW_EXPERIMENT")):
            patch.delenv(name)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the embedded default writes to; a test leaves no trace outside its own."""
    forget_deployment(monkeypatch)
    folder = tmp_path / "var"
    monkeypatch.setenv("PUMP_ML_VAR", str(folder))
    return folder


@dataclass(frozen=True)
class Trained:
    """What each step of a training run returned, and where the run lies."""

    home: Path
    targets: Path
    fetched: dict[str, Any]
    validated: dict[str, Any]
    stored: dict[str, Any]
    plan: dict[str, Any]
    candidates: list[dict[str, Any]]
    gate: dict[str, Any]
    evaluation: dict[str, Any]
    aliases_before: list[str]
    decision: dict[str, Any]
    report: dict[str, Any]


def train_all(run_key: str, families: tuple[str, ...] = ("xgb",)) -> dict[str, Any]:
    """Every step in the home that the environment names, from the simulated fleet to the report."""
    from pump_ml import registry

    fetched = steps.fetch("simulated", FLEET)
    validated = steps.validate(fetched["raw"])
    stored = steps.snapshot(validated)
    plan = steps.plan(stored["snapshot"], "diagnosis", run_key, families=families, preset="quick")
    candidates = [steps.train(plan, "baseline")]
    gate = steps.gate(plan, candidates[0])
    candidates += [steps.train(plan, family) for family in plan["others"]]
    evaluation = steps.evaluate(plan, candidates)
    aliases = list(registry.connect().get_registered_model("pump-diagnosis").aliases)
    decision = steps.promote(plan, evaluation)
    return {
        "fetched": fetched,
        "validated": validated,
        "stored": stored,
        "plan": plan,
        "candidates": candidates,
        "gate": gate,
        "evaluation": evaluation,
        "aliases_before": aliases,
        "decision": decision,
        "report": steps.report(plan, evaluation, decision),
    }


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training run of the baseline and xgb that crowned a champion. Look at it; to go on in it, take `crowned`."""
    folder = tmp_path_factory.mktemp("trained")
    targets = folder / "targets.yaml"
    targets.write_text(yaml.safe_dump({"diagnosis": WITHIN_REACH}))
    with pytest.MonkeyPatch.context() as patch:
        forget_deployment(patch)
        patch.setenv("PUMP_ML_VAR", str(folder / "var"))
        patch.setenv("PUMP_ML_TARGETS_FILE", str(targets))
        return Trained(home=folder / "var", targets=targets, **train_all("test/first"))


@pytest.fixture
def crowned(trained: Trained, home: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The same training run in a copy that belongs to the test; artifacts of the models stay where they were made."""
    shutil.copytree(trained.home, home, ignore=shutil.ignore_patterns("mlartifacts"))
    monkeypatch.setenv("PUMP_ML_TARGETS_FILE", str(trained.targets))
    return trained


def whole_rows(folder: Path, **options: Any) -> Telemetry:
    """A simulated fleet without the rows in which an instrument was silent, as validation leaves it."""
    with pytest.MonkeyPatch.context() as patch:
        forget_deployment(patch)
        patch.setenv("PUMP_ML_VAR", str(folder))
        made = SimulatedSource(**options).fetch()
    return replace(made, readings=made.readings.dropna(ignore_index=True))


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Telemetry:
    """The simulated fleet of the training run."""
    return whole_rows(tmp_path_factory.mktemp("fleet"), **FLEET)


@pytest.fixture(scope="session")
def diagnosis() -> Problem:
    """The shipped problem."""
    return load_problem("diagnosis", Settings())


def windows_of(telemetry: Telemetry, problem: Problem, assets: slice = slice(None)) -> Windows:
    """Windows of some of the assets, by their place in the order of names."""
    chosen = sorted(telemetry.readings["asset_id"].unique())[assets]
    rows = telemetry.readings[telemetry.readings["asset_id"].isin(chosen)]
    features = problem.choose_features([s.name for s in telemetry.sensors], telemetry.labels)
    return make_windows(rows, problem, features, waveforms=telemetry.waveforms)


def noise(telemetry: Telemetry) -> Telemetry:
    """The same readings with the labels of all samples shuffled over samples and assets: nothing can be learnt."""
    labels = list(telemetry.labels)
    readings = telemetry.readings.copy()
    samples = ~readings["commissioning"].to_numpy()
    runs = readings.loc[samples, ["run_id", *labels]].groupby("run_id", sort=False).first()
    order = np.random.default_rng(0).permutation(len(runs))
    shuffled = runs.iloc[order].set_axis(runs.index)
    readings.loc[samples, labels] = shuffled.loc[readings.loc[samples, "run_id"]].to_numpy()
    readings = readings.astype(telemetry.readings.dtypes.to_dict())
    return replace(telemetry, readings=readings, origin={"dataset": "noise"})


@contextmanager
def answering(status: int, body: str = "") -> Iterator[str]:
    """A server that knows no object and answers every PUT so."""

    class Answer(BaseHTTPRequestHandler):
        def answer(self, status: int, content: bytes = b"") -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.answer(404)

        def do_GET(self) -> None:
            self.answer(200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")

        def do_PUT(self) -> None:
            self.answer(status, body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def script(path: Path) -> ModuleType:
    """A Python file that is no module of a package, as one; what lies beside it can be imported meanwhile."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """Address of a real S3 server on a free port; it is shared, so empty it first."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def empty_moto(address: str) -> None:
    """Forget what an S3 server of `moto` holds."""
    httpx.post(f"{address}/moto-api/reset", trust_env=False).raise_for_status()


def name_store(patch: pytest.MonkeyPatch, address: str, **roots: str) -> None:
    """Let the environment name this S3 store, and roots in it, as a deployment does."""
    for name, value in {
        **roots,
        "AWS_ENDPOINT_URL_S3": address,
        "AWS_ACCESS_KEY_ID": "pump-ml",
        "AWS_SECRET_ACCESS_KEY": "pump-ml",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_RETRY_MODE": "standard",
        "AWS_MAX_ATTEMPTS": "2",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        patch.setenv(name, value)


def use_bucket(patch: pytest.MonkeyPatch, address: str, root: str = "s3://models") -> None:
    """Keep the machines' models in this S3 store."""
    name_store(patch, address, PUMP_ML_ARTIFACT_ROOT=root)


@pytest.fixture
def s3(moto: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket ``models`` that the environment names, as a plain client sees it."""
    empty_moto(moto)
    use_bucket(monkeypatch, moto)
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    return client
