"""Files in a folder or in a bucket by boto3: whole or not at all, and what was written first stays.

On disk `pump_ml.files` sees to that. A bucket takes an object whole in one PUT, and compares it with its SHA-256. There
``AWS_RETRY_MODE`` and ``AWS_MAX_ATTEMPTS`` hold, and each attempt has the timeouts of `pump_ml.settings.BUCKET`.
Nothing is ever deleted.
"""

import base64
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from upath import UPath

from pump_ml import files
from pump_ml.errors import ConfigurationError, ModelFileError
from pump_ml.settings import BUCKET

THERE = ("PreconditionFailed", "ConditionalRequestConflict")
"""What a store calls it that a key is taken, or is just being taken."""
REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket")
"""What no other try heals."""


@dataclass(frozen=True)
class Content:
    """What lies under a key, and the store's mark of it, which changes with it."""

    content: bytes
    mark: str


class Store(Protocol):
    """A folder or a bucket of files, each there whole or not at all."""

    def read(self, key: str) -> Content | None:
        """What lies under a key; None where there is nothing."""

    def has(self, key: str) -> bool:
        """Whether something lies there."""

    def put(self, key: str, content: bytes) -> None:
        """Write what is not there yet; the same bytes again change nothing.

        Raises:
            ModelFileError: other bytes lie under this key.
        """

    def swap(self, key: str, content: bytes, seen: Content | None) -> Content:
        """Write in the place of what `read` showed, and return what lies there now; hold a lock around both.

        Raises:
            ConnectionError: something else lies there by now, since the lock was lost meanwhile; worth a retry.
        """

    def sizes(self, folder: str) -> dict[str, int]:
        """Key -> bytes of each file in a folder such as ``models/``, without those below it."""

    def address(self, key: str) -> str:
        """Where a file lies, for people and for other programs."""


@dataclass(frozen=True)
class Folder:
    """A folder; a file takes its name when it is complete."""

    root: Path

    def read(self, key: str) -> Content | None:
        """See `Store`."""
        try:
            content = files.read_bytes(UPath(self.root / key))
        except FileNotFoundError:
            return None
        return Content(content, hashlib.sha256(content).hexdigest())

    def has(self, key: str) -> bool:
        """See `Store`."""
        return (self.root / key).exists()

    def put(self, key: str, content: bytes) -> None:
        """See `Store`."""
        files.write_bytes(UPath(self.root / key), content, once=True)
        _same(self, key, content)

    def swap(self, key: str, content: bytes, seen: Content | None) -> Content:
        """See `Store`; a lock on a file is not lost, so nothing is compared."""
        del seen
        files.write_bytes(UPath(self.root / key), content, once=False)
        return Content(content, hashlib.sha256(content).hexdigest())

    def sizes(self, folder: str) -> dict[str, int]:
        """See `Store`."""
        found = [path for path in sorted((self.root / folder).glob("[!.]*")) if path.is_file()]
        return {f"{folder}{path.name}": path.stat().st_size for path in found}

    def address(self, key: str) -> str:
        """See `Store`."""
        return str(self.root / key)


@dataclass(frozen=True)
class Bucket:
    """A bucket, or the part of it below a prefix."""

    bucket: str
    prefix: str

    @cached_property
    def client(self) -> Any:
        """A client of S3, with the environment's keys and address."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise ConfigurationError(
                f"s3://{self.bucket} is to be used, and boto3 is not installed: pip install 'pump-ml[stack]'"
            ) from error
        return boto3.session.Session().client("s3", config=Config(**BUCKET["config_kwargs"]))

    def read(self, key: str) -> Content | None:
        """See `Store`."""
        answer = self._ask("get_object", "NoSuchKey", Key=self._key(key))
        return answer and Content(answer["Body"].read(), answer["ETag"])

    def has(self, key: str) -> bool:
        """See `Store`."""
        return self._ask("head_object", "404", Key=self._key(key)) is not None

    def put(self, key: str, content: bytes) -> None:
        """See `Store`; asked first too, since Ceph does not look in a bucket with versions."""
        if self.has(key) or not self._write(key, content, *THERE, IfNoneMatch="*"):
            _same(self, key, content)

    def swap(self, key: str, content: bytes, seen: Content | None) -> Content:
        """See `Store`.

        In a bucket with versions Ceph refuses every `IfMatch` and takes every `IfNoneMatch` for met. So it is looked
        first, and a refusal though nothing changed is the store's: then the lock alone has to do. Any store is then
        written without a comparison, so one that lost its lock may meet another writer in that moment.
        """
        if self._changed(key, seen):
            raise ConnectionError(f"{self.address(key)} was written by another process meanwhile; try again")
        condition = {"IfMatch": seen.mark} if seen else {"IfNoneMatch": "*"}
        mark = self._write(key, content, "PreconditionFailed", **condition)  # another's write in flight raises
        if mark is None and seen and not self._changed(key, seen):
            mark = self._write(key, content)
        if mark is None:
            raise ConnectionError(f"{self.address(key)} was written by another process meanwhile; try again")
        return Content(content, mark)

    def _changed(self, key: str, seen: Content | None) -> bool:
        """Whether something else lies there than was seen."""
        found = self._ask("head_object", "404", Key=self._key(key))
        return bool((found and found["ETag"]) != (seen and seen.mark))

    def sizes(self, folder: str) -> dict[str, int]:
        """See `Store`."""
        sizes: dict[str, int] = {}
        more: dict[str, str] = {}
        while True:
            page = self._ask("list_objects_v2", Prefix=self._key(folder), Delimiter="/", **more)
            sizes |= {f"{folder}{each['Key'].rpartition('/')[2]}": each["Size"] for each in page.get("Contents", [])}
            if not page.get("IsTruncated"):
                return sizes
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def address(self, key: str) -> str:
        """See `Store`."""
        return f"s3://{self.bucket}/{self._key(key)}"

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _write(self, key: str, content: bytes, *refusals: str, **condition: str) -> str | None:
        """Write under a condition; the object's mark, or None when the store refuses by one of these errors."""
        checksum = base64.b64encode(hashlib.sha256(content).digest()).decode()
        put = {"Key": self._key(key), "Body": content, "ChecksumAlgorithm": "SHA256", "ChecksumSHA256": checksum}
        written = self._ask("put_object", *refusals, "NoSuchKey", **put, **condition)
        return written and str(written["ETag"])

    def _ask(self, call: str, *expected: str, **arguments: Any) -> Any:
        """What the store answers; None for an error that is expected."""
        from botocore.exceptions import ClientError, NoCredentialsError

        try:
            return getattr(self.client, call)(Bucket=self.bucket, **arguments)
        except (ClientError, NoCredentialsError) as error:
            code = error.response["Error"]["Code"] if isinstance(error, ClientError) else "AccessDenied"
            if code in expected:
                return None
            error.add_note(f"with s3://{self.bucket}/{arguments.get('Key', '')}")
            if code in REFUSED:
                raise ConfigurationError(
                    f"s3://{self.bucket} cannot be used: {error}; expected a bucket that is there and may be listed, "
                    "read and written: check PUMP_ML_ARTIFACT_ROOT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
                    "AWS_ENDPOINT_URL_S3"
                ) from error
            raise


def _same(store: Store, key: str, content: bytes) -> None:
    """See that a key holds what was to be written there."""
    found = store.read(key)
    if found is None or found.content != content:
        raise ModelFileError(
            f"{store.address(key)} holds other bytes than were to be written there ({len(content)} bytes); files are "
            "never overwritten. Find out who wrote it; `pump-ml reconcile` says whether a model of the table has it"
        )
