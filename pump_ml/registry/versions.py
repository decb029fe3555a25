"""Models: logged in a run, registered once, and one of them the champion."""

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, Schema

from pump_ml import catalog, ledger
from pump_ml.errors import ConfigurationError
from pump_ml.models import Predictor
from pump_ml.registry.client import CANDIDATE, CHAMPION, SUPERSEDED
from pump_ml.schema import ASSET, COMMISSIONING, RUN, TIME
from pump_ml.settings import PACKAGE

CORE = ("numpy", "pandas", "pydantic", "pydantic-settings", "pyyaml", "pint", "universal-pathlib")
MODEL = "model"
CODE = (
    "catalog.py",
    "errors.py",
    "metrics.py",
    "models",
    "problems.py",
    "quantities.py",
    "row_order.py",
    "schema.py",
    "settings.py",
    "split_policy.py",
    "windows.py",
)
"""What of this package a model needs to answer; each file that travels costs every load two requests."""

log = logging.getLogger(__name__)


def log_predictor(predictor: Predictor, example: pd.DataFrame) -> str:
    """Log the predictor in the active run as a model that takes raw readings; returns its address.

    Args:
        predictor: what was learnt.
        example: readings of one asset, which are stored as the input example, unless the model needs waveforms too.
    """
    family = catalog.load("family", catalog.FAMILIES, predictor.family)
    # Waveforms would make of an example a file of megabytes.
    shown = None if predictor.recording else example[list(predictor.columns)].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's hints about type hints
        folder = Path(made) / "predictor"  # the name that the artifact shows
        folder.mkdir()
        predictor.save(folder)
        info = mlflow.pyfunc.log_model(
            name=MODEL,
            python_model=str(PACKAGE / "models" / "pyfunc.py"),
            artifacts={"predictor": str(folder)},
            code_paths=[str(code(Path(made), CODE))],
            signature=signature(predictor),
            input_example=shown,
            pip_requirements=pinned((*CORE, *family.requires)),
            metadata={"family": predictor.family, "problem": predictor.problem.name},
        )
    return str(info.model_uri)


def signature(predictor: Predictor) -> ModelSignature:
    """Columns in and out. Time may be a timestamp with or without zone, or a count of cycles."""
    kinds: dict[str, Any] = {ASSET: "string", RUN: "string", COMMISSIONING: "boolean", TIME: AnyType()}
    if predictor.recording:  # arrays in the cells of some readings
        kinds |= {channel.name: AnyType() for channel in predictor.recording.channels}
    keys = [ColSpec("string", ASSET), ColSpec("string", RUN), ColSpec(AnyType(), TIME)]
    inputs = [ColSpec(kinds.get(c, "double"), c) for c in predictor.columns]
    outputs = list(keys)
    for target in predictor.problem.targets:
        outputs.append(ColSpec("string" if target.kind == "classes" else "double", target.name))
        outputs += [ColSpec("double", f"{target.name}_p_{name}") for name in target.classes]
        if target.name in predictor.calibration.intervals:
            outputs += [ColSpec("double", f"{target.name}_{end}") for end in ("low", "high")]
    return ModelSignature(Schema(inputs), Schema(outputs))


def changing(name: str) -> AbstractContextManager[None]:
    """The lock of those who add a version to a registered model, or read its champion to replace it."""
    return ledger.lock(f"mlflow/model/{name}")


def register(
    client: "mlflow.MlflowClient", name: str, model_uri: str, run_id: str, tags: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Register a run's model once, whoever else tries.

    The commit point is the one call that makes the version with its tags. Before it the run has no version, and a retry
    learns again; after it each retry finds the version. Other versions of the run, from a request that was sent twice,
    from a try that died or made by hand, are tagged with the one that counts.

    Args:
        client: of MLflow.
        name: the registered model, made when it is not there.
        model_uri: what `log_predictor` returned.
        run_id: the run that learnt it.
        tags: of the version, `CANDIDATE` among them.

    Returns:
        The run's version and its tags: another try's, if that was faster.
    """
    with changing(name):
        if found := registered(client, name, run_id):
            return found
        with contextlib.redirect_stderr(io.StringIO()):  # MLflow announces each version there
            made = mlflow.register_model(model_uri, name, tags=dict(tags))
        counts = registered(client, name, run_id) or (str(made.version), dict(tags))
        for other in client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
            if str(other.version) != counts[0]:
                log.warning(
                    "version %s of %s is of the same run as version %s, which counts", other.version, name, counts[0]
                )
                client.set_model_version_tag(name, other.version, SUPERSEDED, counts[0])
    return counts


def registered(client: "mlflow.MlflowClient", name: str, run_id: str) -> tuple[str, dict[str, str]] | None:
    """The version of `name` that this run registered, and its tags; or None.

    A version counts when it is READY and has the tag `CANDIDATE`; of several, which a request that was sent twice may
    leave, the first.
    """
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    whole = [v for v in found if v.status == "READY" and CANDIDATE in v.tags and SUPERSEDED not in v.tags]
    first = min(whole, key=lambda version: int(version.version), default=None)
    return (str(first.version), dict(first.tags)) if first else None


def load_model(name: str, which: str) -> Any:
    """The pyfunc model of a version number or of an alias such as ``champion``.

    Raises:
        ConfigurationError: there is no such model.
    """
    address = f"models:/{name}/{which}" if which.isdigit() else f"models:/{name}@{which.removeprefix('@')}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's hints about type hints
            return mlflow.pyfunc.load_model(address)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise  # a lost connection is worth a retry
        raise ConfigurationError(
            f"{address} cannot be loaded: {error}; registered models: "
            f"{', '.join(m.name for m in mlflow.MlflowClient().search_registered_models()) or 'none'}"
        ) from error


def predictor_of(model: Any) -> Predictor:
    """The predictor inside a loaded pyfunc model."""
    predictor: Predictor = model.unwrap_python_model().predictor
    return predictor


def champion(client: "mlflow.MlflowClient", name: str) -> tuple[str, str] | None:
    """Version and family of the standing champion, or None."""
    try:
        found = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        # No such model, or no such alias; anything else says nothing about the champion, and must not dethrone it.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return str(found.version), str(found.tags.get("family", "unknown"))


def crown(client: "mlflow.MlflowClient", name: str, challenger: str) -> None:
    """Move the alias ``champion`` to this version: the commit point of a promotion. Hold `changing` around it."""
    client.set_registered_model_alias(name, CHAMPION, challenger)


def code(folder: Path, parts: Sequence[str]) -> Path:
    """A copy of the package with some of its parts; where the whole package is installed, the rest is found there."""
    copy = folder / PACKAGE.name
    copy.mkdir()
    for name in parts:
        if (PACKAGE / name).is_dir():
            shutil.copytree(PACKAGE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PACKAGE / name, copy)
    rest = "from pkgutil import extend_path\n\n__path__ = extend_path(__path__, __name__)\n"
    (copy / "__init__.py").write_text(f"{(PACKAGE / '__init__.py').read_text()}\n{rest}")
    return copy


def pinned(packages: Sequence[str]) -> list[str]:
    """Requirements of what is installed of some packages."""
    return [f"{name}=={found}" for name in packages if (found := _version(name))]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
