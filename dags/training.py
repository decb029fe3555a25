"""Train every family on one snapshot, in parallel behind the baseline; judge them; crown the best as champion."""

from airflow.sdk import AssetOrTimeSchedule, Param, TriggerRule, dag, task
from common import DAG, DATASET, LAST, TRAINING, WEEKLY, run_key, tags

from pump_ml import catalog, steps

FAMILIES = list(catalog.FAMILIES)


@dag(
    **DAG,
    schedule=AssetOrTimeSchedule(timetable=WEEKLY, assets=[DATASET]),
    max_active_runs=1,
    params={
        "snapshot": Param(None, type=["null", "string"], description="Key; empty: newest published.", section="Data"),
        "problem": Param(None, type=["null", "string"], description="Name or YAML; empty: its own.", section="Data"),
        "seed": Param(7, type="integer", minimum=0, description="Of the split and of the models.", section="Data"),
        "families": Param(None, type=["null", "array"], items={"type": "string", "enum": FAMILIES}, uniqueItems=True,
                          examples=FAMILIES, description="Empty: all that fit the data.", section="Models"),
        "preset": Param("standard", enum=list(catalog.PRESETS), description="How long they learn.", section="Models"),
        "hyper": Param({}, type="object", description='Such as {"xgb": {"depth": 6}}.', section="Models"),
        "trials": Param(0, type="integer", minimum=0, description="Tune each family first; 0: no.", section="Models"),
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
            run_key(ti), tags=tags(ti), **{n: params[n] for n in ("families", "preset", "seed", "hyper", "trials")},
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
        settled = steps.read_plan(run_key(ti))
        steps.tune(settled, family, tags(ti))  # nothing where trials = 0
        return steps.train(settled, family, tags(ti))

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
