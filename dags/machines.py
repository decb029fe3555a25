"""Train the models of single machines, in batches: by hand for some of them, every night for all; then count them.

A machine that fails fails alone; the run fails when too few were trained. New, it is paused: unpause it when
PUMP_ML_TELEMETRY_URL names the plant's database.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, TriggerRule, dag, task
from common import DAG, MACHINES, run_key

from pump_ml import catalog, steps

NIGHTLY = CronTriggerTimetable("0 1 * * *", timezone="UTC", run_immediately=timedelta(0))
KINDS, STRING = list(catalog.MACHINE_MODELS), ["null", "string"]


@dag(
    **DAG,
    schedule=NIGHTLY,
    max_active_runs=1,
    is_paused_upon_creation=True,
    params={
        "machines": Param(None, type=["null", "array"], items={"type": "string", "minLength": 1}, uniqueItems=True,
                          description="As the plant names them; empty: all with readings.", section="Machines"),
        "kinds": Param(None, type=["null", "array"], items={"type": "string", "enum": KINDS}, uniqueItems=True,
                       examples=KINDS, description="gru: forecast; xgb: alarm; empty: both.", section="Machines"),
        "days": Param(30, type=["null", "number"], exclusiveMinimum=0, maximum=36_500, section="Period",
                      description="Up to its end, where it has no start; empty: all there are."),
        "from": Param(None, type=STRING, format="date-time", description="Start of the readings.", section="Period"),
        "to": Param(None, type=STRING, format="date-time", description="Their end; empty: now.", section="Period"),
        "least_share": Param(0.9, type="number", minimum=0, maximum=1, section="Run",
                             description="Trained, of those that could be; below it the run fails."),
        "plant": Param("processed_data", type="string", section="Run", description="Name or YAML of the table."),
        "policy": Param(None, type=STRING, description="YAML of how models are made; empty: ours.", section="Run"),
        "seed": Param(7, type="integer", minimum=0, maximum=2**32 - 1, section="Run",
                      description="Same seed and rows, same model."),
    },
    doc_md=__doc__,
)  # fmt: skip
def machines():
    @task
    def plan(params: dict, ti=None) -> list[dict]:
        same = ("machines", "kinds", "days", "least_share", "plant", "policy", "seed")
        period = {"start": params["from"], "end": params["to"]}
        return steps.plan_machines(run_key(ti), **{name: params[name] for name in same}, **period)

    @task(**MACHINES, map_index_template="{{ task.op_kwargs['batch']['name'] }}")
    def train(batch: dict, ti=None) -> dict:
        return steps.train_batch(run_key(ti), batch["number"])

    @task(trigger_rule=TriggerRule.ALL_DONE)  # its verdict is the run's: one red machine among many is not
    def roll_up(ti=None) -> dict:
        return steps.roll_up(run_key(ti))

    train.expand(batch=plan()) >> roll_up()


machines()
