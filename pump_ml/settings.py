"""Where things are: the only module that reads the environment."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from upath import UPath

from pump_ml.errors import ConfigurationError, UnknownNameError

PREFIX = "PUMP_ML_"
PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
BUCKET: dict[str, Any] = {
    "use_listings_cache": False,
    # A store that restarts or is paused for half a minute is waited for; a dead one is given up.
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 60},
}
"""How a bucket is used: nothing is answered from a cache, and each attempt of a call is bounded, in seconds."""


class Settings(BaseSettings):
    """Frozen settings; unset, everything lies under ``var/`` of the working directory.

    An empty variable counts as unset. A misspelt ``PUMP_ML_*`` variable is an error, since a setting that is silently
    ignored is worse than none.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    var: Path = Field(Path("var"), description="folder of everything that the embedded default writes")
    data_root: str | None = Field(None, description="raw data, quarantine, snapshots and splits: a folder or s3://…")
    artifact_root: str | None = Field(None, description="files of the machines' models: a folder or s3://…")
    ledger_url: str | None = Field(None, description="SQLAlchemy address of the ledger")
    telemetry_url: str | None = Field(None, description="SQLAlchemy address of the table of the machines' telemetry")
    tracking_uri: str | None = Field(None, validation_alias="MLFLOW_TRACKING_URI", description="MLflow server or store")
    mlflow_ui: str | None = Field(None, description="address of the MLflow UI, for links")
    expectations: Path | None = Field(None, description="folder of the Great Expectations suites")
    targets_file: Path | None = Field(None, description="YAML that replaces the thresholds of the shipped problems")
    git_sha: str | None = Field(None, description="commit that an image was built from, where no checkout tells it")

    @classmethod
    def load(cls) -> Self:
        """Read the environment.

        Raises:
            ConfigurationError: a ``PUMP_ML_*`` variable is unknown or its value cannot be used.
        """
        known = [PREFIX + name.upper() for name in cls.model_fields if name != "tracking_uri"]
        for variable in os.environ:
            if variable.startswith(PREFIX) and variable not in known:
                raise UnknownNameError("environment variable", variable, known)
        try:
            return cls()
        except ValidationError as error:
            raise ConfigurationError(f"environment: {error}") from error

    @cached_property
    def home(self) -> Path:
        """The absolute ``var`` folder."""
        return self.var.resolve()

    @property
    def data(self) -> UPath:
        """Root of raw data, quarantine, snapshots, splits and plans; use it through `pump_ml.files`."""
        options = BUCKET if self.data_root and self.data_root.startswith("s3://") else {}
        root: UPath = UPath(self.data_root or self.home / "data", **options)
        return root

    @property
    def artifacts(self) -> str:
        """Root of the machines' model files: a folder or ``s3://…``; use it through `pump_ml.artifacts`."""
        return self.artifact_root or str(self.home / "artifacts")

    @property
    def docs(self) -> UPath:
        """Folder of the Data Docs: beside the data in a bucket, since the disk of a container is not kept."""
        return self.data / "docs" if self.data_root and "://" in self.data_root else UPath(self.home / "docs")

    @property
    def ledger(self) -> str:
        """SQLAlchemy address of the ledger."""
        return self.ledger_url or f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def telemetry(self) -> str:
        """SQLAlchemy address of the database with the machines' telemetry."""
        return self.telemetry_url or f"sqlite:///{self.home / 'telemetry.db'}"

    @property
    def tracking(self) -> str:
        """MLflow tracking and registry address."""
        return self.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> str | None:
        """Where new experiments keep artifacts; a server decides itself, a bare store would take ``./mlruns``."""
        return None if self.tracking.startswith("http") else (self.home / "mlartifacts").as_uri()

    @property
    def suites(self) -> Path:
        """Folder of the Great Expectations suites: the checkout's, or the ones packed into the wheel."""
        if self.expectations:
            return self.expectations
        checkout = CHECKOUT / "expectations"
        return checkout if checkout.is_dir() else PACKAGE / "expectations"


def environment() -> Mapping[str, str]:
    """The process environment, for child processes of the local stack."""
    return dict(os.environ)


def git_sha() -> str:
    """Commit of the code that runs: the image's, or the checkout's, with ``-dirty`` when changed; or ``"unknown"``."""
    return Settings.load().git_sha or _checkout_sha()


@cache
def _checkout_sha() -> str:
    git = shutil.which("git")
    if git is None or not (CHECKOUT / ".git").exists():
        return "unknown"
    done = subprocess.run(  # noqa: S603 - fixed words
        [git, "-C", str(CHECKOUT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"
