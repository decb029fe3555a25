"""The MLflow model of every family, logged as code: it loads the saved predictor and passes raw readings to it."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from pump_ml.models import load_predictor


class PumpModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc] # mlflow ships no types
    """Raw readings in, one row of answers a run out; see `pump_ml.models.Predictor.predict`."""

    def load_context(self, context: Any) -> None:
        """Load the predictor that travels in the artifact."""
        self.predictor = load_predictor(Path(context.artifacts["predictor"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer raw readings."""
        del context, params  # part of MLflow's signature
        return self.predictor.predict(model_input)


mlflow.models.set_model(PumpModel())
