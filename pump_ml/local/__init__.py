"""The local stack behind ``make run``, ``make ui`` and ``make stop``: Airflow and MLflow as child processes.

`commands` is what the command line calls; `stack` starts and stops, `supervisor` is the process that holds the
components together, `processes` finds them, `airflow_api` and `progress` follow a DAG run.
"""

from pathlib import Path


def command(name: str) -> str:
    """How to say ``make NAME`` here: in a folder without a Makefile it is ``pump-ml local NAME``."""
    return f"make {name}" if Path("Makefile").exists() else f"pump-ml local {name}"
