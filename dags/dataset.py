"""Generate or ingest readings, hold them against their suite, and store the good rows as an immutable snapshot."""

from airflow.sdk import Param, TriggerRule, dag, task
from common import DAG, DATASET, INGESTION

from pump_ml import catalog, steps

OPTIONS = {"simulated": ("dataset", "pumps", "samples", "days", "waveforms_h", "shards", "seed"), "files": ()}
INTEGER, STRING, TWIN = ["null", "integer"], ["null", "string"], "Simulated"
PARAMS = {
    "source": Param("simulated", enum=list(OPTIONS), description="Where readings come from.", section="Data"),
    "dataset": Param("v2", enum=list(catalog.DATASETS), description="v2: samples; v3: whole lives.", section=TWIN),
    "pumps": Param(None, type=INTEGER, minimum=15, maximum=5000, description="Empty: 560, in v3 140.", section=TWIN),
    "samples": Param(None, type=INTEGER, minimum=4, maximum=200, description="v2: hours; empty: 12.", section=TWIN),
    "days": Param(None, type=["null", "number"], minimum=1, description="v3: how long; empty: 365.", section=TWIN),
    "waveforms_h": Param(0, type="number", minimum=0, description="Hours between; v2: one a sample.", section=TWIN),
    "shards": Param(2, type="integer", minimum=1, maximum=catalog.MOST_SHARDS, description="Made apart.", section=TWIN),
    "seed": Param(7, type="integer", minimum=0, description="Same seed, same rows.", section=TWIN),
    "mapping": Param(None, type=STRING, description="Shipped name or path of a YAML.", section="Files"),
    "path": Param(None, type=STRING, description="Folder, file or archive.", section="Files"),
    "problem": Param(None, type=STRING, description="Name or YAML; empty: the dataset's own.", section="Next"),
    "publish": Param(True, type="boolean", description="Start the DAG training on the snapshot.", section="Next"),
}


def asked(params: dict) -> dict:
    names = (*OPTIONS[params["source"]], "mapping", "path")
    return {"source": params["source"], "options": {name: params[name] for name in names if params[name] is not None}}


@dag(**DAG, schedule=None, max_active_runs=2, params=PARAMS, doc_md=__doc__)
def dataset():
    @task(**INGESTION)
    def plan(params: dict) -> list[dict]:
        return steps.plan_shards(**asked(params))

    @task(**INGESTION, trigger_rule=TriggerRule.NONE_FAILED)  # files have no shards
    def fetch(params: dict) -> dict:
        return steps.fetch(**asked(params))

    @task(**INGESTION)
    def validate(fetched: dict) -> dict:
        return steps.validate(fetched["raw"])

    @task.short_circuit
    def asked_to_publish(params: dict) -> bool:
        return params["publish"]

    @task(outlets=[DATASET])
    def publish(stored: dict, params: dict, outlet_events=None) -> None:
        problem = params["problem"] or catalog.DATASETS[params["dataset"]]
        outlet_events[DATASET].extra = {"snapshot": stored["snapshot"], "problem": problem}

    named = "{{ task.op_kwargs['shard'] + 1 }} of {{ params.shards }}"
    fetched = fetch()
    task(**INGESTION, map_index_template=named)(steps.make_shard).expand_kwargs(plan()) >> fetched
    stored = task(**INGESTION)(steps.snapshot)(validate(fetched))
    stored >> asked_to_publish() >> publish(stored)


dataset()
