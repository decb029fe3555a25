"""Users of the object store. MinIO's admin API is played by a small server that decrypts and answers as MinIO does: no
MinIO could be had for these tests. On Ceph all of it runs for real in tests/stack."""

import json
import re
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from conftest import empty_moto, script
from minio.crypto import decrypt, encrypt

SCRIPT = Path(__file__).parent.parent / "deploy" / "setup" / "s3.py"
ROOT = ("ROOTUSER", "the-root-password")
ENVIRONMENT = {
    "S3_ROOT_USER": ROOT[0],
    "S3_ROOT_PASSWORD": ROOT[1],
    "S3_MLFLOW_ACCESS_KEY": "MLFLOWKEY",
    "S3_MLFLOW_SECRET_KEY": "mlflow-secret",
    "S3_PUMP_ML_ACCESS_KEY": "PUMPMLKEY",
    "S3_PUMP_ML_SECRET_KEY": "pump-ml-secret",
}
POLICY = "pump-ml-client-mlflow"


class Store:
    """What a MinIO keeps of users and policies, and the changes that were asked of it."""

    def __init__(self) -> None:
        self.users: dict[str, dict[str, Any]] = {}
        self.policies: dict[str, Any] = {}
        self.changes: list[str] = []
        self.has_admin_api = True


class Handler(BaseHTTPRequestHandler):
    """The six admin calls that are used, and ListBuckets, whose signature is checked."""

    store: Store

    def _answer(self) -> None:
        address = urlsplit(self.path)
        query = dict(parse_qsl(address.query))
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        call = address.path.removeprefix("/minio/admin/v3/")
        if call == address.path:
            self._list_buckets()
        elif not self.store.has_admin_api:
            self._reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._admin(call, query, body)

    do_GET = do_PUT = do_POST = _answer  # noqa: N815 - names of http.server

    def _admin(self, call: str, query: dict[str, str], body: bytes) -> None:
        users = self.store.users
        if call == "list-users":
            known = {
                name: {"status": user["status"], **({"policyName": user["policy"]} if user["policy"] else {})}
                for name, user in users.items()
            }
            return self._reply(200, encrypt(json.dumps(known).encode(), ROOT[1]))
        self.store.changes.append(call)
        if call == "add-user":
            asked = json.loads(_plain(body))
            old = users.get(query["accessKey"], {"policy": ""})
            users[query["accessKey"]] = old | {"secret": asked["secretKey"], "status": asked["status"]}
        elif call == "add-canned-policy":
            self.store.policies[query["name"]] = json.loads(body)
        elif call == "idp/builtin/policy/attach":
            asked = json.loads(_plain(body))
            assert asked["policies"][0] in self.store.policies
            if users[asked["user"]]["policy"] == asked["policies"][0]:
                return self._reply(400, b'{"Code":"XMinioAdminPolicyChangeAlreadyApplied"}')
            users[asked["user"]]["policy"] = asked["policies"][0]
            return self._reply(200, encrypt(b"{}", ROOT[1]))
        elif call == "set-user-status":
            users[query["accessKey"]]["status"] = query["status"]
        else:
            return self._reply(404, b"")
        return self._reply(200, b"")

    def _list_buckets(self) -> None:
        found = re.search(
            r"Credential=([^/]+)/.*SignedHeaders=([^,]+), *Signature=(\w+)", self.headers["authorization"]
        )
        assert found
        access, signed, signature = found.groups()
        if access not in self.store.users:
            return self._reply(403, b"<Error><Code>InvalidAccessKeyId</Code></Error>")
        request = AWSRequest(
            self.command,
            f"http://{self.headers['host']}{self.path}",
            headers={name: self.headers[name] for name in signed.split(";")},
        )
        request.context["timestamp"] = self.headers["x-amz-date"]
        signer = S3SigV4Auth(Credentials(access, self.store.users[access]["secret"]), "s3", "us-east-1")
        if signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request) != signature:
            return self._reply(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        return self._reply(200, b"<ListAllMyBucketsResult><Owner><ID>x</ID></Owner></ListAllMyBucketsResult>")

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Stream(BytesIO):
    """Bytes in the shape of a response, for minio.crypto."""

    def release_conn(self) -> None:
        """Nothing to give back."""


def _plain(body: bytes) -> bytes:
    return bytes(decrypt(Stream(body), ROOT[1]))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    kept = Store()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"store": kept}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("S3_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def s3() -> ModuleType:
    return script(SCRIPT)


def set_users(s3: ModuleType) -> None:
    for client in s3.CLIENTS:
        s3.set_minio_user(s3.minio_admin(), client)


def test_each_client_gets_a_user_and_a_policy_of_its_own_buckets(store: Store, s3: ModuleType) -> None:
    set_users(s3)
    assert store.users["MLFLOWKEY"] == {"secret": "mlflow-secret", "status": "enabled", "policy": POLICY}
    assert store.users["PUMPMLKEY"]["policy"] == "pump-ml-client-pump-ml"
    resources = {arn for statement in store.policies[POLICY]["Statement"] for arn in statement["Resource"]}
    assert resources == {"arn:aws:s3:::mlflow", "arn:aws:s3:::mlflow/*"}


def test_no_client_may_delete_or_change_rights(store: Store, s3: ModuleType) -> None:
    set_users(s3)
    statements = [statement for policy in store.policies.values() for statement in policy["Statement"]]
    actions = {action for statement in statements for action in statement["Action"]}
    assert not [action for action in actions if re.search(r"Delete|Acl|Policy|Versioning|\*", action)]
    assert {statement["Effect"] for statement in statements} == {"Allow"}


def test_a_second_run_changes_no_user(store: Store, s3: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    set_users(s3)
    users = json.dumps(store.users)
    store.changes.clear()
    capsys.readouterr()
    set_users(s3)
    assert json.dumps(store.users) == users
    assert set(store.changes) == {"add-canned-policy"}, "the same policy, put again"
    assert capsys.readouterr().out == "user mlflow: as it was\nuser pump-ml: as it was\n"


def test_a_changed_secret_is_applied(store: Store, s3: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    set_users(s3)
    monkeypatch.setenv("S3_MLFLOW_SECRET_KEY", "another-secret")
    set_users(s3)
    assert store.users["MLFLOWKEY"] == {"secret": "another-secret", "status": "enabled", "policy": POLICY}


def test_a_former_access_key_stops_working_and_is_kept_for_the_record(
    store: Store, s3: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.users["SOMEBODY"] = {"secret": "x", "status": "enabled", "policy": "readonly"}
    set_users(s3)
    monkeypatch.setenv("S3_MLFLOW_ACCESS_KEY", "NEWKEY")
    set_users(s3)
    statuses = {name: user["status"] for name, user in store.users.items()}
    assert statuses == {"SOMEBODY": "enabled", "MLFLOWKEY": "disabled", "PUMPMLKEY": "enabled", "NEWKEY": "enabled"}


def test_a_store_without_the_admin_api_is_not_taken_for_minio(store: Store, s3: ModuleType) -> None:
    store.has_admin_api = False
    assert s3.minio_admin() is None


def test_a_missing_setting_is_named_with_its_cure(s3: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    with pytest.raises(SystemExit, match=r"S3_ENDPOINT is not set.*make init"):
        s3.connect("a", "b")


@pytest.fixture
def lax_store(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real S3 server that lets everybody do everything."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("S3_ENDPOINT", moto)
    empty_moto(moto)


@pytest.mark.usefixtures("lax_store")
def test_buckets_are_made_once_with_versions(s3: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    root = s3.connect(*ROOT)
    s3.wait(root)
    s3.make_bucket(root, "models")
    s3.make_bucket(root, "models")
    assert root.get_bucket_versioning(Bucket="models")["Status"] == "Enabled"
    assert capsys.readouterr().out == "bucket models: made, versioning on\nbucket models: as it was\n"


@pytest.mark.usefixtures("lax_store")
@pytest.mark.parametrize(("of", "folder"), [("CHECKPOINTS", "checkpoints"), ("OUTBOX", "outbox")])
def test_former_versions_of_scratch_end_and_rules_that_somebody_added_stay(
    of: str, folder: str, s3: ModuleType
) -> None:
    root, bucket, rule = s3.connect(*ROOT), {"outbox": s3.MODELS}.get(folder, s3.DATA), getattr(s3, f"{of}_LIFECYCLE")
    s3.make_bucket(root, bucket)
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "raw/"}, "Expiration": {"Days": 900}}
    root.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [theirs]})
    assert s3.add_lifecycle(root, bucket, rule)
    assert not s3.add_lifecycle(root, bucket, rule)
    rules = {rule["ID"]: rule for rule in root.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert set(rules) == {"theirs", folder}
    assert rules[folder]["Filter"] == {"Prefix": f"{folder}/"}
    assert rules[folder]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}


@pytest.mark.usefixtures("lax_store")
def test_a_store_that_lets_clients_do_too_much_ends_the_setup(s3: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "SETTLE_S", 0)
    root = s3.connect(*ROOT)
    for bucket in s3.BUCKETS:
        s3.make_bucket(root, bucket)
    with pytest.raises(SystemExit) as caught:
        s3.verify("mlflow")
    for did in ("listing models: was let in", "deleting in mlflow: was let in", "listing pump-data: was let in"):
        assert did in str(caught.value)


def test_the_script_for_ceph_users_does_nothing_where_there_is_no_ceph(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - fixed words
        ["/bin/sh", str(SCRIPT.with_name("s3-users.sh"))],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "no radosgw-admin" in done.stdout
