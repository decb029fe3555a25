"""Train every family on one snapshot, in parallel behind the baseline; judge them; crown the best as champion."""

from datetime import timedelta

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Param, TriggerRule, dag, task
from common import DAG, DATASET, LAST, TRAINING, run_key, tags

from pump_ml import catalog, steps

FAMILIES = list(catalog.FAMILIES)
# Mondays; the first one comes when its time comes, not when the DAG is first seen.
WEEKLY = CronTriggerTimetable("0 3 * * 1", timezone="UTC", run_immediately=timedelta(0))


@dag(
    **DAG,
    schedule=AssetOrTimeSchedule(timetable=WEEKLY, assets=[DATASET]),
    max_active_runs=1,
    params={
        "snapshot": Param(None, type=["null", "string"], description="Key; empty: newest published.", section="Data"),
        "problem": Param(None, type=["null", "string"], description="Name or YAML; empty: its own.", section="Data"),
        "seed": Param(7, type="integer", minimum=0, description="Of the split and of the models.", section="Data"),
        "families": Param(FAMILIES, type="array", items={"type": "string", "enum": FAMILIES}, uniqueItems=True,
                          examples=FAMILIES, description="The baseline always takes part.", section="Models"),
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
            run_key(ti), families=params["families"], preset=params["preset"], seed=params["seed"], tags=tags(ti),
        )  # fmt: skip

    @task(**TRAINING)
    def baseline(ti=None) -> dict:
        return steps.train(steps.read_plan(run_key(ti)), "baseline", tags(ti))

    @task
    def gate(baseline: dict, ti=None) -> list[str]:
        settled = steps.read_plan(run_key(ti))
        steps.gate(settled, baseline)
        return settled["others"]

    @task(**TRAINING, map_index_template="{{ task.op_kwargs['family'] }}")
    def train(family: str, ti=None) -> dict:
        return steps.train(steps.read_plan(run_key(ti)), family, tags(ti))

    @task(trigger_rule=TriggerRule.NONE_FAILED)  # the baseline alone may take part
    def evaluate(ti=None) -> dict:
        settled = steps.read_plan(run_key(ti))
        return steps.evaluate(settled, steps.read_candidates(settled))

    @task
    def promote(evaluation: dict, ti=None) -> dict:
        return steps.promote(steps.read_plan(run_key(ti)), evaluation)

    @task
    def report(evaluation: dict, decision: dict, ti=None) -> dict:
        return steps.report(steps.read_plan(run_key(ti)), evaluation, decision)

    @task(**LAST)
    def close(ti=None) -> dict:
        return steps.close(run_key(ti))

    first = baseline()
    plan() >> first
    evaluation = evaluate()
    trained = train.expand(family=gate(first))
    trained >> evaluation
    # However the run ends, nothing stays open in MLflow; a teardown does not hide a failure.
    [trained, report(evaluation, promote(evaluation))] >> close().as_teardown()


training()
