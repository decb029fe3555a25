"""Suites of rules as JSON, and the rules that each sensor and label brings; `pump_ml.validation` runs them.

A suite is `<name>.json` in the folder of suites, as Great Expectations writes it, without ids of its own. Each
expectation has ``meta.id`` and ``meta.reason``. Severity "critical" makes it part of the contract: broken, nothing may
be trained. Severity "warning" costs the failing row. ``meta.includes`` of a suite names suites whose rules hold too;
``meta.max_quarantined_share`` is the share of rows that may fail before the contract counts as broken.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pump_ml.errors import ConfigurationError, UnknownNameError
from pump_ml.schema import ASSET, RUN, Telemetry

Rule = dict[str, Any]
"""One expectation as JSON: type, kwargs, severity, meta."""


def read(name: str, folder: Path) -> tuple[dict[str, Any], list[Rule]]:
    """Meta of a suite, and its rules after those of the suites it includes."""
    known = sorted(path.stem for path in folder.glob("*.json"))
    names, metas, rules = [name], [], []
    for each in names:  # grows while it runs
        if each not in known:
            raise UnknownNameError(f"suite in {folder}", each, known)
        try:
            suite = json.loads((folder / f"{each}.json").read_text(encoding="utf-8"))
            metas.append(suite.get("meta", {}))
            rules.append(list(suite["expectations"]))
            names += [other for other in metas[-1].get("includes", []) if other not in names]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ConfigurationError(
                f"suite {folder / each}.json: {error!r}; expected JSON with name, meta and expectations"
            ) from error
    return metas[0], [rule for part in reversed(rules) for rule in part]


def of_sensors(telemetry: Telemetry) -> list[Rule]:
    """What holds for every sensor: a number, given, finite, within the limits that came with the source."""
    rules = []
    limits = telemetry.origin.get("limits") or {}
    for sensor in (sensor.name for sensor in telemetry.sensors):
        rules += [
            _number(sensor),
            _given(sensor, "A gap is not a reading: a model would learn from whatever fills it."),
            _rule(
                f"{sensor}-finite",
                "expect_column_values_to_be_finite",
                "An instrument shows finite numbers; infinity is a division by zero on the way.",
                column=sensor,
            ),
        ]
    for sensor, (low, high) in limits.items():
        if low is not None or high is not None:
            bounds = {key: value for key, value in (("min_value", low), ("max_value", high)) if value is not None}
            reason = "The limits that the source's configuration gives for this sensor."
            rules.append(
                _rule(f"{sensor}-limits", "expect_column_values_to_be_between", reason, column=sensor, **bounds)
            )
    return rules


def of_labels(telemetry: Telemetry) -> list[Rule]:
    """What holds for every label: given; a remaining life never grows within a run."""
    rules = [
        _given(label, "A row without its answer can neither train nor judge a model.") for label in telemetry.labels
    ]
    for label in telemetry.labels:
        if label.startswith("rul"):
            rules += [
                _number(label),
                _rule(
                    f"{label}-never-rises",
                    "expect_value_not_to_increase_within_run",
                    "Remaining life does not grow while a machine runs; after a repair a new run begins.",
                    column_list=[ASSET, RUN, label],
                    ignore_row_if="any_value_is_missing",
                ),
            ]
    return rules


def _given(column: str, reason: str) -> Rule:
    return _rule(f"{column}-given", "expect_column_values_to_not_be_null", reason, column=column)


def _number(column: str) -> Rule:
    rule = _rule(
        f"{column}-number",
        "expect_column_values_to_be_in_type_list",
        "Models compute with numbers; text among them is a wrong decimal sign, a wrong column or an error code.",
        column=column,
        type_list=["float", "int"],
    )
    rule["severity"] = "critical"
    rule["meta"]["cure"] = "Look at the column in the source, its decimal sign, and its place in the mapping."
    return rule


def _rule(name: str, kind: str, reason: str, **kwargs: Any) -> Rule:
    return {"type": kind, "kwargs": kwargs, "severity": "warning", "meta": {"id": name, "reason": reason}}


def complete(rules: list[Rule]) -> list[Rule]:
    """The rules, and before them one that all the columns they name exist.

    Raises:
        ConfigurationError: a rule lacks type, kwargs, id, reason or a known severity, or two rules share an id.
    """
    asked: set[str] = set()
    for rule in rules:
        meta, severity = rule.get("meta", {}), rule.get("severity")
        complete = rule.keys() >= {"type", "kwargs"} and meta.get("id") and meta.get("reason")
        if not complete or severity not in ("critical", "warning"):
            raise ConfigurationError(
                f'rule {rule}: expected type, kwargs, "severity": "critical" or "warning", and meta with id and reason'
            )
        asked.update(rule["kwargs"].get("column_set", ()))
    twice = [name for name, count in Counter(rule["meta"]["id"] for rule in rules).items() if count > 1]
    if twice:
        raise ConfigurationError(f"rule ids {', '.join(twice)}: each occurs more than once; expected one rule an id")
    present = _rule(
        "columns-present",
        "expect_table_columns_to_match_set",
        "A rule about a column that is not there would check nothing.",
        column_set=sorted({column for rule in rules for column in columns(rule)} - asked),
        exact_match=False,
    )
    present["severity"] = "critical"
    present["meta"]["cure"] = "Name the column in the source's mapping, or choose the suite that fits the source."
    return [present, *rules]


def columns(rule: Rule) -> set[str]:
    """The columns whose values a rule looks at."""
    kwargs = rule["kwargs"]
    columns = {kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs}
    condition = kwargs.get("row_condition")
    if isinstance(condition, dict) and "column" in condition:
        columns.add(condition["column"]["name"])
    return columns | set(kwargs.get("column_list", ()))
