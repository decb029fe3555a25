"""What the DAGs share: the published dataset, and when a task is tried again."""

from datetime import timedelta

from airflow.sdk import Asset, ExceptionRetryPolicy, RetryAction, RetryRule

from pump_ml.errors import PumpMLError

DATASET = Asset(name="dataset", uri="x-pump-ml://snapshots/dataset")
DAG = {
    "catchup": False,
    "tags": ["pump_ml"],
    "default_args": {
        "retries": 2,
        "retry_delay": timedelta(seconds=15),
        # pump_ml's own errors don't heal: bad data stay bad. A lost connection or a killed process is worth a retry.
        "retry_policy": ExceptionRetryPolicy(rules=[RetryRule(exception=PumpMLError, action=RetryAction.FAIL)]),
    },
}


def run_key(ti) -> str:
    """Name of a training run: its tasks find everything by it, so no data hang on the graph's edges."""
    return f"{ti.dag_id}/{ti.run_id}"


def tags(ti) -> dict:
    """Where a run in MLflow came from."""
    return {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": str(ti.map_index)}
