"""A PostgreSQL of the tests' own: the one that PUMP_ML_TEST_POSTGRES names, or a private one of Debian's packages."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

GIVEN = os.environ.get("PUMP_ML_TEST_POSTGRES")  # looked at before a test forgets this machine's settings
PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)


@contextmanager
def database() -> Iterator[str]:
    """SQLAlchemy's address of a database; the test is skipped where there is none to be had."""
    if GIVEN:
        yield GIVEN
        return
    if PROGRAMS is None:
        pytest.skip("no PostgreSQL: install Debian's `postgresql`, or name a database in PUMP_ML_TEST_POSTGRES")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    # Not pytest's folder, which nobody but root may enter; and the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="pump_ml_pg_"))
    try:
        if user:
            shutil.chown(folder, user)
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"

        def run(*command: str) -> None:
            subprocess.run(  # noqa: S603 - PostgreSQL's own programs
                [str(PROGRAMS / command[0]), *command[1:]], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL
            )

        run("initdb", "--pgdata", f"{folder}/data", "--username", "ledger", "--auth", "trust", "--no-sync")
        run("pg_ctl", "start", "--wait", "--pgdata", f"{folder}/data", "--log", f"{folder}/log", "--options", options)
        try:
            yield f"postgresql+psycopg2://ledger@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "--pgdata", f"{folder}/data", "--mode", "immediate")
    finally:
        shutil.rmtree(folder)
