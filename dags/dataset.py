"""Generate or ingest readings, hold them against their suite, and store the good rows as an immutable snapshot."""

from airflow.sdk import Param, dag, task
from common import DAG, DATASET, INGESTION

from pump_ml import steps


@dag(
    **DAG,
    schedule=None,
    max_active_runs=2,
    params={
        "source": Param(
            "simulated", enum=["simulated", "files"], description="Where readings come from.", section="Data"
        ),
        "pumps": Param(
            560, type="integer", minimum=15, maximum=5000, description="Simulated pumps.", section="Simulated"
        ),
        "samples": Param(12, type="integer", minimum=4, maximum=200, description="Hours a pump.", section="Simulated"),
        "seed": Param(7, type="integer", minimum=0, description="Same seed, same rows.", section="Simulated"),
        "mapping": Param(None, type=["null", "string"], description="Shipped name or path of a YAML.", section="Files"),
        "path": Param(None, type=["null", "string"], description="Folder, file or archive.", section="Files"),
        "problem": Param("diagnosis", type="string", description="Problem to train for: name or YAML.", section="Next"),
        "publish": Param(True, type="boolean", description="Start the DAG training on the snapshot.", section="Next"),
    },
    doc_md=__doc__,
)
def dataset():
    @task(**INGESTION)
    def fetch(params: dict) -> dict:
        simulated = ("pumps", "samples", "seed") if params["source"] == "simulated" else ()
        options = {name: params[name] for name in (*simulated, "mapping", "path") if params[name] is not None}
        return steps.fetch(params["source"], options)

    @task(**INGESTION)
    def validate(fetched: dict) -> dict:
        return steps.validate(fetched["raw"])

    @task(**INGESTION)
    def snapshot(validated: dict) -> dict:
        return steps.snapshot(validated)

    @task.short_circuit
    def asked_to_publish(params: dict) -> bool:
        return params["publish"]

    @task(outlets=[DATASET])
    def publish(stored: dict, params: dict, outlet_events=None) -> None:
        outlet_events[DATASET].extra = {"snapshot": stored["snapshot"], "problem": params["problem"]}

    stored = snapshot(validate(fetch()))
    stored >> asked_to_publish() >> publish(stored)


dataset()
