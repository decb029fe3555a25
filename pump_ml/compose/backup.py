"""Backups of the full stack, and an empty stack filled from one: databases, buckets, and the key of Airflow's secrets.

A backup is taken while the stack runs. What refers to something is dumped before what it refers to: Airflow, the
ledger, MLflow, and the buckets last. Nothing is ever deleted in a bucket, so every artifact that a dumped run names is
in the backup; what came after the dump is there too, and nobody names it. ``manifest.json`` is written last: a folder
without one is what an interrupted backup left.

Standard library only: the host needs Docker and a bare Python, nothing of this project's environment.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pump_ml import __version__
from pump_ml.compose.environment import COMPOSE_FILE, ENV_FILE, FERNET, in_force
from pump_ml.errors import ConfigurationError, DataError, PumpMLError, StackError

DATABASES = ("airflow", "ledger", "mlflow")
"""In the order in which they are dumped; each belongs to a role of its name."""
BUCKETS, KEY, MANIFEST = "buckets.tar", "airflow-fernet.key", "manifest.json"
FORMAT = 1
STORES = {"postgres", "s3", "redis"}
MIRROR = ("run", "--rm", "--no-deps", "-T", "s3-setup", "python", "/opt/pump_ml/setup/s3_mirror.py")
CHUNK = 2**20
EVERY_S = 5.0

Say = Callable[[str], None]


def say(line: str) -> None:
    """Print a line at once, beside the progress of Docker."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Compose:
    """``docker compose`` in the folder of the compose file, over all profiles.

    Args:
        folder: where docker-compose.yaml and .env are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        if not (self.folder / COMPOSE_FILE).is_file():
            raise ConfigurationError(
                f"{self.folder} has no {COMPOSE_FILE}; run it in the checkout, or say --folder PATH"
            )
        if not shutil.which("docker"):
            raise ConfigurationError("no docker on the PATH; backups are for the full stack, which Docker runs")
        self.secrets = in_force(self.folder / ENV_FILE)

    def run(self, *words: str, stdin: IO[bytes] | None = None, extra: Mapping[str, str] | None = None) -> str:
        """A command's standard output.

        Args:
            words: after ``docker compose``.
            stdin: what the command reads.
            extra: more environment, for what must not stand in a command line.

        Raises:
            StackError: the command failed; it has said why.
        """
        command = self._command(words)
        done = subprocess.run(  # noqa: S603 - our own words
            command,
            cwd=self.folder,
            env={**self._environment(), **(extra or {})},
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
        self._check(command, done.returncode)
        return done.stdout.decode("utf-8", "replace")

    def save(self, target: Path, *words: str) -> None:
        """Write a command's standard output into a new file."""
        command = self._command(words)
        begun = last = time.monotonic()
        written = 0
        with _new(target) as file:
            with subprocess.Popen(  # noqa: S603 - our own words
                command,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            ) as process:
                assert process.stdout is not None  # noqa: S101 - it was asked for
                try:
                    while chunk := process.stdout.read(CHUNK):
                        written += file.write(chunk)
                        if time.monotonic() - last > EVERY_S:
                            last = time.monotonic()
                            say(f"{target.name}: {written / 1e6:,.1f} MB")
                except BaseException:
                    process.terminate()  # it takes its container along
                    raise
            self._check(command, process.returncode)
        say(f"{target.name}: {written / 1e6:,.1f} MB in {time.monotonic() - begun:.1f} s")

    def running(self) -> set[str]:
        """Services of which a container runs."""
        return set(self.run("ps", "--status", "running", "--services").split())

    def _command(self, words: Sequence[str]) -> list[str]:
        # Building takes minutes and says so; of anything else only errors are wanted.
        progress = "auto" if words[0] == "build" else "quiet"
        return ["docker", "compose", "--profile", "celery", "--progress", progress, *words]

    def _environment(self) -> dict[str, str]:
        """As `make up` has it, so that the same images are meant."""
        return {"GIT_SHA": _git_sha(self.folder), **os.environ}

    def _check(self, command: Sequence[str], code: int) -> None:
        if code:
            raise StackError(f"`{' '.join(command)}` ended with exit code {code}; its own words stand above")


def create(folder: Path, into: Path | None = None) -> Path:
    """Back up a running stack.

    Args:
        folder: where docker-compose.yaml and .env are.
        into: folder for the backup's own one; ``backups`` beside docker-compose.yaml unless given.

    Returns:
        The new folder; only its owner may read it, since it holds password hashes and Airflow's key.

    Raises:
        ConfigurationError: no docker-compose.yaml or no usable .env.
        StackError: PostgreSQL or the store does not run, a step failed, or the disk is full; what was written so far
            stays, without a manifest.
    """
    compose = Compose(folder)
    if missing := {"postgres", "s3"} - compose.running():
        raise StackError(
            f"{', '.join(sorted(missing))} must run while a backup is taken; start the stack with `make up`"
        )
    begun = datetime.now(UTC)
    into = into or compose.folder / "backups"
    target = into / f"{begun:%Y%m%dT%H%M%SZ}"
    try:
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.mkdir(mode=0o700)  # never into one that is there
        for database in DATABASES:
            dump = ("exec", "-T", "postgres", "pg_dump", "-U", "postgres", "--format=custom", database)
            compose.save(target / f"{database}.dump", *dump)
        compose.save(target / BUCKETS, *MIRROR, "save")
        with _new(target / KEY) as file:
            file.write(compose.secrets[FERNET].encode())
        manifest = {
            "format": FORMAT,
            "pump_ml": __version__,
            "git_sha": _git_sha(compose.folder),
            "created_at": begun.isoformat(timespec="seconds"),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "postgres": _ask(compose, "postgres", "SHOW server_version"),
            "buckets": _summary(target / BUCKETS),
            "files": {path.name: _facts(path) for path in sorted(target.iterdir())},
        }
        _write_manifest(target / MANIFEST, manifest)
    except OSError as error:
        raise StackError(f"{target}: {error}; this backup has no {MANIFEST} and cannot be restored") from error
    return target


def verify(source: Path) -> dict[str, Any]:
    """Check that a backup is whole and as it was written.

    Returns:
        Its manifest.

    Raises:
        DataError: it was interrupted, is of another format, or a file is missing or altered.
    """
    try:
        manifest: dict[str, Any] = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise DataError(f"{source} has format {manifest['format']}; this version of pump_ml reads format {FORMAT}")
        files = {str(name): dict(facts) for name, facts in manifest["files"].items()}
    except FileNotFoundError as error:
        raise DataError(f"{source} has no {MANIFEST}: it is no backup, or one that was interrupted") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source / MANIFEST} was altered: {error!r}") from error
    expected = {f"{database}.dump" for database in DATABASES} | {BUCKETS, KEY}
    if lacking := sorted(expected - files.keys()):
        raise DataError(f"{source / MANIFEST} was altered: it does not name {', '.join(lacking)}")
    for name in sorted(expected):
        if not (source / name).is_file():
            raise DataError(f"{source / name} is missing")
        found = _facts(source / name)
        if found != files[name]:
            raise DataError(
                f"{source / name} is not what was written: {found['bytes']} bytes, SHA-256 {found['sha256'][:12]}…; "
                f"the manifest says {files[name].get('bytes')} bytes, {str(files[name].get('sha256'))[:12]}…"
            )
        say(f"{name}: whole, {found['bytes'] / 1e6:,.1f} MB")
    return manifest


def restore(folder: Path, source: Path) -> None:
    """Fill an empty stack from a backup. Passwords are those of this host's ``.env``.

    The buckets are filled first and MLflow's database last, so that an interrupted restore leaves no run without its
    artifacts. What Airflow stores encrypted is encrypted anew, with the key of this host.

    Raises:
        DataError: the backup cannot be used; nothing was touched.
        StackError: the stack is not empty, or a step failed.
    """
    compose = Compose(folder)
    say(f"checking {source}")
    manifest = verify(source)
    if busy := sorted(compose.running() - STORES):
        raise StackError(f"still running: {', '.join(busy)}; `make down` first. A restore wants an empty stack")
    say("starting PostgreSQL and the store, without any service that would write to them")
    compose.run("build", "airflow-setup", "mlflow-setup")
    stores = ("up", "--detach", "--wait", "postgres", "s3")
    try:
        compose.run(*stores)
    except StackError:  # as `make up` does
        say("not all came up; once more, since what hung has started anew meanwhile")
        compose.run(*stores)
    _expect_empty(compose)
    compose.run("run", "--rm", "-T", "postgres-setup")
    compose.run("run", "--rm", "-T", "s3-setup")
    with (source / BUCKETS).open("rb") as file:
        compose.run(*MIRROR, "load", stdin=file)
    for database in DATABASES:
        words = ["exec", "-T", "postgres", "pg_restore", "-U", "postgres", "--dbname", database, "--role", database]
        with (source / f"{database}.dump").open("rb") as file:
            compose.run(*words, "--no-owner", "--exit-on-error", "--single-transaction", stdin=file)
        say(f"database {database}: restored")
    say("bringing the databases to this version, and its users to this host's passwords")
    once = ("run", "--rm", "--no-deps", "-T")
    compose.run(*once, "mlflow-setup")
    compose.run(*once, "airflow-setup")
    keys = [compose.secrets[FERNET], *(source / KEY).read_text(encoding="utf-8").split(",")]
    variable = "AIRFLOW__CORE__FERNET_KEY"
    compose.run(
        *(*once, "--env", variable, "airflow-setup", "airflow", "rotate-fernet-key"),
        extra={variable: ",".join(dict.fromkeys(",".join(keys).split(",")))},
    )
    held = ", ".join(f"{bucket} {facts['objects']}" for bucket, facts in manifest["buckets"].items())
    say(f"restored the backup of {manifest['created_at']}; objects: {held or 'none'}. Start the stack with `make up`")


def _expect_empty(compose: Compose) -> None:
    """Raise StackError unless the databases have no tables and the buckets no objects."""
    present = _ask(compose, "postgres", "SELECT datname FROM pg_database").split()
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    held = [f"database {name}" for name in DATABASES if name in present and int(_ask(compose, name, tables))]
    counted = json.loads(compose.run(*MIRROR, "count"))
    held += [f"bucket {name}" for name, versions in counted.items() if versions]
    if held:
        raise StackError(
            f"this stack has data: {', '.join(held)}. A restore fills an empty one only: on another host, under a "
            "COMPOSE_PROJECT_NAME of its own, or here, after `docker compose --profile celery down --volumes`, which "
            "deletes all that this stack holds"
        )


def _ask(compose: Compose, database: str, query: str) -> str:
    """Answer of PostgreSQL; by the socket in its container, which asks for no password."""
    words = ("exec", "-T", "postgres", "psql", "-U", "postgres", "--dbname", database, "--no-psqlrc", "-qAtc", query)
    return compose.run(*words).strip()


def _summary(tar: Path) -> dict[str, dict[str, int]]:
    """Bucket -> objects and bytes, from the last member of the mirror.

    Raises:
        StackError: the mirror broke off.
    """
    try:
        with tarfile.open(tar, mode="r:") as members:
            index = json.load(members.extractfile("objects.json") or io.BytesIO())
    except (KeyError, ValueError, tarfile.TarError) as error:
        raise StackError(f"{tar} has no objects.json at its end: the mirror of the buckets broke off") from error
    held: dict[str, dict[str, int]] = {}
    for entry in index:
        facts = held.setdefault(entry["bucket"], {"objects": 0, "bytes": 0})
        facts["objects"] += 1
        facts["bytes"] += entry["size"]
    return held


def _facts(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


@contextmanager
def _new(path: Path) -> Iterator[IO[bytes]]:
    """A file that is not there yet, for its owner only, on the disk when the block is left."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Put the manifest in place at once."""
    draft = path.with_suffix(".draft")
    with _new(draft) as file:
        file.write(json.dumps(manifest, indent=1).encode())
    draft.replace(path)


def _git_sha(folder: Path) -> str:
    """Commit of a checkout, and whether it was changed since, as the Makefile asks for it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 -m pump_ml.compose.backup",
        description=__doc__,
        epilog="Example: python3 -m pump_ml.compose.backup restore backups/20261122T101500Z",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="where docker-compose.yaml is (default: here)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="create|verify|restore")
    making = commands.add_parser("create", help="back up the running stack; prints the new folder")
    making.add_argument("--into", type=Path, help="folder for backups (default: backups/ beside docker-compose.yaml)")
    for name, help_ in (("verify", "check that a backup is whole"), ("restore", "fill an empty stack from a backup")):
        commands.add_parser(name, help=help_).add_argument("source", type=Path, help="folder of a backup")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "create":
            sys.stdout.write(f"{create(chosen.folder, chosen.into)}\n")
        elif chosen.command == "verify":
            verify(chosen.source)
        else:
            restore(chosen.folder, chosen.source)
    except PumpMLError as error:
        say(f"{type(error).__name__}: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: a backup without a manifest cannot be restored; a half-restored stack is not empty any more")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
