"""The buckets as one tar stream: ``save`` writes it to standard output, ``load`` reads it from standard input.

``pump_ml.compose.backup`` runs it in a container with the store owner's keys. An object's bucket, key, type and
metadata stand in the header of its member; the last member, ``objects.json``, has the size and SHA-256 of each. Only
what is current is taken: earlier versions stay behind. ``count`` tells what the buckets hold, as JSON.
"""

import hashlib
import io
import json
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import IO, Any

from botocore.exceptions import BotoCoreError, ClientError
from s3 import BUCKETS, connect, setting

INDEX, FACTS = "objects.json", "PUMP_ML.object"
HEAD = {"ContentType", "ContentEncoding", "Metadata"}
"""What of an object's head is kept."""
PART = 16 * 2**20
"""Bytes that are asked for at once, and held in memory."""
TRIES = 5
CURE = "empty the stack (`docker compose --profile celery down --volumes`) and restore this or an older backup"
EVERY_S = 5.0


class Progress:
    """A line on standard error every few seconds, and one at the end."""

    def __init__(self, what: str) -> None:
        self.what, self.objects, self.bytes, self._next = what, 0, 0, time.monotonic() + EVERY_S

    def step(self, size: int, *, objects: int = 0) -> None:
        """Some bytes more, and perhaps an object."""
        self.bytes, self.objects = self.bytes + size, self.objects + objects
        if time.monotonic() >= self._next:
            self.show()

    def show(self) -> None:
        """Print the line now."""
        self._next = time.monotonic() + EVERY_S
        sys.stderr.write(f"buckets: {self.objects} objects, {self.bytes / 1e6:,.1f} MB {self.what}\n")
        sys.stderr.flush()


class Hashed:
    """A stream that is hashed and counted while it is read; it cannot be wound back."""

    def __init__(self, stream: Any, progress: Progress) -> None:
        self._stream, self._progress = stream, progress
        self._digest, self._size = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        content = bytes(self._stream.read(size))
        self._digest.update(content)
        self._size += len(content)
        self._progress.step(len(content))
        return content

    def entry(self, bucket: str, key: str) -> dict[str, Any]:
        """What the index says of an object that was read to its end."""
        return {"bucket": bucket, "key": key, "size": self._size, "sha256": self._digest.hexdigest()}


class Parts:
    """An object of the store in parts: one that breaks off is asked for again, of the version it was at first."""

    def __init__(self, s3: Any, bucket: str, key: str) -> None:
        self._s3, self._where = s3, {"Bucket": bucket, "Key": key}
        self.head = s3.head_object(**self._where)
        # Written over meanwhile, its old version stays; where versioning is off, its other content is refused.
        same = {"VersionId": self.head["VersionId"]} if "VersionId" in self.head else {"IfMatch": self.head["ETag"]}
        self._where |= same
        self.size, self._at, self._part = int(self.head["ContentLength"]), 0, io.BytesIO()

    def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the end."""
        content = self._part.read(size)
        while len(content) < size and self._at < self.size:
            self._part = io.BytesIO(self._fetch())
            content += self._part.read(size - len(content))
        return content

    def _fetch(self) -> bytes:
        last = min(self._at + PART, self.size) - 1
        part = {**self._where, "Range": f"bytes={self._at}-{last}"}
        for left in reversed(range(TRIES)):
            try:
                content = bytes(self._s3.get_object(**part)["Body"].read())
                break
            except (BotoCoreError, OSError):  # the connection; what the store refuses is a ClientError
                if not left:
                    raise
                time.sleep(1)
        self._at = last + 1
        return content


def objects(s3: Any, bucket: str) -> Iterator[str]:
    """Keys of a bucket."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        yield from (each["Key"] for each in page.get("Contents", ()))


def save(s3: Any, out: IO[bytes]) -> None:
    """Write all buckets."""
    progress, index = Progress("saved"), []
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for bucket in BUCKETS:
            for key in objects(s3, bucket):
                parts = Parts(s3, bucket, key)
                hashed = Hashed(parts, progress)
                member = tarfile.TarInfo(f"{bucket}/{key}")
                member.size, member.mtime = parts.size, int(parts.head["LastModified"].timestamp())
                # The name is for people: tar takes liberties with names, such as a slash at their end.
                facts = {
                    "bucket": bucket,
                    "key": key,
                    "head": {name: parts.head[name] for name in HEAD & parts.head.keys()},
                }
                member.pax_headers = {FACTS: json.dumps(facts)}
                tar.addfile(member, hashed)
                index.append(hashed.entry(bucket, key))
                progress.step(0, objects=1)
        content = json.dumps(index, indent=0).encode()
        member = tarfile.TarInfo(INDEX)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    progress.show()


def load(s3: Any, stream: IO[bytes]) -> None:
    """Fill the buckets, which are there and empty.

    Raises:
        SystemExit: the stream ended early, or an object is not what was saved.
    """
    progress, index, loaded = Progress("loaded"), None, []
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if FACTS not in member.pax_headers:
                index = json.load(content) if content and member.name == INDEX else None
                break
            facts = json.loads(member.pax_headers[FACTS])
            hashed = Hashed(content, progress)
            s3.upload_fileobj(hashed, facts["bucket"], facts["key"], ExtraArgs=facts["head"])
            loaded.append(hashed.entry(facts["bucket"], facts["key"]))
            progress.step(0, objects=1)
    progress.show()
    if index is None:
        raise SystemExit(f"the stream ended before its {INDEX}: it is not whole; {CURE}")
    if wrong := [one["key"] for one, saved in zip(loaded, index, strict=False) if one != saved]:
        raise SystemExit(f"these are not what was saved: {', '.join(wrong)}; {CURE}")
    if len(loaded) != len(index):
        raise SystemExit(f"{len(loaded)} objects were loaded, {len(index)} had been saved; {CURE}")


def count(s3: Any) -> dict[str, int]:
    """Bucket -> how many versions of objects it holds, up to 1000; a bucket that is not there holds none."""
    known = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    held = {bucket: s3.list_object_versions(Bucket=bucket) for bucket in BUCKETS if bucket in known}
    return {
        bucket: len(found.get("Versions", [])) + len(found.get("DeleteMarkers", [])) for bucket, found in held.items()
    }


def main(command: str) -> None:
    """One of the commands, with the keys of the store's owner."""
    s3 = connect(setting("S3_ROOT_USER"), setting("S3_ROOT_PASSWORD"))
    if command == "save":
        save(s3, sys.stdout.buffer)
    elif command == "load":
        load(s3, sys.stdin.buffer)
    else:
        sys.stdout.write(json.dumps(count(s3)) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] not in (["save"], ["load"], ["count"]):
        raise SystemExit(f"given {sys.argv[1:]}, expected one of: save, load, count")
    try:
        main(sys.argv[1])
    except (BotoCoreError, ClientError, OSError, tarfile.TarError) as error:
        raise SystemExit(f"buckets: {type(error).__name__}: {error}") from error
