"""What the DAGs share: the published dataset, when a task is tried again and how long it may take, where it runs."""

from datetime import timedelta

from airflow.sdk import Asset, CronTriggerTimetable, ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowTaskTimeout

from pump_ml.errors import PumpMLError

DATASET = Asset(name="dataset", uri="x-pump-ml://snapshots/dataset")
# Mondays; the first one comes when its time comes, not when the DAG is first seen.
WEEKLY = CronTriggerTimetable("0 3 * * 1", timezone="UTC", run_immediately=timedelta(0))
# pump_ml's own errors don't heal: bad data stay bad. A lost connection or a killed process is worth a retry.
HOPELESS = RetryRule(exception=PumpMLError, action=RetryAction.FAIL)
DAG = {
    "catchup": False,
    "tags": ["pump_ml"],
    "default_args": {
        "owner": "pump_ml",
        # An outage of two minutes fails no run: the tries are at least 30, 60 and 120 s apart (Airflow stretches each
        # delay, up to twofold), so the last one begins 3.5 minutes after the first at the earliest.
        "retries": 3,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=3),
        "retry_policy": ExceptionRetryPolicy(rules=[HOPELESS]),
        # No task runs for ever. It is a signal, which Python looks at between two steps of its own: one long call into
        # C (a fit of a whole forest, a query on a database that froze) is not interrupted, but ended once it returns.
        "execution_timeout": timedelta(minutes=30),
    },
}
LEARN = {"quick": timedelta(hours=1), "standard": timedelta(hours=6), "full": timedelta(hours=24)}


def limit_by_preset(context) -> None:
    """How long a model, and each of its trials, may learn; Airflow reads a task's timeout after this."""
    asked = context["params"]
    context["task"].execution_timeout = LEARN[asked["preset"]] * (1 + asked["trials"])


# Each kind of heavy work has a pool, which bounds how many run at once, and a queue of the same name, which workers of
# Celery may specialise in; see pump_ml.catalog.POOLS. Without Celery, queues mean nothing.
INGESTION = {"pool": "ingestion", "queue": "ingestion", "execution_timeout": timedelta(hours=2)}
TRAINING = {
    "pool": "training",
    "queue": "training",
    # What could not be learnt in this time can't be the next time; elsewhere a timeout hints at something that hung.
    "retry_policy": ExceptionRetryPolicy(
        rules=[HOPELESS, RetryRule(exception=AirflowTaskTimeout, action=RetryAction.FAIL)]
    ),
    "execution_timeout": LEARN["full"],
    "pre_execute": limit_by_preset,
}
# A batch of machines. What a timeout broke off is gone on with: those that are trained are found.
MACHINES = {"pool": "machines", "queue": "machines", "execution_timeout": timedelta(hours=6)}
# What clears up is tried for ten minutes and more: nobody comes after it but the DAG `upkeep`.
LAST = {"retries": 10, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": 0}


def run_key(ti) -> str:
    """Name of a training run: its tasks find everything by it, so no data hang on the graph's edges."""
    return f"{ti.dag_id}/{ti.run_id}"


def tags(ti) -> dict:
    """Where a run in MLflow came from."""
    return {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": str(ti.map_index)}
