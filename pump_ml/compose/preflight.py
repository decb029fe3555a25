"""What would keep ``make up`` from a good start, told before anything is started.

Standard library only: the host needs Docker and a bare Python, nothing of this project's environment.
"""

import argparse
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pump_ml.compose.environment import ENV_FILE, PORTS, in_force, port
from pump_ml.compose.status import ask_compose
from pump_ml.errors import ConfigurationError, PumpMLError

FOLDER = "com.docker.compose.project.working_dir="


def check(folder: Path) -> None:
    """Look at the secrets, at other checkouts' stacks of the same name, and at the ports.

    Args:
        folder: where docker-compose.yaml and .env are; Compose is asked there.

    Raises:
        ConfigurationError: the secrets are not usable, another checkout has containers of this stack's name, or
            something else listens on a port.
    """
    values = in_force(folder / ENV_FILE)
    containers = ask_compose("ps", "--all")
    if others := sorted(_folders(containers) - {str(folder.resolve())}):
        raise ConfigurationError(
            f"the checkout {others[0]} has containers of the stack {containers[0]['Project']}, whose databases and "
            "buckets this one would take over: `make down` there, or give this one its own COMPOSE_PROJECT_NAME, "
            f"AIRFLOW_IMAGE, MLFLOW_IMAGE and ports in {folder / ENV_FILE}"
        )
    ours = {p["PublishedPort"] for container in containers for p in container["Publishers"] or []}
    for name in PORTS:
        wanted = _number(name, port(name, values))
        if wanted not in ours and _taken(wanted):
            raise ConfigurationError(
                f"port {wanted} of 127.0.0.1 is taken, by `make ui` perhaps: `make stop`, or another {name} in "
                f"{folder / ENV_FILE}"
            )


def _folders(containers: Sequence[Mapping[str, Any]]) -> set[str]:
    labels = ",".join(str(container.get("Labels", "")) for container in containers).split(",")
    return {label.removeprefix(FOLDER) for label in labels if label.startswith(FOLDER)}


def _number(name: str, given: str) -> int:
    if not given.isdigit() or not 0 < int(given) < 2**16:
        raise ConfigurationError(f"{name} is {given!r}; expected a port, 1 to 65535")
    return int(given)


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 -m pump_ml.compose.preflight",
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="Example: python3 -m pump_ml.compose.preflight",
    )
    parser.parse_args(arguments)
    try:
        check(Path())
    except PumpMLError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
