"""Whether a component of the stack is healthy, for compose and Kubernetes: ``healthcheck.py COMPONENT`` exits 0 or 1.

Standard library only: it runs every few seconds in every container. Example: ``healthcheck.py mlflow``
"""

import base64
import json
import os
import sys
from urllib.request import ProxyHandler, Request, build_opener

TIMEOUT_S = 8
API = os.environ.get("AIRFLOW_HEALTH_URL", "http://airflow-apiserver:8080/api/v2/monitor/health")
# No proxy: the addresses are the stack's own.
OPEN = build_opener(ProxyHandler({})).open


def mlflow() -> None:
    """MLflow and its database: its own /health answers 200 while the database is down."""
    login = f"{os.environ['MLFLOW_HEALTH_USER']}:{os.environ['MLFLOW_HEALTH_PASSWORD']}"
    headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
    address = "http://localhost:5000/api/2.0/mlflow/experiments/get?experiment_id=0"
    OPEN(Request(address, headers=headers), timeout=TIMEOUT_S).read()


def api_server() -> None:
    """The API server of this container, and Airflow's database."""
    _expect("metadatabase", "http://localhost:8080/api/v2/monitor/health")


def scheduler() -> None:
    """The scheduler of this container, which must have sent a heartbeat lately."""
    OPEN("http://localhost:8974/health", timeout=TIMEOUT_S).read()  # 503 without a heartbeat, and no body


def dag_processor() -> None:
    """A DAG processor, by the heartbeats that the API server knows."""
    _expect("dag_processor", API)


def triggerer() -> None:
    """A triggerer, by the heartbeats that the API server knows."""
    _expect("triggerer", API)


def _expect(component: str, address: str) -> None:
    status = json.load(OPEN(address, timeout=TIMEOUT_S))[component]["status"]
    if status != "healthy":
        raise SystemExit(f"{component} is {status}")


CHECKS = {
    check.__name__.replace("_", "-"): check for check in (mlflow, api_server, scheduler, dag_processor, triggerer)
}

if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in CHECKS]:
        raise SystemExit(f"given {sys.argv[1:]}, expected one of: {', '.join(CHECKS)}")
    try:
        CHECKS[sys.argv[1]]()
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"{sys.argv[1]}: {error}") from error
