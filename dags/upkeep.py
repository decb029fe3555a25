"""End the MLflow runs that dead tasks left open; finish machines' models whose publication died half way."""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, dag, task
from common import DAG

from pump_ml import steps

# Four times an hour; the first one comes when its time comes, not when the DAG is first seen.
QUARTERLY = CronTriggerTimetable("*/15 * * * *", timezone="UTC", run_immediately=timedelta(0))


@dag(
    **DAG,
    schedule=QUARTERLY,
    max_active_runs=1,
    params={
        "quiet_minutes": Param(5, type="number", minimum=1, description="Silence of one whose DAG run is over."),
        "stale_hours": Param(6, type="number", minimum=1, description="Silence of one from elsewhere, or of a shell."),
    },
    doc_md=__doc__,
)
def upkeep():
    @task
    def reconcile(params: dict, ti=None) -> dict:
        def is_over(dag_id: str, run_id: str) -> bool | None:
            if ti.get_dr_count(dag_id, run_ids=[run_id], states=["success", "failed"]):
                return True
            return False if ti.get_dr_count(dag_id, run_ids=[run_id]) else None

        return steps.reconcile(is_over, quiet_s=60 * params["quiet_minutes"], stale_s=3600 * params["stale_hours"])

    reconcile()
    task(steps.reconcile_machines)(check="nothing", strict=True)


upkeep()
