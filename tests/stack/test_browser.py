"""What a person does in Airflow's UI, in a real browser: log in, fill the form, start a training, see it end well."""

import re
import shutil
import time
from collections.abc import Iterator

import pytest
from harness import RUN_S, Stack
from playwright.sync_api import Browser, Page, Response, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
MODEL = "pump-diagnosis"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield browser
        browser.close()


def log_in(browser: Browser, stack: Stack, user: str) -> Page:
    """A window of its own in which `user` came from FAB's login page to the home page."""
    page = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
    page.goto(stack.address("airflow"))
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", stack.secrets[f"AIRFLOW_{user.upper()}_PASSWORD"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible(timeout=30_000)
    return page


def open_form(page: Page, dag: str) -> None:
    """From anywhere to the form that starts a run of `dag`."""
    page.get_by_role("link", name="Dags", exact=True).click()
    page.get_by_role("link", name=dag, exact=True).click()
    trigger = page.get_by_role("button", name="Trigger Dag")
    expect(trigger).to_have_count(1)  # the list of DAGs has one for each
    trigger.click()
    expect(page.get_by_text(f"Trigger Dag - {dag}")).to_be_visible()


def submit(page: Page) -> Response:
    """Press the form's button; what Airflow answers."""
    with page.expect_response(re.compile(r"/dagRuns$")) as answer:
        page.get_by_test_id("trigger-dag-submit").click()
    return answer.value


def versions(stack: Stack) -> dict[str, str]:
    """Version -> family of all registered versions."""
    return {v.version: v.tags["family"] for v in stack.mlflow("viewer").search_model_versions(f"name='{MODEL}'")}


def test_a_training_that_op_starts_by_the_form_ends_with_new_versions_and_one_champion(
    stack: Stack, snapshot: str, browser: Browser
) -> None:
    before, run = versions(stack), f"browser__{time.time():.0f}"
    page = log_in(browser, stack, "op")
    open_form(page, "training")
    page.get_by_role("button", name="Data", exact=True).click()
    page.fill("input[name=element_snapshot]", snapshot)
    page.get_by_role("button", name="Models", exact=True).click()
    choices = page.get_by_role("combobox")
    expect(choices).to_have_count(2)
    families, preset = choices.all()
    for family in ("baseline", "xgb"):  # empty, all would take part
        families.fill(family)
        families.press("Enter")
    preset.fill("quick")
    preset.press("Enter")
    page.get_by_role("button", name="Advanced Options").click()
    page.fill("input[name=dagRunId]", run)
    assert submit(page).ok

    page.goto(f"{stack.address('airflow')}/dags/training/runs/{run}")
    expect(page.get_by_test_id("header-card").get_by_text(re.compile("^(Success|Failed)$"))).to_be_visible(
        timeout=1000 * RUN_S
    )
    expect(page.get_by_test_id("header-card").get_by_text("Success")).to_be_visible()

    after = versions(stack)
    assert sorted(after[version] for version in set(after) - set(before)) == ["baseline", "xgb"]
    client = stack.mlflow("viewer")
    experiment = client.get_experiment_by_name("diagnosis").experiment_id
    runs = client.search_runs([experiment], f"tags.run_id = '{run}'")
    assert {r.data.tags.get("family"): r.info.status for r in runs} == dict.fromkeys(
        (None, "baseline", "xgb"), "FINISHED"
    )
    assert {r.data.tags["preset"] for r in runs} == {"quick"}
    assert {r.data.tags["snapshot"] for r in runs} == {snapshot}
    champions = client.get_registered_model(MODEL).aliases
    assert list(champions) == ["champion"]
    assert champions["champion"] in after


def test_the_form_refuses_a_viewer(stack: Stack, browser: Browser) -> None:
    with stack.airflow() as api:
        before = api.ask("GET", "/api/v2/dags/training/dagRuns")
    page = log_in(browser, stack, "viewer")
    open_form(page, "training")
    assert submit(page).status == 403
    expect(page.get_by_text("You do not have permission to perform this action.").first).to_be_visible()
    with stack.airflow() as api:
        after = api.ask("GET", "/api/v2/dags/training/dagRuns")
    assert before is not None
    assert after is not None
    assert after["total_entries"] == before["total_entries"]
