"""Screenshots of a stack that `make ui` keeps up, for the documentation.

Example: .venv/bin/python tools/screenshots.py docs/images
"""

import json
import sys
from pathlib import Path
from urllib.parse import quote

import mlflow
from playwright.sync_api import Page, sync_playwright

from pump_ml.settings import Settings

CHROMIUM = "/usr/bin/chromium"
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
SORT = "metrics.`test/rul_pct_mae`"


def airflow(page: Page, base: str, password: str, folder: Path) -> None:
    """The graph of the newest successful training run, and the form that starts one."""
    page.goto(f"{base}/auth/login/", wait_until="networkidle")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", password)
    page.keyboard.press("Enter")
    page.wait_for_function("document.cookie.includes('_token')")
    runs = page.request.get(f"{base}/api/v2/dags/training/dagRuns?state=success&order_by=-run_after&limit=1").json()
    run = runs["dag_runs"][0]["dag_run_id"]
    page.goto(f"{base}/dags/training/runs/{run}/", wait_until="networkidle")
    page.get_by_role("button", name="Graph").click()
    page.wait_for_timeout(4000)
    page.screenshot(path=folder / "airflow_graph.png")
    page.get_by_role("button", name="Trigger").first.click()
    page.get_by_role("menuitem", name="Trigger", exact=True).click()
    for section in ("Data", "Models"):
        page.get_by_role("button", name=section, exact=True).click()
    page.wait_for_timeout(3000)
    page.screenshot(path=folder / "airflow_params.png")


def compare(page: Page, base: str, tracking: str, folder: Path) -> None:
    """MLflow's compare view of the families of the newest training run."""
    client = mlflow.MlflowClient(tracking)
    experiment = client.get_experiment_by_name("diagnosis").experiment_id
    newest = client.search_runs(
        [experiment], "tags.family = 'baseline' and attributes.status = 'FINISHED'", max_results=1
    )
    of_one_run = f"tags.`mlflow.parentRunId` = '{newest[0].data.tags['mlflow.parentRunId']}'"
    view = f"workflowType=machine_learning&searchFilter={quote(of_one_run)}&orderByKey={quote(SORT)}&orderByAsc=true"
    page.goto(f"{base}/#/experiments/{experiment}/runs?{view}&compareRunsMode=CHART", wait_until="load")
    page.get_by_label("Close").first.click()  # the assistant
    page.wait_for_timeout(5000)
    page.screenshot(path=folder / "mlflow_charts.png")
    ids = quote(json.dumps([run.info.run_id for run in client.search_runs([experiment], of_one_run)]))
    experiments = quote(json.dumps([experiment]))
    page.goto(
        f"{base}/#/compare-runs?runs={ids}&experiments={experiments}&workflowType=machine_learning", wait_until="load"
    )
    page.reload()  # the page keeps the view before it otherwise
    page.wait_for_timeout(6000)
    page.screenshot(path=folder / "mlflow_compare.png")


def main() -> None:
    """Take all of them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings.load()
    passwords = json.loads((settings.home / "airflow" / "passwords.json").read_text())
    stack = json.loads((settings.home / "run" / "stack.json").read_text())
    docs = max((settings.home / "docs").glob("*/index.html"), key=lambda path: path.stat().st_mtime)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        airflow(page, stack["airflow"], passwords["admin"], folder)
        compare(page, stack["mlflow"], settings.tracking, folder)
        page.goto(docs.as_uri(), wait_until="load")
        page.wait_for_timeout(2000)
        page.screenshot(path=folder / "data_docs.png")
        browser.close()


if __name__ == "__main__":
    main()
