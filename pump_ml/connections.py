"""How databases are connected to: bounded in time, and named without their passwords."""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from pump_ml.errors import ConfigurationError, SourceError

CONNECT: dict[str, dict[str, Any]] = {
    # Without these a machine that vanished, or a network that drops packets, is waited for as long as TCP likes: hours.
    "postgresql": {
        "connect_timeout": 10,  # seconds
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,  # milliseconds
    },
    "sqlite": {"timeout": 30.0},  # seconds that a writer waits for another
}


def bounded(url: URL) -> dict[str, Any]:
    """Options of an engine whose connections are closed after their use, and wait for nobody for ever.

    10 s to connect, half a minute for a peer that is gone, unless the address itself says otherwise.
    """
    bounds = CONNECT.get(url.get_backend_name(), {})
    return {"poolclass": NullPool, "connect_args": {name: bounds[name] for name in bounds if name not in url.query}}


def connect(address: str, *, variable: str, make: bool = False) -> Engine:
    """Connections to a database of PostgreSQL or SQLite; none is opened yet.

    Args:
        address: SQLAlchemy's.
        variable: of the environment that it is taken from, for messages.
        make: whether the file of an SQLite database may be made.

    Raises:
        ConfigurationError: the address cannot be used.
        SourceError: the file of an SQLite database does not exist.
    """
    expected = "expected postgresql+psycopg2://… or sqlite:////path/of/file.db"
    try:
        url = make_url(address)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError):  # the latter quotes a part of the address, maybe of its password
        raise ConfigurationError(f"{variable}: the address cannot be read; {expected}") from None
    if backend not in CONNECT:
        raise ConfigurationError(f"{variable}: databases of {backend} are not supported; {expected}")
    if backend == "sqlite" and url.database and url.database != ":memory:" and not url.database.startswith("file:"):
        file = Path(url.database)
        if make:
            file.parent.mkdir(parents=True, exist_ok=True)
        elif not file.is_file():  # SQLite would make an empty one
            raise SourceError(
                f"{file.resolve()} does not exist; correct {variable}, or make simulated telemetry: "
                "pump-ml machines simulate --machines 3 --days 30"
            )
    try:
        return create_engine(url, **bounded(url))
    except (ImportError, ArgumentError) as error:
        raise ConfigurationError(
            f"{variable}: {url.drivername} cannot be used: {error}; install pump-ml[stack], or "
            f"correct the address: {expected}"
        ) from error


def shown(url: URL) -> str:
    """The address without any password."""
    secret = [name for name in url.query if "pass" in name.lower()]
    return url.set(password=None).difference_update_query(secret).render_as_string(hide_password=True)
