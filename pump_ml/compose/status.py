"""What runs of the full stack: ``python3 -m pump_ml.compose.status``.

Standard library only: the host needs Docker and a bare Python, nothing of this project's environment.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

UNITS = {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40, "kB": 1e3, "MB": 1e6, "GB": 1e9}
COLUMNS = ("service", "state", "health", "memory", "limit", "address")


def ask_compose(*words: str) -> list[dict[str, Any]]:
    """The JSON lines of a ``docker compose`` command, over all profiles."""
    if not shutil.which("docker"):
        raise SystemExit("no docker on the PATH; the full stack runs on Docker with Compose")
    command = ["docker", "compose", "--profile", "celery", *words, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return _json_lines(done.stdout)


def rows() -> list[dict[str, str]]:
    """One row a container, one-shot steps only when they failed; memory as Docker counts it."""
    containers = [c for c in ask_compose("ps", "--all") if c["State"] != "exited" or c["ExitCode"]]
    running = [c["ID"] for c in containers if c["State"] in ("running", "restarting", "paused")]
    memory = _memory(running)
    return [
        {
            "service": container["Name"].removeprefix(f"{container['Project']}-"),
            "state": container["State"] + (f" ({container['ExitCode']})" if container["State"] == "exited" else ""),
            "health": container["Health"],
            "memory": memory.get(container["ID"][:12], ("", ""))[0],
            "limit": memory.get(container["ID"][:12], ("", ""))[1],
            "address": ", ".join(
                dict.fromkeys(
                    f"http://{p['URL']}:{p['PublishedPort']}"
                    for p in container["Publishers"] or []
                    if p["PublishedPort"]
                )
            ),
        }
        for container in sorted(containers, key=lambda c: str(c["Name"]))
    ]


def total(table: Sequence[dict[str, str]]) -> float:
    """Memory of all rows, GiB."""
    return sum(size(row["memory"]) for row in table) / UNITS["GiB"]


def size(text: str) -> float:
    """Bytes of Docker's ``12.5MiB``; nothing, or the ``--`` of a container that is gone, is 0."""
    number = text.rstrip("BKMGikT")
    return float(number) * UNITS[text[len(number) :]] if text.strip("-") else 0.0


def _memory(containers: Sequence[str]) -> dict[str, tuple[str, str]]:
    if not containers:
        return {}
    command = ["docker", "stats", "--no-stream", "--format", "{{json .}}", *containers]
    # One that ended since it was listed makes this fail; the others are told all the same.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    used = {found["ID"][:12]: found["MemUsage"].split(" / ") for found in _json_lines(done.stdout)}
    return {container: (now, limit) for container, (now, limit) in used.items()}


def _json_lines(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines() if line.strip()]
    return [one for line in found for one in (line if isinstance(line, list) else [line])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 when everything that should run is healthy, else 1."""
    parser = argparse.ArgumentParser(
        prog="python3 -m pump_ml.compose.status",
        description="What runs of the full stack, with its memory.",
        epilog="example: make status",
    )
    parser.parse_args(arguments)
    table = rows()
    if not table:
        sys.stdout.write("the full stack is not running; start it with `make up`\n")
        return 0
    widths = {name: max(len(name), *(len(row[name]) for row in table)) for name in COLUMNS}
    for row in ({name: name for name in COLUMNS}, *table):
        sys.stdout.write("  ".join(row[name].ljust(widths[name]) for name in COLUMNS).rstrip() + "\n")
    sys.stdout.write(f"memory in all: {total(table):.2f} GiB\n")
    down = [row["service"] for row in table if row["state"] != "running" or row["health"] not in ("", "healthy")]
    if down:
        sys.stdout.write(f"not well: {', '.join(down)}; `make logs` tells why\n")
    return int(bool(down))


if __name__ == "__main__":
    raise SystemExit(main())
