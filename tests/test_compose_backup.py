"""Backups: what is written and in which order, what a restore refuses, and the mirror of the buckets.

A script that notes what it was asked for plays ``docker``; tests/stack makes the round trip with the real one.
"""

import io
import json
import os
import resource
import stat
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError
from conftest import empty_moto, script

from pump_ml.compose import backup
from pump_ml.compose.environment import FERNET, initialise
from pump_ml.errors import ConfigurationError, DataError, StackError

SETUP = Path(__file__).parent.parent / "deploy" / "setup"
DOCKER = f"""#!{sys.executable}
import json, os, pathlib, sys, tarfile, io
home = pathlib.Path(os.environ["PLAYED"])
words = sys.argv[1:]
words = words[words.index("--progress") + 2:]
asked = " ".join(words)
read = sys.stdin.buffer.read() if "pg_restore" in words or words[-1] == "load" else b""
with (home / "asked").open("a") as file:
    keys = os.environ.get("AIRFLOW__CORE__FERNET_KEY", "")
    file.write(json.dumps([asked, len(read), keys]) + "\\n")
played = json.loads((home / "played.json").read_text())
if any(part in asked for part in played["fails"]):
    sys.exit("docker: it failed")
for part in [part for part in played["fails once"] if part in asked]:
    played["fails once"].remove(part)
    (home / "played.json").write_text(json.dumps(played))
    sys.exit("docker: a container is unhealthy")
if words[0] == "ps":
    print("\\n".join(played["running"]))
elif "pg_dump" in words:
    print("dump of", words[-1])
elif "psql" in words:
    print(next((answer for part, answer in played["answers"].items() if part in asked), ""))
elif words[-1] == "count":
    print(json.dumps(played["versions"]))
elif words[-1] == "save":
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for name in ["mlflow/a", *played["last"]]:
            content = json.dumps([{{"bucket": "mlflow", "key": "a", "size": 3, "sha256": "x"}}]).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
"""


class Stack:
    """A folder with a compose file and .env, and the `docker` that is found on the PATH."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.played: dict[str, Any] = {
            "running": ["postgres", "s3", "mlflow"],
            "fails": [],
            "fails once": [],
            "last": ["objects.json"],
            "answers": {"server_version": "15.20", "pg_database": "postgres\nmlflow", "pg_tables": "0"},
            "versions": {"mlflow": 0, "pump-data": 0, "models": 0},
        }
        self.play()

    def play(self, **changes: Any) -> None:
        """Change what docker answers, and forget what it was asked."""
        self.played |= changes
        (self.home / "played.json").write_text(json.dumps(self.played))
        (self.home / "asked").write_text("")

    @property
    def asked(self) -> list[tuple[str, int, str]]:
        """Words after ``docker compose``, bytes of the standard input, and Airflow's key in the environment."""
        return [tuple(json.loads(line)) for line in (self.home / "asked").read_text().splitlines()]

    def order(self, *parts: str) -> list[str]:
        """Those of the parts that were asked for, in the order in which they were."""
        return [part for asked, _, _ in self.asked for part in parts if part in asked]


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    folder, home = tmp_path / "stack", tmp_path / "bin"
    folder.mkdir()
    home.mkdir()
    (folder / "docker-compose.yaml").touch()
    initialise(folder)
    (home / "docker").write_text(DOCKER)
    (home / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PLAYED", str(home))
    return Stack(folder, home)


@pytest.fixture
def made(stack: Stack) -> Path:
    """A backup of the stack, which is down and empty now."""
    source = backup.create(stack.folder)
    stack.play(running=[])
    return source


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_backup_is_for_its_owner_only_and_names_every_file_with_its_hash(stack: Stack) -> None:
    source = backup.create(stack.folder)
    assert source.parent == stack.folder / "backups"
    assert {mode(source.parent), mode(source)} == {0o700}
    assert {mode(path) for path in source.iterdir()} == {0o600}
    manifest = json.loads((source / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in source.iterdir()} - {"manifest.json"}
    assert manifest["postgres"] == "15.20"
    assert manifest["buckets"] == {"mlflow": {"objects": 1, "bytes": 3}}
    assert backup.verify(source) == manifest


def test_what_refers_is_dumped_before_what_it_refers_to(stack: Stack) -> None:
    backup.create(stack.folder)
    steps = ("custom airflow", "custom ledger", "custom mlflow", "s3_mirror.py save")
    assert stack.order(*steps) == list(steps)


def test_a_backup_goes_where_it_is_told(stack: Stack, tmp_path: Path) -> None:
    assert backup.create(stack.folder, tmp_path / "elsewhere").parent == tmp_path / "elsewhere"


@pytest.mark.parametrize("step", ["pg_dump", "save", "server_version"])
def test_a_backup_that_failed_has_no_manifest_and_cannot_be_restored(stack: Stack, step: str) -> None:
    stack.play(fails=[step])
    with pytest.raises(StackError, match="exit code 1"):
        backup.create(stack.folder)
    (left,) = (stack.folder / "backups").iterdir()
    assert not (left / "manifest.json").exists()
    stack.play(fails=[], running=[])
    with pytest.raises(DataError, match=r"has no manifest\.json.*interrupted"):
        backup.restore(stack.folder, left)
    assert stack.asked == []


def test_a_mirror_that_broke_off_is_no_backup(stack: Stack) -> None:
    stack.play(last=[])
    with pytest.raises(StackError, match="broke off"):
        backup.create(stack.folder)


def test_a_backup_needs_the_stores_up(stack: Stack) -> None:
    stack.play(running=["postgres"])
    with pytest.raises(StackError, match=r"s3 must run.*make up"):
        backup.create(stack.folder)
    assert not (stack.folder / "backups").exists()


def test_a_full_disk_is_named(stack: Stack) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))  # the mirror is 10 kB
    try:
        with pytest.raises(StackError, match=r"File too large.*cannot be restored"):
            backup.create(stack.folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _append(source: Path) -> None:
    with (source / "mlflow.dump").open("ab") as file:
        file.write(b"x")


def _flip(source: Path) -> None:
    content = (source / "buckets.tar").read_bytes()
    (source / "buckets.tar").write_bytes(bytes([content[0] ^ 1]) + content[1:])


def _format(source: Path) -> None:
    manifest = json.loads((source / "manifest.json").read_text())
    (source / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))


def _less(source: Path) -> None:
    manifest = json.loads((source / "manifest.json").read_text())
    del manifest["files"]["buckets.tar"]
    (source / "manifest.json").write_text(json.dumps(manifest))


ALTERED = {
    "a longer dump": (_append, r"mlflow\.dump is not what was written"),
    "one other bit": (_flip, r"buckets\.tar is not what was written"),
    "a missing file": (lambda source: (source / "airflow.dump").unlink(), r"airflow\.dump is missing"),
    "no manifest": (lambda source: (source / "manifest.json").unlink(), "interrupted"),
    "a manifest that is no JSON": (lambda source: (source / "manifest.json").write_text("{"), "was altered"),
    "a manifest of another shape": (lambda source: (source / "manifest.json").write_text("[]"), "was altered"),
    "a manifest that forgets a file": (_less, r"does not name buckets\.tar"),
    "a format of the future": (_format, "has format 2"),
}


@pytest.mark.parametrize(("alter", "message"), ALTERED.values(), ids=ALTERED)
def test_a_restore_of_an_altered_backup_touches_nothing(stack: Stack, made: Path, alter: Any, message: str) -> None:
    alter(made)
    with pytest.raises(DataError, match=message):
        backup.restore(stack.folder, made)
    assert stack.asked == []


def test_a_restore_refuses_a_stack_that_runs(stack: Stack, made: Path) -> None:
    stack.play(running=["postgres", "mlflow", "airflow-scheduler"])
    with pytest.raises(StackError, match="still running: airflow-scheduler, mlflow; `make down` first"):
        backup.restore(stack.folder, made)
    assert [asked for asked, _, _ in stack.asked] == ["ps --status running --services"]


FULL = {
    "a table": ({"answers": {"pg_database": "mlflow", "pg_tables": "3"}}, "has data: database mlflow"),
    "an object": ({"versions": {"models": 1}}, "has data: bucket models"),
}


@pytest.mark.parametrize(("held", "message"), FULL.values(), ids=FULL)
def test_a_restore_refuses_a_stack_that_has_data(stack: Stack, made: Path, held: dict[str, Any], message: str) -> None:
    stack.play(**held)
    with pytest.raises(StackError, match=message):
        backup.restore(stack.folder, made)
    assert stack.order("pg_restore", "s3_mirror.py load", "-T postgres-setup") == []


def test_a_restore_fills_the_buckets_first_and_migrates_last(stack: Stack, made: Path) -> None:
    backup.restore(stack.folder, made)
    steps = (
        "-T postgres-setup",
        "s3_mirror.py load",
        "--dbname airflow --role airflow",
        "--dbname ledger --role ledger",
        "--dbname mlflow --role mlflow",
        "-T mlflow-setup",
        "-T airflow-setup",
        "rotate-fernet-key",
    )
    assert stack.order(*steps) == list(steps)
    read = {asked: size for asked, size, _ in stack.asked if size}
    assert sorted(read.values()) == sorted(
        (made / name).stat().st_size for name in ("airflow.dump", "ledger.dump", "mlflow.dump", "buckets.tar")
    )


def test_a_store_that_hung_at_its_first_start_is_waited_for_once_more(stack: Stack, made: Path) -> None:
    up = "up --detach --wait postgres s3"
    stack.play(**{"fails once": [up]})
    backup.restore(stack.folder, made)
    assert stack.order(up, "-T mlflow-setup") == [up, up, "-T mlflow-setup"]
    stack.play(fails=[up])
    with pytest.raises(StackError, match="ended with exit code 1"):
        backup.restore(stack.folder, made)


def test_what_airflow_stores_is_read_with_the_backups_key_and_written_with_this_hosts(
    stack: Stack, made: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "docker-compose.yaml").touch()
    here = initialise(other)[0][FERNET]
    backup.restore(other, made)
    words, _, keys = stack.asked[-1]
    assert keys == f"{here},{(made / 'airflow-fernet.key').read_text()}"
    assert here not in words, "a key in a command line can be read by everybody on the host"


def test_a_host_without_docker_is_told_so(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(stack.folder))
    with pytest.raises(ConfigurationError, match="no docker on the PATH"):
        backup.create(stack.folder)


def test_a_folder_without_a_compose_file_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has no docker-compose\.yaml"):
        backup.create(tmp_path)


def test_the_command_prints_the_new_folder_alone_and_an_error_in_one_line(
    stack: Stack, capfd: pytest.CaptureFixture[str]
) -> None:
    assert backup.main(["--folder", str(stack.folder), "create"]) == 0
    source = Path(capfd.readouterr().out.strip())
    assert backup.main(["verify", str(source)]) == 0
    _append(source)
    assert backup.main(["verify", str(source)]) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("DataError: ")


# --- the mirror, against a real S3 server ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mirror() -> Iterator[ModuleType]:
    yield script(SETUP / "s3_mirror.py")
    sys.modules.pop("s3", None)


@pytest.fixture
def s3(moto: str, mirror: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store with empty buckets."""
    monkeypatch.setenv("S3_ENDPOINT", moto)
    empty_moto(moto)
    client = mirror.connect("a", "b")
    empty(client, mirror)
    return client


def empty(client: Any, mirror: ModuleType) -> None:
    for bucket in mirror.BUCKETS:
        if bucket not in [known["Name"] for known in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=bucket)
        for key in list(mirror.objects(client, bucket)):
            client.delete_object(Bucket=bucket, Key=key)


OBJECTS = {
    "raw": b"a file",
    "raw/below": b"and a folder of the same name",
    "folder/": b"",
    "ünï code/é+&?.json": b"{}",
    "x" * 300: b"longer than a name in a tar",
    "../up": b"leads out of a folder",
    "big": bytes(range(256)) * 4096,
}


def filled(s3: Any, mirror: ModuleType) -> bytes:
    """The stream of a store that was filled."""
    for key, content in OBJECTS.items():
        s3.put_object(Bucket="pump-data", Key=key, Body=content, ContentType="text/html", Metadata={"who": "me"})
    s3.put_object(Bucket="models", Key="raw", Body=b"another")
    out = io.BytesIO()
    mirror.save(s3, out)
    return out.getvalue()


def test_every_object_comes_back_with_its_type_and_metadata(
    s3: Any, mirror: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PART", 1000)
    stream = filled(s3, mirror)
    empty(s3, mirror)
    mirror.load(s3, io.BytesIO(stream))
    assert set(mirror.objects(s3, "pump-data")) == set(OBJECTS)
    for key, content in OBJECTS.items():
        found = s3.get_object(Bucket="pump-data", Key=key)
        assert found["Body"].read() == content, key
        assert (found["ContentType"], found["Metadata"]) == ("text/html", {"who": "me"})
    assert s3.get_object(Bucket="models", Key="raw")["Body"].read() == b"another"


@pytest.mark.parametrize("versioning", [True, False], ids=["with versions", "without versions"])
def test_an_object_that_is_written_over_meanwhile_is_saved_as_it_was_or_not_at_all(
    s3: Any, mirror: ModuleType, monkeypatch: pytest.MonkeyPatch, versioning: bool
) -> None:
    monkeypatch.setattr(mirror, "PART", 4)
    if versioning:
        s3.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket="models", Key="a", Body=b"as it was")
    parts = mirror.Parts(s3, "models", "a")
    begun = parts.read(3)
    s3.put_object(Bucket="models", Key="a", Body=b"different")
    if versioning:
        assert begun + parts.read(100) == b"as it was"
    else:
        with pytest.raises(ClientError, match="PreconditionFailed"):
            parts.read(100)


def test_the_summary_counts_what_was_mirrored(s3: Any, mirror: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "buckets.tar").write_bytes(filled(s3, mirror))
    size = sum(map(len, OBJECTS.values()))
    assert backup._summary(tmp_path / "buckets.tar") == {
        "pump-data": {"objects": len(OBJECTS), "bytes": size},
        "models": {"objects": 1, "bytes": 7},
    }


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_a_stream_that_ends_early_is_an_error(s3: Any, mirror: ModuleType, kept: float, tmp_path: Path) -> None:
    stream = filled(s3, mirror).rstrip(b"\0")
    cut = stream[: int(len(stream) * kept)]
    with pytest.raises((SystemExit, tarfile.TarError)):
        mirror.load(s3, io.BytesIO(cut))
    (tmp_path / "buckets.tar").write_bytes(cut)
    with pytest.raises(StackError, match="broke off"):
        backup._summary(tmp_path / "buckets.tar")


def test_an_object_that_is_not_what_was_saved_is_named(s3: Any, mirror: ModuleType) -> None:
    stream = filled(s3, mirror).replace(b"and a folder", b"And a folder")
    with pytest.raises(SystemExit, match="not what was saved: raw/below"):
        mirror.load(s3, io.BytesIO(stream))


def test_old_versions_count_as_data(s3: Any, mirror: ModuleType) -> None:
    assert set(mirror.count(s3).values()) == {0}
    s3.put_object(Bucket="models", Key="a", Body=b"x")
    assert mirror.count(s3)["models"] == 1
