"""Screenshots for the documentation, of what was made on a stack that is up.

    .venv/bin/python tools/screenshots.py docs/images            # of `make ui`
    .venv/bin/python tools/screenshots.py docs/images --full     # of `make up`, by the logins in .env

The full stack may be elsewhere: ``--full FILE``, with AIRFLOW_PORT and MLFLOW_PORT in the environment.
"""

import argparse
import json
import os
from pathlib import Path
from urllib.parse import quote

import mlflow
from playwright.sync_api import Page, expect, sync_playwright

from pump_ml.compose.environment import read
from pump_ml.settings import CHECKOUT, Settings

CHROMIUM = "/usr/bin/chromium"
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
SIZE = {"width": 1600, "height": 1000}
SORT = "metrics.`test/rul_pct_mae`"
DRAWN_MS = 5000
"""Until charts and graphs have stopped moving."""


def log_in(page: Page, base: str, user: str, password: str) -> None:
    """Log in to Airflow, whichever of its login pages it has."""
    page.goto(f"{base}/auth/login/", wait_until="networkidle")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible(timeout=30_000)


def newest_run(page: Page, base: str) -> str:
    """Name of the newest training run that ended well."""
    runs = page.request.get(f"{base}/api/v2/dags/training/dagRuns?state=success&order_by=-run_after&limit=1").json()
    return str(runs["dag_runs"][0]["dag_run_id"])


def graph_and_form(page: Page, base: str, folder: Path) -> None:
    """The graph of the newest training run, and the form that starts one."""
    page.goto(f"{base}/dags/training/runs/{newest_run(page, base)}/", wait_until="networkidle")
    page.get_by_role("button", name="Graph").click()
    page.wait_for_timeout(DRAWN_MS)
    page.screenshot(path=folder / "airflow_graph.png")
    page.get_by_role("button", name="Trigger").first.click()
    page.get_by_role("menuitem", name="Trigger", exact=True).click()
    for section in ("Data", "Models"):
        page.get_by_role("button", name=section, exact=True).click()
    page.wait_for_timeout(DRAWN_MS)
    page.screenshot(path=folder / "airflow_params.png")


def gantt(page: Page, base: str, file: Path) -> None:
    """The newest training run: its tasks, when each one ran, and how it ended."""
    page.goto(f"{base}/dags/training/runs/{newest_run(page, base)}/", wait_until="networkidle")
    page.get_by_role("button", name="Show Gantt").click()
    page.wait_for_timeout(DRAWN_MS)
    page.screenshot(path=file)


def families(client: "mlflow.MlflowClient") -> tuple[str, str]:
    """The experiment, and the filter of the families of its newest training run."""
    experiment = str(client.get_experiment_by_name("diagnosis").experiment_id)
    baselines = "tags.family = 'baseline' and attributes.status = 'FINISHED'"
    newest = client.search_runs([experiment], baselines, max_results=1)[0]
    return experiment, f"tags.`mlflow.parentRunId` = '{newest.data.tags['mlflow.parentRunId']}'"


def charts(page: Page, base: str, client: "mlflow.MlflowClient", file: Path) -> None:
    """MLflow's charts of the families of the newest training run side by side."""
    experiment, of_one_run = families(client)
    view = f"workflowType=machine_learning&searchFilter={quote(of_one_run)}&orderByKey={quote(SORT)}&orderByAsc=true"
    page.goto(f"{base}/#/experiments/{experiment}/runs?{view}&compareRunsMode=CHART", wait_until="load")
    page.get_by_label("Close").first.click()  # the assistant
    page.wait_for_timeout(DRAWN_MS)
    page.screenshot(path=file)


def compare(page: Page, base: str, client: "mlflow.MlflowClient", file: Path) -> None:
    """MLflow's page that compares them line by line."""
    experiment, of_one_run = families(client)
    ids = quote(json.dumps([run.info.run_id for run in client.search_runs([experiment], of_one_run)]))
    experiments = quote(json.dumps([experiment]))
    page.goto(
        f"{base}/#/compare-runs?runs={ids}&experiments={experiments}&workflowType=machine_learning", wait_until="load"
    )
    page.reload()  # the page keeps the view before it otherwise
    page.wait_for_timeout(DRAWN_MS)
    page.screenshot(path=file)


def local(page: Page, folder: Path) -> None:
    """What `make ui` shows."""
    settings = Settings.load()
    passwords = json.loads((settings.home / "airflow" / "passwords.json").read_text())
    stack = json.loads((settings.home / "run" / "stack.json").read_text())
    docs = max((settings.home / "docs").glob("*/index.html"), key=lambda path: path.stat().st_mtime)
    client = mlflow.MlflowClient(settings.tracking)
    log_in(page, stack["airflow"], "admin", passwords["admin"])
    graph_and_form(page, stack["airflow"], folder)
    charts(page, stack["mlflow"], client, folder / "mlflow_charts.png")
    compare(page, stack["mlflow"], client, folder / "mlflow_compare.png")
    page.goto(docs.as_uri(), wait_until="load")
    page.wait_for_timeout(DRAWN_MS)
    page.screenshot(path=folder / "data_docs.png")


def full(page: Page, folder: Path, secrets: dict[str, str]) -> None:
    """What the full stack shows its viewers."""
    airflow = f"http://127.0.0.1:{os.environ.get('AIRFLOW_PORT', '8080')}"
    server = f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT', '5000')}"
    log_in(page, airflow, "viewer", secrets["AIRFLOW_VIEWER_PASSWORD"])
    gantt(page, airflow, folder / "stack-airflow-run.png")
    os.environ["MLFLOW_TRACKING_USERNAME"] = "viewer"
    os.environ["MLFLOW_TRACKING_PASSWORD"] = secrets["MLFLOW_VIEWER_PASSWORD"]
    page.set_viewport_size({"width": 1600, "height": 1080})  # the fourth chart stands in a row of its own
    charts(page, server, mlflow.MlflowClient(server), folder / "stack-mlflow-compare.png")


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", type=Path, nargs="?", const=CHECKOUT / ".env", metavar="FILE")
    wanted = parser.parse_args()
    wanted.folder.mkdir(parents=True, exist_ok=True)
    secrets = read(wanted.full) if wanted.full else {}
    login = {"username": "viewer", "password": secrets.get("MLFLOW_VIEWER_PASSWORD", "")}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        page = browser.new_page(viewport=SIZE, http_credentials=login if wanted.full else None)
        if wanted.full:
            full(page, wanted.folder, secrets)
        else:
            local(page, wanted.folder)
        browser.close()


if __name__ == "__main__":
    main()
