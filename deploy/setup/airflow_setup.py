"""Airflow's database, users and pools, and the ledger's tables: run once, before every start of the stack.

Safe to run again: what is there stays, a password that was changed in ``.env`` is set, and a pool that somebody
resized keeps its size.
"""

import os
import subprocess
import sys

USERS = {"admin": "Admin", "op": "Op", "viewer": "Viewer"}
"""User -> Airflow role: admin administers; op runs, pauses and clears; viewer reads."""


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201 - a script's own output


def users() -> None:
    """Make the users, or set their passwords."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
    from werkzeug.security import check_password_hash

    with get_application_builder() as builder:
        manager = builder.sm
        for name, role in USERS.items():
            password = os.environ[f"AIRFLOW_{name.upper()}_PASSWORD"]
            user = manager.find_user(username=name)
            if user is None:
                # FAB wants a unique address of everybody; .invalid never resolves (RFC 2606)
                if not manager.add_user(name, name, role, f"{name}@pump-ml.invalid", manager.find_role(role), password):
                    raise SystemExit(f"user {name} could not be made; Airflow's log above says why")
                say(f"user {name}: made, role {role}")
            elif not check_password_hash(user.password, password):
                manager.reset_password(user.id, password)
                say(f"user {name}: new password")
            else:
                say(f"user {name}: as it was")


def pools() -> None:
    """Make the pools that the DAGs name: a task in a pool that does not exist would wait for ever."""
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    from pump_ml.catalog import POOLS

    for name, slots in POOLS.items():
        with create_session() as session:
            if Pool.get_pool(name, session=session) is None:
                Pool.create_or_update_pool(
                    name, slots=slots, description="see pump_ml.catalog", include_deferred=False, session=session
                )
                say(f"pool {name}: made, {slots} slots")
            else:
                say(f"pool {name}: as it was")


def main() -> None:
    """Everything, in order."""
    subprocess.run(["airflow", "db", "migrate"], check=True)  # noqa: S607 - PATH of the image
    users()
    pools()
    from pump_ml import ledger

    ledger.prepare()
    say("ledger: up to date")


if __name__ == "__main__":
    if sys.argv[1:]:
        raise SystemExit(f"given {sys.argv[1:]}, expected nothing")
    main()
