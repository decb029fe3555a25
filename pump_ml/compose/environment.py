"""The full stack's secrets: ``.env`` beside ``docker-compose.yaml``, every value random, mode 0600.

Standard library only: ``make init`` runs it with whatever Python the host has, before anything is installed.
"""

import argparse
import base64
import fcntl
import os
import re
import secrets
import stat
import string
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pump_ml.errors import ConfigurationError, PumpMLError, UnknownNameError

COMPOSE_FILE, ENV_FILE = "docker-compose.yaml", ".env"
HEADER = """\
# Secrets of the full stack, made by `make init`. Never commit this file, never send it: docs/security.md.
# Settings that docker-compose.yaml offers, such as AIRFLOW_PORT=8081, may be added here; they are kept.
"""
SAFE = re.compile(r"[A-Za-z0-9._~=,-]+")
"""What may stand in a value: it also stands in addresses, where @, : and / would lie."""


def _letters(length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """Letters and digits only, so that no value is taken for an option, a quote or a part of an address."""
    return "".join(secrets.choice(alphabet) for _ in range(length))


def _password() -> str:
    return _letters(32)


def _access_key() -> str:
    """20 characters, as S3 has them; MinIO takes 3 to 20."""
    return _letters(20, string.ascii_uppercase + string.digits)


def _secret_key() -> str:
    """40 characters, as S3 has them; MinIO takes 8 to 40."""
    return _letters(40)


def _fernet_key() -> str:
    """32 random bytes, URL-safe base64: what cryptography's Fernet takes."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


FERNET = "AIRFLOW_FERNET_KEY"
ALL = "all"
SECRETS: dict[str, Callable[[], str]] = {
    "POSTGRES_PASSWORD": _password,
    "AIRFLOW_DB_PASSWORD": _password,
    "MLFLOW_DB_PASSWORD": _password,
    "LEDGER_DB_PASSWORD": _password,
    "REDIS_PASSWORD": _password,
    "S3_ROOT_USER": _access_key,
    "S3_ROOT_PASSWORD": _secret_key,
    "S3_MLFLOW_ACCESS_KEY": _access_key,
    "S3_MLFLOW_SECRET_KEY": _secret_key,
    "S3_PUMP_ML_ACCESS_KEY": _access_key,
    "S3_PUMP_ML_SECRET_KEY": _secret_key,
    "MLFLOW_ADMIN_PASSWORD": _password,
    "MLFLOW_PUMP_ML_PASSWORD": _password,
    "MLFLOW_OP_PASSWORD": _password,
    "MLFLOW_VIEWER_PASSWORD": _password,
    "MLFLOW_SECRET_KEY": _password,
    "AIRFLOW_ADMIN_PASSWORD": _password,
    "AIRFLOW_OP_PASSWORD": _password,
    "AIRFLOW_VIEWER_PASSWORD": _password,
    FERNET: _fernet_key,
    "AIRFLOW_JWT_SECRET": _secret_key,
    "AIRFLOW_SECRET_KEY": _secret_key,
}
"""Name -> what makes its value. docker-compose.yaml refuses to start without any of them."""

AFTERWARDS = {
    FERNET: (
        "the old key stands behind the new one, so that what it encrypted can still be read. After `make up`: "
        "`docker compose exec airflow-scheduler airflow rotate-fernet-key`, then take the comma and the old key out of "
        "{file}, and `make up` again"
    ),
    "AIRFLOW_JWT_SECRET": "rotate it while no task runs: a running one loses its right to report",
    "AIRFLOW_SECRET_KEY": "everybody has to log in to Airflow again",
    "MLFLOW_SECRET_KEY": "everybody has to log in to MLflow again",
}
"""What else to know after the rotation of a name; for all others `make up` does the rest."""


def initialise(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Make ``.env`` where there is none; where there is one, add the names that it lacks and keep the rest.

    Args:
        folder: where docker-compose.yaml is.

    Returns:
        All names and values of the file, and what was done, a sentence each; nothing when it was complete.

    Raises:
        ConfigurationError: no docker-compose.yaml, or a ``.env`` that cannot be used; it is left as it was.
    """
    with _locked(folder):
        file = folder / ENV_FILE
        done = []
        if not os.path.lexists(file):
            _write(file, HEADER + "".join(f"{name}={make()}\n" for name, make in SECRETS.items()), new=True)
            done.append(f"wrote {file} with {len(SECRETS)} secrets; readable by you only")
        elif stat.S_IMODE(_own(file).st_mode) != 0o600:
            done.append(f"{file} had mode {stat.S_IMODE(file.stat().st_mode):o}; it is 600 now: was it read by others?")
            file.chmod(0o600)
        values = read(file)
        if missing := [name for name in SECRETS if name not in values]:
            added = {name: SECRETS[name]() for name in missing}
            kept = file.read_text(encoding="utf-8")
            kept += "" if kept.endswith("\n") else "\n"
            _write(file, kept + "".join(f"{name}={value}\n" for name, value in added.items()))
            values |= added
            done.append(f"added to {file}: {', '.join(missing)}; everything else is as it was")
    return values, done


def rotate(folder: Path, name: str) -> str:
    """Give one secret of an existing ``.env`` a new value, or `ALL` but the Fernet key, whose rotation takes steps.

    No copy of the old value stays behind: a secret is rotated because it may be known, and all who use it take the
    new one at the next ``make up``. Only the Fernet key keeps its predecessor, see `AFTERWARDS`.

    Returns:
        What is to be done now.

    Raises:
        UnknownNameError: the name is none of `SECRETS`.
        ConfigurationError: there is no usable ``.env``, or the last rotation of the Fernet key was not finished.
    """
    if name == ALL:
        done = [rotate(folder, one) for one in SECRETS if one != FERNET]
        return "\n".join([*done, f"{FERNET} is as it was: rotate it by its name, afterwards"])
    if name not in SECRETS:
        raise UnknownNameError("secret", name, SECRETS)
    with _locked(folder):
        file = folder / ENV_FILE
        values = read(file)
        if name not in values:
            raise ConfigurationError(f"{file} has no {name} yet; `make init` adds what is missing")
        value = SECRETS[name]()
        if name == FERNET:
            if "," in values[name]:
                raise ConfigurationError(
                    f"{file}: {name} holds two keys, so its last rotation was not finished: {AFTERWARDS[name]}".format(
                        file=file
                    )
                )
            value += "," + values[name]
        text = file.read_text(encoding="utf-8")
        _write(file, re.sub(rf"(?m)^{name}=.*$", lambda _: f"{name}={value}", text))
    advice = AFTERWARDS.get(name, "").format(file=file)
    return f"{name} has a new value; `make up` applies it" + (f". Note: {advice}" if advice else "")


def read(file: Path) -> dict[str, str]:
    """Names and values of an environment file.

    Raises:
        ConfigurationError: it is missing, it cannot be read, a line is no assignment, a name stands twice, or one of
            `SECRETS` is empty or has characters outside `SAFE`.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no {file}; `make init` makes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read ({error}); `make init` makes one") from error
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        # The line itself is not shown: it may be a secret.
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConfigurationError(f"{file}, line {number}: expected NAME=value, without spaces round the name")
        if name in values:
            raise ConfigurationError(f"{file}, line {number}: {name} stands there twice; take one out")
        if name in SECRETS and not SAFE.fullmatch(value):
            raise ConfigurationError(
                f"{file}, line {number}: {name} is empty, in quotes, or has characters that an address cannot hold; "
                "expected letters, digits and . _ ~ - only. `make init` makes a value once the line is taken out"
            )
        values[name] = value
    return values


def in_force(file: Path) -> dict[str, str]:
    """What `read` returns, when Compose would take the same: it prefers what the shell exports.

    Raises:
        ConfigurationError: as `read`; or a secret is exported with another value than the file's.
    """
    values = read(file)
    if others := [name for name in SECRETS if os.environ.get(name, values.get(name)) != values.get(name)]:
        raise ConfigurationError(
            f"the shell exports {', '.join(others)} with other values than {file} has, and Compose would take the "
            f"shell's: unset {' '.join(others)}"
        )
    return values


def logins(values: dict[str, str]) -> str:
    """Who logs in where, for people; the services' own passwords are not among them."""
    airflow, mlflow = (port(name, values) for name in ("AIRFLOW_PORT", "MLFLOW_PORT"))
    rows = [
        f"Airflow  http://127.0.0.1:{airflow}",
        f"  admin   {values['AIRFLOW_ADMIN_PASSWORD']}   administers",
        f"  op      {values['AIRFLOW_OP_PASSWORD']}   runs, pauses and clears DAGs",
        f"  viewer  {values['AIRFLOW_VIEWER_PASSWORD']}   reads",
        f"MLflow   http://127.0.0.1:{mlflow}",
        f"  admin   {values['MLFLOW_ADMIN_PASSWORD']}   administers",
        f"  op      {values['MLFLOW_OP_PASSWORD']}   edits experiments and registered models",
        f"  viewer  {values['MLFLOW_VIEWER_PASSWORD']}   reads",
    ]
    return "\n".join(rows)


PORTS = {"AIRFLOW_PORT": "8080", "MLFLOW_PORT": "5000", "S3_PORT": "9000"}
"""Variable -> default, as in docker-compose.yaml."""


def port(name: str, values: Mapping[str, str]) -> str:
    """What Compose takes for one of `PORTS`: the shell's, else the file's, else the default."""
    return os.environ.get(name) or values.get(name) or PORTS[name]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time in a folder, which must be that of the compose file."""
    if not (folder / COMPOSE_FILE).is_file():
        raise ConfigurationError(
            f"{folder.resolve()} has no {COMPOSE_FILE}, which is what reads {ENV_FILE}; "
            "run it in the checkout, or name the folder: --folder PATH"
        )
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _own(file: Path) -> os.stat_result:
    """Facts of a file, which must be a plain one of this user: who owns it could read what is written into it."""
    facts = file.lstat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
        raise ConfigurationError(f"{file} must be a plain file of your own; move it away, then `make init` makes one")
    return facts


def _write(file: Path, text: str, *, new: bool = False) -> None:
    """Put a whole file in place at once, mode 0600; a new one never over another."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        if new:
            os.link(draft, file)
        else:
            _own(file)
            draft.replace(file)
    except FileExistsError as error:
        raise ConfigurationError(f"{file} was made by somebody else just now; it was left alone") from error
    finally:
        draft.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 -m pump_ml.compose.environment",
        description=__doc__,
        epilog="Example: python3 -m pump_ml.compose.environment --rotate MLFLOW_VIEWER_PASSWORD",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="where docker-compose.yaml is (default: here)")
    parser.add_argument(
        "--rotate",
        metavar="NAME",
        help="give one secret of the existing .env a new value; all: every one but the Fernet key",
    )
    chosen = parser.parse_args(arguments)
    try:
        sys.stdout.write(run(chosen.folder, chosen.rotate) + "\n")
    except PumpMLError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def run(folder: Path, name: str | None = None) -> str:
    """What ``pump-ml init`` does: make or complete ``.env``, or rotate one name of it.

    Returns:
        What was done, and the logins.
    """
    if name is not None:
        return rotate(folder, name)
    values, done = initialise(folder)
    return "\n".join([*(done or [f"{folder / ENV_FILE} is complete; nothing was changed"]), "", logins(values)])


if __name__ == "__main__":
    raise SystemExit(main())
