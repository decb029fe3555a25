"""Names of model files, what a bucket or a folder promises, and which pickles are read."""

import base64
import hashlib
import os
import pickle
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from botocore.exceptions import ClientError
from conftest import answering, use_bucket
from sklearn.preprocessing import MinMaxScaler

from pump_ml import artifacts
from pump_ml.errors import ConfigurationError, ModelFileError, UnknownNameError
from pump_ml.object_store import Bucket, Content, Store

MOMENT = datetime(2026, 11, 22, 10, 15, 3, tzinfo=UTC)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(params=["folder", "bucket", "bucket with prefix"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param != "folder":
        request.getfixturevalue("s3")
    if request.param == "bucket with prefix":
        monkeypatch.setenv("PUMP_ML_ARTIFACT_ROOT", "s3://models/plant/ml")
    return artifacts.store()


# Names


def test_files_are_called_as_the_plants_systems_expect_them() -> None:
    assert artifacts.names("gru", "P-101", MOMENT) == {
        "weights": "gru_model_weights_P-101_2026_11_22_10_15_03.h5",
        "scaler": "gru_model_scaler_P-101_2026_11_22_10_15_03.pkl",
        "network": "gru_model_P-101_2026_11_22_10_15_03.keras",
        "scaling": "gru_model_scaler_P-101_2026_11_22_10_15_03.json",
    }
    assert artifacts.names("xgb", "P-101", MOMENT) == {
        "model": "xgb_model_P-101_2026_11_22_10_15_03.pkl",
        "booster": "xgb_model_P-101_2026_11_22_10_15_03.ubj",
        "about": "xgb_model_P-101_2026_11_22_10_15_03.json",
    }


def test_each_pickle_has_a_safe_format_beside_it() -> None:
    for kind, roles in artifacts.SAFE.items():
        assert set(roles) < set(artifacts.roles(kind))
        assert not [role for role in roles if artifacts.NAMES[kind][role].endswith((".pkl", ".h5"))]


def test_a_kind_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(UnknownNameError, match="unknown kind of model 'gur'; known: gru, xgb"):
        artifacts.roles("gur")


@pytest.mark.parametrize("name", ["P-101", "ITU_693_Motor", "pump.7", "a" * 64])
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert artifacts.safe_name(name) == name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("Bomba 7", r"Bomba_7__[0-9a-f]{12}"),
        ("../../etc/passwd", r"etc_passwd__[0-9a-f]{12}"),
        ("P__1", r"P_1__[0-9a-f]{12}"),
        ("..", r"__[0-9a-f]{12}"),
        ("pompă\n", r"pomp__[0-9a-f]{12}"),
        ("a" * 65, r"a{64}__[0-9a-f]{12}"),
    ],
)
def test_any_other_name_is_made_safe_and_gets_digits_of_its_own(name: str, safe: str) -> None:
    made = artifacts.safe_name(name)
    assert len(made) <= 78
    assert re.fullmatch(safe, made)
    assert artifacts.safe_name(made) != made, "nobody else may be called so"


def test_machines_whose_names_look_alike_get_keys_of_their_own() -> None:
    names = ["P 1", "P/1", "P_1", "P:1", " P 1", "P\t1", artifacts.safe_name("P 1")]
    assert len({artifacts.safe_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_machine_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a name"):
        artifacts.safe_name(name)


@pytest.mark.parametrize(
    ("root", "address"),
    [
        ("s3://models", "s3://models/a"),
        ("s3://models/", "s3://models/a"),
        ("s3://plant/ml", "s3://plant/ml/models/a"),
        ("s3://models/ml", "s3://models/ml/models/a"),
        ("/srv/files", "/srv/files/models/a"),
    ],
)
def test_files_lie_in_models_unless_the_bucket_is_called_so(
    root: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMP_ML_ARTIFACT_ROOT", root)
    store = artifacts.store()
    assert store.address(f"{artifacts.models_folder(store)}a") == address


def test_unset_files_lie_under_var(home: Path) -> None:
    assert artifacts.store().address("models/a") == str(home.resolve() / "artifacts" / "models" / "a")


def test_a_root_that_is_neither_folder_nor_bucket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUMP_ML_ARTIFACT_ROOT", "gs://models")
    with pytest.raises(ConfigurationError, match="expected a folder or s3://BUCKET"):
        artifacts.store()


# Stores


def test_what_was_written_is_read_and_listed(store: Store) -> None:
    assert (store.read("models/a"), store.has("models/a"), store.sizes("models/")) == (None, False, {})
    store.put("models/a", b"one")
    store.put("outbox/b", b"")
    found = store.read("models/a")
    assert found is not None
    assert (found.content, store.has("models/a")) == (b"one", True)
    assert (store.sizes("models/"), store.sizes("outbox/")) == ({"models/a": 3}, {"outbox/b": 0})


def test_a_file_is_never_replaced_but_may_be_written_again(store: Store) -> None:
    store.put("models/a", b"one")
    store.put("models/a", b"one")
    with pytest.raises(ModelFileError, match=r"holds other bytes than were to be written"):
        store.put("models/a", b"two")
    assert store.read("models/a").content == b"one"


def test_a_slot_is_replaced_by_who_saw_what_is_in_it(store: Store) -> None:
    one = store.swap("outbox/s", b"one", store.read("outbox/s"))
    assert one == store.read("outbox/s")
    store.swap("outbox/s", b"two", one)
    assert store.read("outbox/s").content == b"two"


@pytest.mark.parametrize("seen", [None, Content(b"old", '"0123456789abcdef0123456789abcdef"')])
def test_in_a_bucket_who_lost_the_lock_replaces_nothing(s3: Any, seen: Content | None) -> None:
    s3.put_object(Bucket="models", Key="outbox/s", Body=b"another's")
    with pytest.raises(ConnectionError, match="written by another process meanwhile; try again"):
        artifacts.store().swap("outbox/s", b"mine", seen)
    assert s3.get_object(Bucket="models", Key="outbox/s")["Body"].read() == b"another's"


@pytest.fixture
def ceph(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store that refuses every `IfMatch` and takes every `IfNoneMatch` for met: Ceph 18, a bucket with versions."""
    client = artifacts.store().client  # type: ignore[attr-defined]
    real = client.put_object

    def put_object(IfMatch: str | None = None, IfNoneMatch: str | None = None, **asked: Any) -> Any:  # noqa: N803
        del IfNoneMatch
        if IfMatch:
            raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")
        return real(**asked)

    monkeypatch.setattr(client, "put_object", put_object)
    monkeypatch.setattr(Bucket, "client", client)
    return s3


def test_a_store_that_cannot_compare_is_written_all_the_same(ceph: Any) -> None:
    one = artifacts.store().swap("outbox/s", b"one", None)
    two = artifacts.store().swap("outbox/s", b"two", one)
    assert artifacts.store().read("outbox/s") == two
    for seen in (None, one):
        with pytest.raises(ConnectionError, match="written by another process meanwhile; try again"):
            artifacts.store().swap("outbox/s", b"late", seen)
    assert ceph.get_object(Bucket="models", Key="outbox/s")["Body"].read() == b"two"


@pytest.mark.parametrize("there", [None, b"old"], ids=["empty", "filled"])
def test_in_a_bucket_who_is_overtaken_between_look_and_write_replaces_nothing(
    s3: Any, there: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = None if there is None else artifacts.store().swap("outbox/s", there, None)
    client = artifacts.store().client  # type: ignore[attr-defined]
    real = client.put_object

    def overtaken(**asked: Any) -> Any:
        s3.put_object(Bucket="models", Key="outbox/s", Body=b"another's")
        return real(**asked)

    monkeypatch.setattr(client, "put_object", overtaken)
    monkeypatch.setattr(Bucket, "client", client)
    with pytest.raises(ConnectionError, match="written by another process meanwhile; try again"):
        artifacts.store().swap("outbox/s", b"mine", seen)
    assert s3.get_object(Bucket="models", Key="outbox/s")["Body"].read() == b"another's"


def test_a_bucket_keeps_the_sha_256_of_each_file(s3: Any) -> None:
    artifacts.store().put("a", b"one")
    found = s3.get_object_attributes(Bucket="models", Key="a", ObjectAttributes=["Checksum"])["Checksum"]
    assert bytes.fromhex(sha256(b"one")) == base64.b64decode(found["ChecksumSHA256"])


def test_more_files_than_a_page_holds_are_all_listed(s3: Any) -> None:
    for number in range(1001):
        s3.put_object(Bucket="models", Key=f"outbox/{number:04}", Body=b"x")
    assert len(artifacts.store().sizes("outbox/")) == 1001


def test_a_bucket_that_is_not_there_is_an_error_with_a_cure(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket="models", Key="a", Body=b"one")
    monkeypatch.setenv("PUMP_ML_ARTIFACT_ROOT", "s3://modells")
    for ask in (lambda s: s.read("a"), lambda s: s.put("a", b""), lambda s: s.sizes("models/")):
        with pytest.raises(ConfigurationError, match="check PUMP_ML_ARTIFACT_ROOT"):
            ask(artifacts.store())


def test_a_store_that_is_overloaded_is_worth_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(503) as address:
        use_bucket(monkeypatch, address)
        with pytest.raises(Exception, match="reached max retries") as failed:
            artifacts.store().put("a", b"one")
    assert not isinstance(failed.value, ConfigurationError)


# Pickles


@pytest.fixture(scope="module")
def arrays() -> tuple[Any, Any]:
    rng = np.random.default_rng(7)
    x = rng.random((60, 3))
    return x, (x[:, 0] > 0.5).astype(int)


def test_a_recorded_scaler_is_read(arrays: tuple[Any, Any]) -> None:
    content = pickle.dumps(MinMaxScaler().fit(arrays[0]))
    read = artifacts.load_pickle(content, sha256(content), artifacts.SCALER)
    assert np.array_equal(read.transform(arrays[0]), pickle.loads(content).transform(arrays[0]))  # noqa: S301


@pytest.mark.parametrize("kind", ["classifier", "booster"])
def test_a_recorded_gradient_boosted_model_is_read(kind: str, arrays: tuple[Any, Any]) -> None:
    x, y = arrays
    model = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(x, y)
    content = pickle.dumps(model if kind == "classifier" else model.get_booster())
    read = artifacts.load_pickle(content, sha256(content), artifacts.BOOSTER)
    booster = read.get_booster() if kind == "classifier" else read
    assert np.array_equal(booster.predict(xgboost.DMatrix(x)), model.get_booster().predict(xgboost.DMatrix(x)))


def test_a_pickle_whose_sha_256_is_not_the_recorded_one_is_not_read(arrays: tuple[Any, Any]) -> None:
    content = pickle.dumps(MinMaxScaler().fit(arrays[0]))
    with pytest.raises(ModelFileError, match=r"not the file that was recorded: its SHA-256 is .*expected 0{12}"):
        artifacts.load_pickle(content, "0" * 64, artifacts.SCALER)


class Hostile:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("allowed", [artifacts.SCALER, artifacts.BOOSTER], ids=["scaler", "booster"])
@pytest.mark.parametrize("call", [os.system, eval, getattr, np.load, pickle.loads], ids=lambda call: call.__name__)
def test_a_hostile_pickle_runs_nothing_even_where_its_sha_256_was_recorded(
    call: Any, allowed: Any, tmp_path: Path
) -> None:
    file = tmp_path / "was run"
    content = pickle.dumps(Hostile(call, f"touch {file}"))
    with pytest.raises(ModelFileError, match=r"which is not on its list .* nothing of it was run"):
        artifacts.load_pickle(content, sha256(content), allowed)
    assert not file.exists()


def test_what_an_allowed_module_holds_is_not_allowed_by_that() -> None:
    content = b"\x80\x04\x8c\x05numpy\x8c\x10core.multiarray.\x93."
    with pytest.raises(ModelFileError, match="not on its list"):
        artifacts.load_pickle(content, sha256(content), artifacts.SCALER)


@pytest.mark.parametrize("content", [b"", b"weights", b"\x80\x04"], ids=["empty", "text", "cut off"])
def test_what_is_no_pickle_is_an_error_that_says_so(content: bytes) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        artifacts.load_pickle(content, sha256(content), artifacts.SCALER)
