"""The full stack from a shell: its passwords, its backup."""

from pathlib import Path
from typing import Annotated

import typer

from pump_ml.cli_options import StackFolder


def init(
    folder: StackFolder = Path(),
    rotate: Annotated[str | None, typer.Option(help="Give one secret of the existing .env a new value.")] = None,
) -> None:
    """Write .env with the full stack's passwords and keys, once, and print the logins.

    Example: pump-ml init --rotate MLFLOW_VIEWER_PASSWORD
    """
    from pump_ml.compose import environment

    typer.echo(environment.run(folder, rotate))


def backup(
    folder: StackFolder = Path(),
    into: Annotated[Path | None, typer.Option(help="Folder for backups; unset, backups/ of the checkout.")] = None,
) -> None:
    """Back up the running full stack: databases, buckets and Airflow's key; prints the new folder.

    Example: pump-ml backup --into /mnt/backups
    """
    from pump_ml.compose.backup import create

    typer.echo(create(folder, into))


def restore(
    source: Annotated[Path, typer.Argument(help="Folder that `pump-ml backup` printed.")],
    folder: StackFolder = Path(),
) -> None:
    """Fill an empty full stack from a backup.

    Example: pump-ml restore backups/20261122T101500Z
    """
    from pump_ml.compose.backup import restore as fill

    fill(folder, source)
