"""A fleet's machines in batches, and what is told of them at the end: no store, no training."""

import re
from typing import Any

import pytest

from pump_ml import catalog, scoreboard
from pump_ml.machines import fleet
from pump_ml.machines.policy import Policy, load_policy

# Batches


def divided(rows: dict[str, int], kinds: tuple[str, ...] = ("gru",), batch_s: float = 60.0) -> list[fleet.Batch]:
    return fleet.batches(rows, kinds, load_policy(), batch_s)


def cost(batch: fleet.Batch, rows: dict[str, int], policy: Policy) -> float:
    return sum(fleet.COSTS[batch.kind](rows[machine], policy) for machine in batch.machines)


def test_small_machines_share_a_task_that_is_named_after_them_and_each_is_in_one() -> None:
    rows = {f"MP-{number:03d}": 3_000 for number in range(1, 21)}
    found = divided(rows, ("gru", "xgb"))
    assert [machine for each in found if each.kind == "xgb" for machine in each.machines] == list(rows)
    assert found[-1].name == "MP-001 … MP-020 xgb (20)"
    of_gru = [each for each in found if each.kind == "gru"]
    assert [machine for each in of_gru for machine in each.machines] == list(rows)
    assert len(of_gru) > 1
    assert all(cost(each, rows, load_policy()) >= 60.0 for each in of_gru[:-1])


def test_a_large_machine_has_a_task_to_itself_that_has_its_name() -> None:
    found = divided({"MP-001": 1_000, "MP-002": 1_000_000, "MP-003": 1_000})
    assert [each.name for each in found] == ["MP-001 gru", "MP-002 gru", "MP-003 gru"]


@pytest.mark.parametrize("rows", [300_000, 10], ids=["large", "tiny"])
def test_a_plant_of_5000_machines_makes_no_more_tasks_than_airflow_maps(rows: int) -> None:
    found = divided({f"P-{number}": rows * (1 + number % 3) for number in range(5_000)}, ("gru", "xgb"), 0.0)
    assert len(found) <= catalog.MOST_BATCHES
    assert sum(len(each.machines) for each in found) == 10_000


def test_what_learns_shorter_comes_in_larger_batches() -> None:
    policy = load_policy()
    short = policy.model_copy(update={"forecast": policy.forecast.model_copy(update={"epochs": 2})})
    rows = {f"P-{number}": 10_000 for number in range(100)}
    assert len(fleet.batches(rows, ["gru"], short)) < len(fleet.batches(rows, ["gru"], policy)) / 2


# What is told


def outcome(number: int, **changes: Any) -> dict[str, Any]:
    metrics = dict.fromkeys(fleet.METRICS["gru"], float(number))
    return {"machine": f"P-{number}", "kind": "gru", "outcome": "trained", "reason": "", "champion": True,
            "metrics": metrics} | changes  # fmt: skip


def test_a_name_with_brackets_is_a_name_and_no_markup() -> None:
    found = [
        {"machine": "Pump [/a]", "kind": "xgb", "outcome": "failed", "reason": "[red] why"},
        {"machine": "bomba [sul]", "kind": "xgb", "outcome": "trained", "champion": True, "metrics": {"auc": 0.9}},
    ]
    told = "\n".join(scoreboard.machine_lines(found))
    assert all(part in told for part in ("Pump [/a]", "[red] why", "bomba [sul]"))


def test_the_median_is_over_the_models_that_have_the_metric() -> None:
    told = [outcome(1), outcome(2), outcome(9, metrics={"mae": 9.0, "r2": None}, outcome="published before")]
    found = fleet.summary([*told, {**outcome(4), "outcome": "failed", "metrics": {}}])
    assert found["share"] == 0.75
    assert found["kinds"]["gru"]["median"] == {"mae": 2.0, "rmse": 1.5, "r2": 1.5, "skill_over_persistence": 1.5}


def test_of_many_machines_a_log_has_the_median_and_of_few_each() -> None:
    few = "\n".join(scoreboard.machine_lines([outcome(number) for number in range(3)]))
    assert "gru: 3 of 3 trained, 0 failed; 3 became champion" in few
    assert "P-1 " in few
    many = "\n".join(scoreboard.machine_lines([outcome(number) for number in range(301)]))
    assert "P-1 " not in many
    assert re.search(r"median +150 +150 +150 +150", many)
