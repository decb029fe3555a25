"""The MLflow model of every machine, logged as code: it loads the safe files and passes raw readings to them."""

from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class MachineModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc] # mlflow ships no types
    """Raw readings of one machine in, its answers out."""

    def load_context(self, context: Any) -> None:
        """Load what travels in the artifact: files of a safe format, no pickle."""
        answering = import_module("pump_ml.machines.answering")  # heavy, and of no use where a model is only logged
        self.answers = answering.load(Path(context.artifacts["files"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Answer raw readings."""
        del context, params  # part of MLflow's signature
        return self.answers.predict(model_input)


mlflow.models.set_model(MachineModel())
