"""Train every family on one snapshot, in parallel behind the baseline; judge them; crown the best as champion."""

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Param, TriggerRule, dag, task
from common import DAG, DATASET, airflow_tags

from pump_ml import catalog, steps

FAMILIES = list(catalog.FAMILIES)


@dag(
    **DAG,
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 3 * * 1", timezone="UTC"), assets=[DATASET]),
    max_active_runs=1,
    params={
        "snapshot": Param(None, type=["null", "string"], description="Key; empty: the newest one.", section="Data"),
        "problem": Param(None, type=["null", "string"], description="Name or YAML; empty: its own.", section="Data"),
        "seed": Param(7, type="integer", minimum=0, description="Of the split and of the models.", section="Data"),
        "families": Param(FAMILIES, type="array", items={"type": "string", "enum": FAMILIES}, examples=FAMILIES,
                          description="The baseline always takes part.", section="Models"),
        "preset": Param("standard", enum=list(catalog.PRESETS), description="How long they learn.", section="Models"),
    },
    doc_md=__doc__,
)  # fmt: skip
def training():
    @task(inlets=[DATASET])
    def plan(params: dict, ti=None, triggering_asset_events=None, inlet_events=None) -> dict:
        # What started this run; on a schedule or by hand the newest there is.
        published = [*inlet_events[DATASET][-1:], *triggering_asset_events.get(DATASET, [])]
        event = published[-1].extra if published else {}
        return steps.plan(
            params["snapshot"] or event.get("snapshot"), params["problem"] or event.get("problem", "diagnosis"),
            f"{ti.dag_id}/{ti.run_id}", families=params["families"], preset=params["preset"], seed=params["seed"],
            tags=airflow_tags(ti),
        )  # fmt: skip

    @task
    def baseline(settled: dict, ti=None) -> dict:
        return steps.train(settled, "baseline", airflow_tags(ti))

    @task
    def gate(settled: dict, baseline: dict) -> list[str]:
        steps.gate(settled, baseline)
        return settled["others"]

    @task(pool="training", map_index_template="{{ task.op_kwargs['family'] }}")
    def train(family: str, settled: dict, ti=None) -> dict:
        return steps.train(settled, family, airflow_tags(ti))

    @task(trigger_rule=TriggerRule.NONE_FAILED)  # the baseline alone may take part
    def evaluate(settled: dict, baseline: dict, trained: list[dict]) -> dict:
        return steps.evaluate(settled, [baseline, *trained])

    @task
    def promote(settled: dict, evaluation: dict) -> dict:
        return steps.promote(settled, evaluation)

    @task
    def report(settled: dict, evaluation: dict, decision: dict) -> dict:
        return steps.report(settled, evaluation, decision)

    @task
    def close(settled: dict) -> dict:
        return steps.close(settled)

    settled = plan()
    first = baseline(settled)
    trained = train.partial(settled=settled).expand(family=gate(settled, first))
    evaluation = evaluate(settled, first, trained)
    reported = report(settled, evaluation, promote(settled, evaluation))
    # However the run ends, nothing stays open in MLflow; a teardown does not hide a failure.
    reported >> close(settled).as_teardown()


training()
