"""Files on disk and in a bucket behave alike: whole or not at all, and what was written first stays."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import fsspec
import numpy as np
import pandas as pd
import pytest
from conftest import FLEET, Trained, answering, empty_moto, forget_deployment, name_store, train_all
from upath import UPath

from pump_ml import files, registry, settings, snapshots, steps
from pump_ml.errors import (
    ConfigurationError,
    ContractError,
    PumpMLError,
    SnapshotError,
    StorageFullError,
    UnknownNameError,
)
from pump_ml.schema import Telemetry
from pump_ml.settings import Settings

BUCKET = "pump-data"


def use_store(patch: pytest.MonkeyPatch, address: str, root: str = f"s3://{BUCKET}") -> None:
    """Let the environment name this S3 store, as a deployment does."""
    name_store(patch, address, PUMP_ML_DATA_ROOT=root)
    for protocol in ("s3", "file"):
        fsspec.get_filesystem_class(protocol).clear_instance_cache()


def client(address: str) -> Any:
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    return boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket with versions, as the stack makes it, which the environment names as the data root."""
    empty_moto(moto)
    s3 = client(moto)
    s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    use_store(monkeypatch, moto)
    return s3


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest) -> UPath:
    """The data root, on disk or in the bucket."""
    if request.param == "bucket":
        request.getfixturevalue("bucket")
    return Settings.load().data


def versions(s3: Any) -> dict[str, list[str]]:
    """Versions of each object of the bucket."""
    found: dict[str, list[str]] = {}
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
        for version in page.get("Versions", []):
            found.setdefault(version["Key"], []).append(version["VersionId"])
        assert not page.get("DeleteMarkers")
    return found


# On disk and in a bucket


def test_what_was_written_first_stays(root: UPath) -> None:
    path = root / "splits" / "s.json"
    files.write_once(path, {"a": 1})
    files.write_once(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert [each.name for each in path.parent.iterdir()] == ["s.json"]  # no draft is left


def test_of_many_that_write_at_once_the_first_stays(root: UPath) -> None:
    path = root / "plans" / "p.json"
    seen: list[Any] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        files.write_once(path, number)
        seen.append(files.read_json(path))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert set(seen) == {files.read_json(path)}
    assert [each.name for each in path.parent.iterdir()] == ["p.json"]


def test_rows_come_back_and_are_replaced_whole(root: UPath) -> None:
    path = root / "raw" / "k" / "readings.parquet"
    for rows in (3, 5):
        frame = pd.DataFrame({"a": np.arange(rows), "b": "text"})
        files.write_parquet(path, frame)
        pd.testing.assert_frame_equal(files.read_parquet(path), frame)
    assert list(files.read_parquet(path, ["a"]).columns) == ["a"]


def test_a_file_that_another_task_writes_meanwhile_is_seen(root: UPath) -> None:
    path = root / "raw" / "k" / "manifest.json"
    assert not files.exists(path)
    assert files.names(root / "raw") == []
    code = "from pump_ml import files; from pump_ml.settings import Settings; "
    code += "files.write_once(Settings.load().data / 'raw' / 'k' / 'manifest.json', 1)"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - this interpreter
    assert files.exists(path)
    assert files.names(root / "raw") == ["k"]
    assert files.names(root / "raw" / "k") == ["manifest.json"]


def test_a_folder_is_published_with_its_index_last(root: UPath, tmp_path: Path) -> None:
    built = tmp_path / "built"
    (built / "a").mkdir(parents=True)
    for name in ("index.html", "a/page.html", "z.css"):
        (built / name).write_text(name)
    files.publish(built, root / "docs" / "k", last="index.html")
    assert files.names(root / "docs" / "k") == ["a", "index.html", "z.css"]
    times = {path: path.stat().st_mtime for path in (root / "docs" / "k").rglob("*.*")}
    assert max(times.values()) == times[root / "docs" / "k" / "index.html"]


def test_rows_that_are_no_parquet_any_more_are_refused(root: UPath, fleet: Telemetry) -> None:
    key = snapshots.store(root, "raw", fleet)
    (root / "raw" / key / "readings.parquet").write_bytes(b"PAR1 half of it")
    with pytest.raises(SnapshotError, match=f"{key}/readings.parquet was altered.*restore the file"):
        snapshots.load(root, "raw", key)


# In a bucket


@pytest.fixture(scope="module")
def remote(moto: str, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The training run of `trained`, with its data in a bucket; and the bucket's versions after it."""
    s3 = client(moto)
    with pytest.MonkeyPatch.context() as patch:
        urlopen(Request(f"{moto}/moto-api/reset", method="POST")).close()  # noqa: S310 - this machine
        s3.create_bucket(Bucket=BUCKET)
        s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        forget_deployment(patch)
        home = tmp_path_factory.mktemp("remote") / "var"
        patch.setenv("PUMP_ML_VAR", str(home))
        patch.setenv("PUMP_ML_TARGETS_FILE", str(trained.targets))
        use_store(patch, moto)
        run = train_all("test/first")
        before = versions(s3)
        again = {
            "fetched": steps.fetch("simulated", FLEET),
            "validated": steps.validate(run["fetched"]["raw"]),
            "stored": steps.snapshot(run["validated"]),
            "plan": steps.plan(run["stored"]["snapshot"], "diagnosis", "test/first", families=("xgb",), preset="quick"),
            "candidates": [steps.train(run["plan"], family) for family in ("baseline", "xgb")],
        }
        with pytest.raises(UnknownNameError, match="unknown training run 'test/frist'; known: test/first"):
            steps.read_plan("test/frist")
        return {"run": run, "again": again, "before": before, "after": versions(s3), "s3": s3, "home": home}


def test_a_training_run_in_a_bucket_decides_as_one_on_disk(remote: dict[str, Any], trained: Trained) -> None:
    for step in ("fetched", "stored"):
        ours, theirs = remote["run"][step], getattr(trained, step)
        assert ours | {"docs": ""} == theirs | {"docs": ""}
    for mine, theirs in zip(remote["run"]["evaluation"]["scorecards"], trained.evaluation["scorecards"], strict=True):
        assert (mine["validation"], mine["test"]) == (theirs["validation"], theirs["test"])
    assert remote["run"]["decision"] == trained.decision


def test_nothing_of_the_data_is_left_on_the_disk_of_the_task(remote: dict[str, Any]) -> None:
    assert not [name for name in ("data", "docs") if (remote["home"] / name).exists()]


def test_a_retry_writes_nothing_twice(remote: dict[str, Any]) -> None:
    assert remote["again"] == {name: remote["run"][name] for name in remote["again"]}
    assert remote["after"] == remote["before"]
    assert all(len(found) == 1 for found in remote["after"].values())


def test_data_docs_lie_in_the_bucket_and_the_report_names_them(remote: dict[str, Any]) -> None:
    address = remote["run"]["validated"]["docs"]
    assert address == f"s3://{BUCKET}/docs/{remote['run']['validated']['validation']}/index.html"
    assert remote["run"]["report"]["data_docs"] == address
    index = remote["s3"].get_object(Bucket=BUCKET, Key=address.removeprefix(f"s3://{BUCKET}/"))
    assert index["ContentType"] == "text/html"
    page = index["Body"].read().decode().split('href="')[1].split('"')[0]
    folder = address.removeprefix(f"s3://{BUCKET}/").removesuffix("index.html")
    assert "discharge_pressure_bar" in remote["s3"].get_object(Bucket=BUCKET, Key=folder + page)["Body"].read().decode()


def test_readings_that_break_the_contract_leave_their_quarantine_and_docs_in_the_bucket(
    fleet: Telemetry, bucket: Any
) -> None:
    broken = replace(fleet, readings=fleet.readings.assign(**{fleet.sensors[0].name: np.nan}))
    raw = snapshots.store(Settings.load().data, "raw", broken)
    for _ in range(2):
        with pytest.raises(ContractError):
            steps.validate(raw)
    found = versions(bucket)
    (report,) = (name for name in found if name.endswith("contract_broken.json"))
    assert f"docs/{Path(report).parent.name}/index.html" in found
    assert report.replace("contract_broken.json", "readings.parquet") in found
    assert all(len(each) == 1 for each in found.values())


def test_lineage_names_the_snapshot_in_the_bucket(remote: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUMP_ML_VAR", str(remote["home"]))
        run = registry.connect().get_run(remote["run"]["candidates"][0]["run"])
    sources = {json.loads(given.dataset.source)["uri"] for given in run.inputs.dataset_inputs}
    assert sources == {f"s3://{BUCKET}/snapshots/{remote['run']['stored']['snapshot']}"}


@pytest.mark.usefixtures("bucket")
def test_rows_that_were_altered_in_the_bucket_are_refused(fleet: Telemetry) -> None:
    root = Settings.load().data
    key = snapshots.store(root, "raw", fleet)
    path = root / "raw" / key / "readings.parquet"
    rows = files.read_parquet(path)
    rows.iloc[0, rows.columns.get_loc(fleet.sensors[0].name)] += 0.001
    files.write_parquet(path, rows)
    with pytest.raises(SnapshotError, match="was altered after it was stored"):
        snapshots.load(root, "raw", key)


# What cannot be used


@pytest.fixture
def strict(moto: str, bucket: Any) -> Iterator[None]:  # noqa: ARG001 - made before the keys count
    """The store looks at the keys."""

    def unchecked_calls(count: bytes) -> None:
        kind = {"Content-Type": "text/plain"}
        urlopen(Request(f"{moto}/moto-api/reset-auth", count, kind, method="POST")).close()  # noqa: S310 - this machine

    unchecked_calls(b"0")
    yield
    unchecked_calls(b"inf")


USES = [
    pytest.param(lambda root: steps.fetch("simulated", FLEET), id="fetch"),  # noqa: ARG005 - the environment names it
    pytest.param(lambda root: snapshots.load(root, "raw", "v2-1"), id="load"),
    pytest.param(lambda root: files.write_once(root / "plans" / "p.json", 1), id="write"),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_named_and_not_made(
    use: Callable[[UPath], Any], moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMP_ML_DATA_ROOT", "s3://pump-dta")
    with pytest.raises(ConfigurationError, match=r"s3://pump-dta/.* cannot be used: .*NoSuchBucket.*PUMP_ML_DATA_ROOT"):
        use(Settings.load().data)
    assert [each["Name"] for each in client(moto).list_buckets()["Buckets"]] == [BUCKET]


@pytest.mark.parametrize("use", USES)
@pytest.mark.usefixtures("strict")
def test_a_key_that_the_store_does_not_know_is_told_with_its_cure(use: Callable[[UPath], Any]) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"s3://{BUCKET}/.* cannot be used: .*403.*AWS_ACCESS_KEY_ID"
    ) as refused:
        use(Settings.load().data)
    assert "listed, read and written" in str(refused.value)


@pytest.mark.usefixtures("bucket")
def test_a_store_without_any_key_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigurationError, match=r"Unable to locate credentials.*AWS_ACCESS_KEY_ID"):
        files.exists(Settings.load().data / "raw")


# A store that does not answer


def gives_up(use: Callable[[], Any]) -> str:
    """The error of a call that is no error of ours: it is worth a retry."""
    with pytest.raises(Exception) as given_up:  # noqa: PT011 - the SDK's own kinds
        use()
    assert not isinstance(given_up.value, PumpMLError)
    assert given_up.value.__notes__
    return type(given_up.value).__name__


def test_a_store_that_refuses_connections_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    use_store(monkeypatch, address)
    assert gives_up(lambda: files.exists(Settings.load().data / "raw")) == "EndpointConnectionError"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "use",
    [
        pytest.param(files.exists, id="exists"),
        pytest.param(files.names, id="names"),
        pytest.param(files.read_json, id="read"),
        pytest.param(lambda path: files.write_once(path, 1), id="write once"),
        pytest.param(lambda path: files.write_parquet(path, pd.DataFrame({"a": [1]})), id="upload"),
    ],
)
def test_a_store_that_is_silent_is_given_up(use: Callable[[UPath], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.BUCKET["config_kwargs"], "read_timeout", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections into its queue, and nothing more
        use_store(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert gives_up(lambda: use(Settings.load().data / "p.json")) == "ReadTimeoutError"


@pytest.mark.timeout(60)
def test_a_store_that_stops_to_take_bytes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "UPLOAD_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_store(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        rows = pd.DataFrame({"a": np.random.default_rng(0).random(4_000_000)})
        assert gives_up(lambda: files.write_parquet(Settings.load().data / "r.parquet", rows)) == "FSTimeoutError"


# A store that is full


def error(code: str, message: str = "") -> str:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(507, error("XMinioStorageFull", "Storage backend has reached its minimum free drive"), id="MinIO"),
        pytest.param(500, error("InternalError", "cause(no space left on device)"), id="MinIO, last bytes"),
        pytest.param(403, error("QuotaExceeded"), id="Ceph, quota"),
        pytest.param(507, "", id="status only"),
    ],
)
def test_a_bucket_that_is_full_is_named(status: int, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(status, body) as address:
        use_store(monkeypatch, address)
        with pytest.raises(
            StorageFullError, match=rf"step fetch: there is no room left .*s3://{BUCKET}/fleets/.*make room or raise"
        ):
            steps.fetch("simulated", FLEET)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:  # noqa: S603 - fixed words
        pytest.skip("only root may mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607 - fixed words


def test_a_disk_that_is_full_is_named_and_what_was_stored_stays(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMP_ML_DATA_ROOT", str(small_disk))
    files.write_once(Settings.load().data / "splits" / "s.json", {"a": 1})
    with pytest.raises(StorageFullError, match=rf"No space left on device.*with {small_disk}/fleets/.*/readings-0"):
        steps.fetch("simulated", FLEET)
    found = sorted(path.name for path in small_disk.rglob("*") if path.is_file())
    assert found == ["fleet.json", "s.json"]  # and no draft
    assert files.read_json(Settings.load().data / "splits" / "s.json") == {"a": 1}
