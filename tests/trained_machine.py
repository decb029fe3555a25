"""A trained model of a machine, as publishing takes it; light to import, for processes that are to be killed."""

from datetime import UTC, datetime
from typing import Any

from pump_ml import artifacts
from pump_ml.machines.publishing import TrainedModel

START, END = datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)


def trained(run_key: str = "t/1", kind: str = "gru", **changes: Any) -> TrainedModel:
    """A model whose files hold a few bytes, its own."""
    content = {role: f"{role} of {run_key}".encode() for role in artifacts.NAMES[kind]}
    fields: dict[str, Any] = {
        "machine": "P-101", "kind": kind, "run_key": run_key, "data_start": START, "data_end": END,
        "metrics": {"mae": 0.03, "rmse": 0.05, "r2": None, "skill": 0.4}, "parameters": {"units": 32},
        "files": content, "may_lead": True, "reason": "beats persistence",
    }  # fmt: skip
    return TrainedModel(**fields | changes)
