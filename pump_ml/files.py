"""Files below the data root, in a folder or in a bucket: whole or not at all, and what was written first stays.

The only module that knows the difference. On disk a file is a draft until it is complete, and takes its name in one
step. A bucket takes an object whole in one PUT; a rename there would be a copy and a deletion.

A call to S3 gives up when the AWS SDK does: ``AWS_RETRY_MODE`` and ``AWS_MAX_ATTEMPTS`` hold, and each attempt has the
timeouts of `pump_ml.settings.BUCKET`. Measured with mode standard and 8 attempts: after 19 to 48 s (median 32, of 9)
where nothing listens, after 517 s where the store takes connections and is silent. The body of an answer that breaks
off is not asked for again here; that is left to the task's next try.
"""

import hashlib
import io
import json
import logging
import mimetypes
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from pump_ml.errors import ConfigurationError, SnapshotError

UPLOAD_S = 600.0
"""A store that stops to take bytes in the middle of an upload is given up after so many seconds, since no timeout of an
attempt runs while bytes are sent."""

for source in ("aiobotocore.credentials", "botocore.configprovider"):  # tell each task where its settings came from
    logging.getLogger(source).setLevel(logging.WARNING)


def exists(path: UPath) -> bool:
    """Whether there is such a file or folder now; another task may have written it a moment ago."""
    with _store(path) as store:
        return bool(store.exists(path.path))


def names(folder: UPath) -> list[str]:
    """Names of what a folder holds, sorted; none where there is no such folder."""
    with _store(folder) as store:
        try:
            found = [Path(each).name for each in store.ls(folder.path, detail=False)]
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise
            found = []
    return sorted(name for name in found if not name.startswith("."))


def read_json(path: UPath) -> Any:
    """Content of a JSON file."""
    return json.loads(_read(path))


def read_parquet(path: UPath, columns: list[str] | None = None, sha256: str | None = None) -> pd.DataFrame:
    """Rows of a Parquet file.

    Args:
        path: where it is.
        columns: to read; None reads all.
        sha256: of the file when it was stored, where that is known.

    Raises:
        SnapshotError: it is not Parquet any more, or another file than was stored.
    """
    content = _read(path)
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise SnapshotError(
            f"{path} was altered after it was stored: its SHA-256 is {found[:12]}…, expected {sha256[:12]}…; "
            "restore the file"
        )
    try:
        return pd.read_parquet(io.BytesIO(content), columns=columns)
    except (ValueError, OSError) as error:  # what pyarrow raises for bytes that it cannot use
        raise SnapshotError(
            f"{path} was altered after it was stored: it is no Parquet file ({error}); restore the file"
        ) from error


def read_bytes(path: UPath) -> bytes:
    """Content of a file."""
    return _read(path)


def read_table(path: UPath) -> pa.Table:
    """A Parquet file as Arrow's table, whose nested columns pandas would take apart.

    Raises:
        SnapshotError: it is not Parquet any more.
    """
    try:
        return pq.read_table(pa.BufferReader(_read(path)))
    except (ValueError, OSError) as error:
        raise SnapshotError(
            f"{path} was altered after it was stored: it is no Parquet file ({error}); restore the file"
        ) from error


def write_bytes(path: UPath, content: bytes, *, once: bool) -> None:
    """Write a whole file; with `once` what was written first stays, else a reader meets the former or the new one."""
    _write(path, content, once=once)


def write_once(path: UPath, content: Any) -> None:
    """Write JSON, unless the file is there already: what was written first stays, however many write at once."""
    _write(path, _json(content), once=True)


def write_json(path: UPath, content: Any) -> None:
    """Write JSON in the place of what is there; a reader never meets half a file."""
    _write(path, _json(content), once=False)


def write_parquet(path: UPath, frame: pd.DataFrame) -> None:
    """Write rows; a reader, and a second writer of the same rows, never meet half a file."""
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    _write(path, content.getvalue(), once=False)


def write_stream(path: UPath, write: Callable[[BinaryIO], None]) -> None:
    """Write a file piece by piece; a reader, and a second writer of the same bytes, never meet half of it.

    Args:
        path: where to.
        write: writes all of it to the open file that it is given.
    """
    if "file" in path.fs.protocol:
        with _store(path), _draft(Path(path.path)) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path.path)
        return
    with tempfile.TemporaryFile() as file:
        write(file)
        file.seek(0)
        _write(path, file.read(), once=False)


def publish(folder: Path, target: UPath, *, last: str) -> None:
    """Copy a folder's files; `last` is the one that says that all the others are there."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in sorted(found, key=lambda path: path == folder / last):
        _write(target.joinpath(*path.relative_to(folder).parts), path.read_bytes(), once=True)


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True, default=str).encode()


def _read(path: UPath) -> bytes:
    with _store(path) as store:
        return bytes(store.cat_file(path.path))


def _write(path: UPath, content: bytes, *, once: bool) -> None:
    """Write a whole file; with `once` only if there is none."""
    with _store(path) as store:
        if "file" in store.protocol:
            _write_on_disk(Path(path.path), content, once=once)
            return
        if once and store.exists(path.path):  # asked here too, since Ceph does not look in a bucket with versions
            return
        try:
            store.pipe_file(
                path.path,
                content,
                mode="create" if once else "overwrite",
                ContentType=mimetypes.guess_type(path.name)[0] or "application/octet-stream",  # so a browser shows it
                timeout=UPLOAD_S,
            )
        except OSError:  # stores refuse to replace in their own words; what counts is that the file is there
            if not (once and store.exists(path.path)):
                raise


def _write_on_disk(path: Path, content: bytes, *, once: bool) -> None:
    with _draft(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # the manifest must not outlive a power cut that its rows do not
        if once:
            with suppress(FileExistsError):
                path.hardlink_to(file.name)
        else:
            Path(file.name).replace(path)


@contextmanager
def _draft(path: Path) -> Iterator[BinaryIO]:
    """A new file beside the one that it is to become; what is left of it at the end goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as file:
            yield file
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _store(path: UPath) -> Iterator[Any]:
    """The file system of a path.

    Raises:
        ConfigurationError: in the block, the store refused the deployment's keys, or has no such bucket.
    """
    store = path.fs
    try:
        if "s3" in store.protocol:
            _bound(store)
        yield store
    except Exception as error:
        if cure := _cure(error):
            raise ConfigurationError(f"{path} cannot be used: {error.__cause__ or error}; {cure}") from error
        error.add_note(f"with {path}")
        raise


def _bound(store: Any) -> None:
    """See to it that each call to S3 ends: after the SDK's attempts, each of them with its timeouts."""
    from botocore.handlers import add_expect_header

    store.retries = 1  # s3fs would repeat the SDK's attempts five times, where a store is silent
    # A PUT would ask for leave to send, and aiohttp waits for that without a timeout.
    store.s3.meta.events.unregister("before-call.s3", add_expect_header)


def _cure(error: Exception) -> str | None:
    """What to do where another try cannot help."""
    if _code(error) == "NoSuchBucket":
        return "make the bucket, or correct PUMP_ML_DATA_ROOT"
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return (
            "expected a place that may be listed, read and written; check its rights, and for a bucket "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL_S3"
        )
    return None


def _code(error: BaseException) -> str:
    """What a store calls the error, such as ``"NoSuchBucket"``; empty for another kind."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
