"""Readings against their suite: Great Expectations runs it, quarantine of rows that break a rule, Data Docs.

Nobody else knows GX. What a suite is stands in `pump_ml.suites`.
"""

import logging
import os
import warnings
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pump_ml import suites as rulebook
from pump_ml.data_docs import make_self_contained
from pump_ml.errors import ConfigurationError, ContractError, UnknownNameError
from pump_ml.schema import TIME, Telemetry
from pump_ml.suites import Rule

MAX_QUARANTINED_SHARE = 0.05
"""Where a suite does not say: one bad row in twenty is a broken sensor, more is a broken source."""


@dataclass(frozen=True, eq=False)
class Validation:
    """What validation found.

    Args:
        good: the rows that broke no rule, in their order, with their index and dtypes; cycles are int64.
        quarantined: the other rows, and two columns: ``row``, the position among the readings (int64), and ``rules``,
            the ids of the rules it broke, joined by ``;``.
        report: JSON: suite, rows, quarantined, and for each rule id, reason, severity, success, observed and failing,
            the number of rows (None where the rule is about the table or was not checked).
        docs: ``index.html`` of the Data Docs, if they were asked for.
    """

    good: pd.DataFrame
    quarantined: pd.DataFrame
    report: dict[str, Any]
    docs: Path | None


def validate(telemetry: Telemetry, *, suites: Path, docs: Path | None = None) -> Validation:
    """Check readings against their suite, and sensors and labels against what every sensor and label must be.

    Args:
        telemetry: the readings, the name of their suite, and maybe ``origin["limits"]``, which gives
            ``[min or None, max or None]`` by sensor.
        suites: folder of the suites.
        docs: folder for the Data Docs; None builds none.

    Raises:
        ConfigurationError: the suite or one of its rules cannot be used.
        ContractError: a rule of the contract is broken, or too many rows fail. The Data Docs are built, and the error
            carries the report and the quarantined rows.
    """
    meta, rules, results = _held(telemetry, suites, "COMPLETE", docs)
    outcomes = [_outcome(rule, results.get(rule["meta"]["id"])) for rule in rules]
    failing = {each["id"]: _failing_rows(results[each["id"]]) for each in outcomes if each["id"] in results}
    quarantined = _quarantined(telemetry.readings, failing)
    report = {
        "suite": telemetry.suite,
        "rows": len(telemetry.readings),
        "quarantined": len(quarantined),
        "rules": outcomes,
    }
    complaints = _complaints(rules, outcomes, results)
    allowed = float(meta.get("max_quarantined_share", MAX_QUARANTINED_SHARE))
    if not complaints and len(quarantined) > allowed * len(telemetry.readings):
        complaints = [_too_many(report, allowed)]
    if complaints:
        raise ContractError(_broken(telemetry, complaints), report=report, quarantined=quarantined)

    keep = np.ones(len(telemetry.readings), dtype=bool)
    keep[quarantined["row"]] = False
    good = telemetry.readings if keep.all() else telemetry.readings[keep]
    if pd.api.types.is_float_dtype(good[TIME]):
        good = good.astype({TIME: "int64"})  # cycles are whole again where those without one are gone
    return Validation(good, quarantined, report, docs / "index.html" if docs else None)


def inspect(telemetry: Telemetry, *, suites: Path, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Hold readings against their suite where their reader takes single cells for missing: no row is taken away.

    So a rule of severity "warning" costs nothing here, neither a row nor, where it can point at none, the contract.

    Args:
        telemetry: as `validate` takes it.
        suites: folder of the suites. ``max_quarantined_share`` of a suite does not count here.
        without: columns that these readings do not have; rules about them are left out.

    Returns:
        JSON: suite, rows, and rules as in the report of `Validation`.

    Raises:
        ConfigurationError: the suite or one of its rules cannot be used.
        ContractError: a rule of the contract is broken, or a check failed itself.
    """
    _, rules, results = _held(telemetry, suites, "SUMMARY", without=without)
    outcomes = [_outcome(rule, results.get(rule["meta"]["id"])) for rule in rules]
    report = {"suite": telemetry.suite, "rows": len(telemetry.readings), "rules": outcomes}
    if complaints := _complaints(rules, outcomes, results, rowless=False):
        raise ContractError(_broken(telemetry, complaints), report=report)
    return report


def check(telemetry: Telemetry, *, suites: Path) -> None:
    """Find out whether a suite can be used for such readings, without looking at any.

    Raises:
        ConfigurationError: the suite is not there, or one of its rules cannot be used or names an unknown column.
    """
    _, rules = _rules(telemetry, suites)
    _expectations(telemetry.suite, rules)
    for rule in rules:
        for column in sorted(rulebook.columns(rule) - set(telemetry.readings)):
            raise UnknownNameError(
                f"column of rule {rule['meta']['id']!r} of suite {telemetry.suite!r}",
                column,
                list(map(str, telemetry.readings)),
            )


def _broken(telemetry: Telemetry, complaints: list[str]) -> str:
    return "\n".join([f"the readings break the contract of suite {telemetry.suite!r}:", *complaints])


def _rules(
    telemetry: Telemetry, suites: Path, without: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], list[Rule]]:
    """Meta of the suite, and its rules and those of sensors and labels; none about the columns that are not there."""
    meta, rules = rulebook.read(telemetry.suite, suites)
    rules = [*rules, *rulebook.of_sensors(telemetry), *rulebook.of_labels(telemetry)]
    return meta, rulebook.complete([rule for rule in rules if not rulebook.columns(rule) & without])


def _held(
    telemetry: Telemetry,
    suites: Path,
    result_format: str,
    docs: Path | None = None,
    *,
    without: frozenset[str] = frozenset(),
) -> tuple[dict[str, Any], list[Rule], dict[str, Any]]:
    """Meta of the suite, all rules, and by its id the result of each that there was something to look at for."""
    meta, rules = _rules(telemetry, suites, without)
    view = _view(telemetry.readings)
    # Where a column or every row is missing, the rule that says so says it once; the others have nothing to look at.
    there = set(view.columns) if len(view) else set()
    asked = [rule for rule in rules if rulebook.columns(rule) <= there]
    return meta, rules, _run(telemetry.suite, asked, view, result_format, docs)


# ---------------------------------------------------------------- running


def _view(readings: pd.DataFrame) -> pd.DataFrame:
    """The readings in dtypes that GX checks without a Python call a value, indexed by row position."""
    return pd.DataFrame({column: _plain(values) for column, values in readings.items()}, index=range(len(readings)))


def _plain(values: "pd.Series[Any]") -> Any:
    dtype: Any = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _plain(values.astype(dtype.categories.dtype))
    if pd.api.types.is_object_dtype(dtype) and not pd.api.types.is_object_dtype(inferred := values.infer_objects()):
        return _plain(inferred)
    if pd.api.types.is_bool_dtype(dtype) or not pd.api.types.is_numeric_dtype(dtype):
        return values.array
    if pd.api.types.is_integer_dtype(dtype) and not values.hasnans:
        return values.to_numpy(dtype="int64")
    return values.to_numpy(dtype="float64", na_value=np.nan)


def _run(suite: str, rules: list[Rule], view: pd.DataFrame, result_format: str, docs: Path | None) -> dict[str, Any]:
    """Result of each rule by its id, as GX gives it; Data Docs into `docs`."""
    gx = _great_expectations()
    from great_expectations.data_context.types import base

    sites = {}
    if docs:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        sites["local"] = {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store}
    config = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        data_docs_sites=sites,
        progress_bars=base.ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    batch = (
        context.data_sources.add_pandas("readings")
        .add_dataframe_asset(suite)
        .add_batch_definition_whole_dataframe("all")
    )
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name=suite,
            data=batch,
            suite=context.suites.add(gx.ExpectationSuite(name=suite, expectations=_expectations(suite, rules))),
        )
    )
    outcome = definition.run(
        batch_parameters={"dataframe": view},
        result_format={"result_format": result_format, "return_unexpected_index_query": False},
    )
    if docs:
        context.build_data_docs()
        make_self_contained(docs)
    context.data_sources.delete("readings")  # GX keeps the last context, and the copy of the readings with it
    return {result.expectation_config.meta["id"]: result for result in outcome.results}


def _expectations(suite: str, rules: list[Rule]) -> list[Any]:
    """The rules as GX has them, one by one, since a suite only logs the ones that it cannot use and goes on without.

    Raises:
        ConfigurationError: a rule cannot be used.
    """
    _great_expectations()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        return [ExpectationConfiguration(**rule, description=_description(rule)).to_domain_obj() for rule in rules]
    except Exception as error:  # GX and pydantic raise many kinds for an unknown type or a wrong argument
        raise ConfigurationError(f"suite {suite!r}: Great Expectations does not accept a rule: {error}") from error


def _great_expectations() -> Any:
    """Import Great Expectations (3 s, 290 MB) without what it says and sends by itself."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # it reports each decorated function
    shown_by = warnings.showwarning
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"module 'sre_\w+' is deprecated", DeprecationWarning)
        import great_expectations as gx

        import pump_ml.expectation_types  # noqa: F401 -- registers the types

        if warnings.showwarning is not shown_by:
            logging.captureWarnings(capture=False)  # it sends everybody's warnings to the log
    return gx


# ---------------------------------------------------------------- outcome


def _expected(rule: Rule) -> str:
    """A rule in words: ``column values to be between: column=speed_rpm, min_value=0, max_value=3780``."""
    hidden = ("column_set", "exact_match", "ignore_row_if")
    shown = [f"{key.rstrip('_')}={value}" for key, value in rule["kwargs"].items() if key not in hidden]
    return ": ".join([rule["type"].removeprefix("expect_").replace("_", " "), *([", ".join(shown)] if shown else [])])


def _description(rule: Rule) -> str:
    """What Data Docs show for a rule; a dollar sign would start a template parameter there."""
    meta = rule["meta"]
    return f"{meta['id']}: {_expected(rule)}. {meta['reason']}".replace("$", "$$")


def _outcome(rule: Rule, result: Any) -> dict[str, Any]:
    """A rule's entry in the report; `result` is None where the rule was not checked."""
    entry = {"id": rule["meta"]["id"], "reason": rule["meta"]["reason"], "severity": rule["severity"]}
    if result is None:
        return entry | {"success": False, "failing": None, "observed": "not checked"}
    found, failing = result["result"], result["result"].get("unexpected_count")
    if crash := _crash(result):
        observed = f"the check itself failed: {crash}"
    elif failing:
        samples = zip(found["partial_unexpected_index_list"], found["partial_unexpected_list"], strict=True)
        observed = f"{failing} failing, such as " + "; ".join(
            f"row {row}: {_text(value)}" for row, value in islice(samples, 3)
        )
    elif missing := found.get("details", {}).get("mismatched", {}).get("missing"):
        observed = f"missing: {', '.join(missing)}"
    else:
        observed = str(found.get("observed_value", "no failing row"))
    return entry | {"success": bool(result.success), "failing": failing, "observed": observed}


def _text(value: Any) -> str:
    """A failing value, or the values of a rule about several columns."""
    return ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def _crash(result: Any) -> str | None:
    """What was raised inside a check. GX keys it by metric, or not at all."""
    info = result.exception_info
    for each in [info] if "raised_exception" in info else info.values():
        if each["raised_exception"]:
            return str(each["exception_message"])
    return None


def _failing_rows(result: Any) -> list[int]:
    return result["result"].get("unexpected_index_list") or []


def _complaints(
    rules: list[Rule], outcomes: list[dict[str, Any]], results: dict[str, Any], *, rowless: bool = True
) -> list[str]:
    """One line for each rule of the contract that failed; if there is none, for each that was not checked.

    A rule whose check failed itself is of the contract whatever its severity, and where `rowless` so is one that cannot
    point at rows.
    The latter is left out where another rule has named the column already: text among numbers fails every other check.
    """
    plain, crashed, unchecked, named = [], [], [], set()
    for rule, outcome in zip(rules, outcomes, strict=True):
        result = results.get(outcome["id"])
        if outcome["success"]:
            continue
        cure = rule["meta"].get("cure", "Correct the source, or the rule if it is wrong.")
        line = f"- {outcome['id']}: {outcome['observed']}. Expected: {_expected(rule)}. {outcome['reason']} {cure}"
        if result is None:
            unchecked.append(line)
        elif _crash(result):
            crashed.append((line, rulebook.columns(rule)))
        elif outcome["severity"] == "critical" or (rowless and not _failing_rows(result)):
            plain.append(line)
            named |= rulebook.columns(rule)
    return plain + [line for line, columns in crashed if not columns & named] or unchecked


def _too_many(report: dict[str, Any], allowed: float) -> str:
    worst = sorted(report["rules"], key=lambda outcome: outcome["failing"] or 0, reverse=True)[:3]
    named = [f"- {each['id']}: {each['observed']}. {each['reason']}" for each in worst if each["failing"]]
    rows, bad = report["rows"], report["quarantined"]
    head = (
        f"{bad} of {rows} rows ({bad / rows:.1%}) break a rule; expected at most {allowed:.1%}. "
        "Correct the source, or raise meta.max_quarantined_share of the suite. Most broken:"
    )
    return "\n".join([head, *named])


def _quarantined(readings: pd.DataFrame, failing: dict[str, list[int]]) -> pd.DataFrame:
    """The rows that broke a rule, with ``row`` and ``rules``; columns of Python objects become text, to be stored."""
    broken = pd.DataFrame(
        {
            "row": np.array([row for rows in failing.values() for row in rows], dtype=np.int64),
            "rules": np.repeat(list(failing), [len(rows) for rows in failing.values()]),
        }
    )
    rules = broken.groupby("row")["rules"].agg(";".join)
    objects = {column: "str" for column, values in readings.items() if pd.api.types.is_object_dtype(values)}
    kept = readings.iloc[rules.index].astype(objects).copy()  # in one piece: pandas warns of many small ones
    return kept.assign(row=rules.index, rules=rules.to_numpy())
