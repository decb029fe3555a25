"""MLflow's database and its server: ``mlflow_server.py setup`` once, then ``mlflow_server.py serve``.

``setup`` migrates the database (one process only: two servers that migrate an empty database kill each other) and sets
the users: ``admin``; ``pump-ml``, the platform's tasks, who own what they make; ``op``, who edits all; ``viewer``, who
reads. A password that was changed in ``.env`` is set on the next run. ``serve`` starts the server and replaces this
process; the server asks `authenticate` about every request.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

USERS = {"admin": True, "op": False, "pump-ml": False, "viewer": False}
"""User -> whether an administrator. Everybody else may read, and change what is their own."""
CONFIG = Path("/tmp/basic_auth.ini")  # noqa: S108 - the container's own memory, for its own user only
COMMANDS = ("setup", "serve")
EDITOR, EDITS = "op", ("experiment", "registered_model")
"""Who may edit every one of these, whoever made it: names, tags, notes, aliases; not delete, not give rights."""
READERS = ("viewer",)
"""Who only reads. MLflow itself lets everybody make experiments and demo data, and change the own password, which here
is the health check's too."""
READS = re.compile(
    r"/graphql|/(?:ajax-)?api/\d\.\d/mlflow/"
    r"(?:[a-z-]+/search|experiments/search-datasets|registered-models/get-latest-versions"
    r"|traces/(?:batchGetInfos|metrics|calculate-filter-correlation))"
)
"""What a reader may POST: questions that are too long for an address. MLflow's GraphQL changes nothing."""


def write_config() -> None:
    """MLflow takes the address of its users' database from a file only; the file is written anew at every start."""
    content = f"""[mlflow]
default_permission = READ
database_uri = {os.environ["MLFLOW_BACKEND_STORE_URI"].replace("%", "%%")}
admin_username = admin
authorization_function = mlflow_server:authenticate
# A changed password is known to every worker after this time; without the cache each request costs 140 ms.
auth_cache_ttl_seconds = 60
"""
    CONFIG.unlink(missing_ok=True)
    with os.fdopen(os.open(CONFIG, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(CONFIG)


def setup() -> None:
    """Bring the database to this version's schema, and set the users."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore
    from mlflow.store.db import utils

    address = os.environ["MLFLOW_BACKEND_STORE_URI"]
    engine = utils.create_sqlalchemy_engine_with_retry(address)
    if utils._all_tables_exist(engine):
        utils._upgrade_db(engine)
    else:
        utils._initialize_tables(engine)
    # The experiment 0, which the health check asks for, is made by the first store.
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    Tracking(address, "mlflow-artifacts:/")
    store = SqlAlchemyStore()
    store.init_db(address)
    for name, administrator in USERS.items():
        password = os.environ[f"MLFLOW_{name.upper().replace('-', '_')}_PASSWORD"]
        if not store.has_user(name):
            store.create_user(name, password, is_admin=administrator)
            sys.stdout.write(f"user {name}: made\n")
        elif not store.authenticate_user(name, password):
            store.update_user(name, password=password)
            sys.stdout.write(f"user {name}: new password\n")
        else:
            sys.stdout.write(f"user {name}: as it was\n")
    role = next((one for one in store.list_roles() if one.name == EDITOR), None)
    if role is None:
        role = store.create_role(EDITOR, "default", "edits all experiments and registered models")
    given = {one.resource_type for one in store.list_role_permissions(role.id)}
    for kind in set(EDITS) - given:
        store.add_role_permission(role.id, kind, "*", "EDIT")
    editor = store.get_user(EDITOR)
    if role.id not in {one.id for one in store.list_user_roles(editor.id)}:
        store.assign_role_to_user(editor.id, role.id)


def authenticate() -> Any:
    """Who asks, by MLflow's basic auth; or a refusal, also of a reader who wants to write."""
    from flask import request
    from mlflow.server.auth import authenticate_request_basic_auth, make_forbidden_response

    who = authenticate_request_basic_auth()
    reads = request.method in ("GET", "HEAD") or READS.fullmatch(request.path)
    return make_forbidden_response() if getattr(who, "username", None) in READERS and not reads else who


def serve() -> None:
    """Become the server."""
    if public := os.environ.get("MLFLOW_PUBLIC_URL", "").rstrip("/"):  # of the reverse proxy
        os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] += f",{urlsplit(public).netloc}"
        os.environ["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = public
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where MLflow finds `authenticate`
    write_config()
    host = "0.0.0.0"  # noqa: S104 - of the container; compose publishes it on loopback
    server = ["mlflow", "server", "--host", host, "--port", "5000", "--workers", "2", "--app-name", "basic-auth"]
    os.execvp("mlflow", server)  # noqa: S606, S607 - fixed words, PATH of the image


if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in COMMANDS]:
        raise SystemExit(f"given {sys.argv[1:]}, expected one of: {', '.join(COMMANDS)}")
    {"setup": setup, "serve": serve}[sys.argv[1]]()
