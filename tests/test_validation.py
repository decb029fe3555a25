import gc
import json
import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import whole_rows

from pump_ml.errors import ConfigurationError, ContractError, UnknownNameError
from pump_ml.schema import Sensor, Telemetry
from pump_ml.sources.simulated import SimulatedSource
from pump_ml.validation import Validation, inspect, validate

SUITES = Path(__file__).parent.parent / "expectations"
Damage = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Telemetry:
    return whole_rows(tmp_path_factory.mktemp("twin"), pumps=2, samples=2)


@pytest.fixture(scope="session")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Telemetry:
    return whole_rows(tmp_path_factory.mktemp("lives"), dataset="v3", pumps=2, days=20)


@pytest.fixture(scope="session")
def plant() -> Telemetry:
    """Two pumps with names and sensors of their own, in cycles, run to failure."""
    frames = [
        pd.DataFrame(
            {
                "asset_id": asset,
                "run_id": f"{asset}/{run}",
                "time": np.arange(1, 41),
                "commissioning": run == "commissioning",
                "oil_pressure_bar": 2.0,
                "rul_cycles": np.arange(39, -1, -1),
            }
        )
        for asset in ("P-1", "P-2")
        for run in ("commissioning", "000")
    ]
    readings = pd.concat(frames, ignore_index=True)
    return Telemetry(readings, (Sensor("oil_pressure_bar", "bar"),), ("rul_cycles",), suite="telemetry")


def cell(column: str, row: int, value: object) -> Damage:
    def damage(readings: pd.DataFrame) -> pd.DataFrame:
        readings.iloc[row, readings.columns.get_loc(column)] = value
        return readings

    return damage


def damaged(telemetry: Telemetry, *damages: Damage) -> Telemetry:
    readings = telemetry.readings.copy()
    for damage in damages:
        readings = damage(readings)
    return replace(telemetry, readings=readings)


def broken(validation: Validation) -> dict[int, str]:
    return dict(zip(validation.quarantined["row"], validation.quarantined["rules"], strict=True))


@pytest.mark.parametrize("source", ["twin", "lives", "plant"])
def test_clean_readings_pass_untouched(source: str, request: pytest.FixtureRequest) -> None:
    telemetry: Telemetry = request.getfixturevalue(source)
    before = telemetry.readings.copy()

    validation = validate(telemetry, suites=SUITES)

    pd.testing.assert_frame_equal(validation.good, before)
    pd.testing.assert_frame_equal(telemetry.readings, before)
    assert validation.quarantined.empty
    assert validation.docs is None
    assert all(rule["success"] for rule in validation.report["rules"])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(cell("speed_rpm", 5, np.nan), {5: "speed_rpm-given"}, id="nan"),
        pytest.param(cell("flow_m3_h", 5, np.inf), {5: "flow-range;flow_m3_h-finite"}, id="inf"),
        pytest.param(cell("oil_pressure_bar", 5, 11.0), {5: "oil-pressure-range"}, id="oil-pressure"),
        pytest.param(cell("oil_level_pct", 5, 101.0), {5: "oil-level-range"}, id="oil-level"),
        pytest.param(cell("vibration_nde_rms_mm_s", 5, 51.0), {5: "vibration-nde-rms-range"}, id="other-end"),
        pytest.param(cell("acceleration_crest", 5, 0.9), {5: "acceleration-crest-range"}, id="crest-below-rms"),
        pytest.param(cell("suction_pressure_bar", 5, -0.2), {5: "suction-pressure-range"}, id="negative-pressure"),
        pytest.param(cell("suction_pressure_bar", 5, 9.9), {5: "pump-raises-pressure"}, id="swapped-transmitters"),
        pytest.param(cell("mode", 5, "gremlins"), {5: "mode-known"}, id="unknown-mode"),
        pytest.param(cell("severity", 5, 4), {5: "severity-known"}, id="unknown-severity"),
        pytest.param(cell("rul_pct", 130, 100.5), {130: "rul-range;rul_pct-never-rises"}, id="rul-over-100"),
        pytest.param(cell("health_pct", 5, np.nan), {5: "health_pct-given"}, id="missing-label"),
        pytest.param(cell("asset_id", 5, None), {5: "asset-id-given"}, id="no-asset"),
        pytest.param(cell("time", 5, pd.NaT), {5: "time-given"}, id="no-time"),
    ],
)
def test_a_bad_cell_of_the_twin_costs_its_row_and_names_the_rule(
    twin: Telemetry, damage: Damage, expected: dict[int, str]
) -> None:
    telemetry = damaged(twin, damage)

    validation = validate(telemetry, suites=SUITES)

    assert broken(validation) == expected
    pd.testing.assert_frame_equal(validation.good, telemetry.readings.drop(index=list(expected)))
    pd.testing.assert_frame_equal(
        validation.quarantined.drop(columns=["row", "rules"]), telemetry.readings.loc[list(expected)]
    )
    assert validation.report["quarantined"] == 1


def test_a_life_that_is_over_has_no_hours_below_zero(lives: Telemetry) -> None:
    last = len(lives.readings) - 1
    damage = cell("rul_hours", last, -0.5)
    assert broken(validate(damaged(lives, damage), suites=SUITES)) == {last: "rul-hours-not-negative"}


def test_every_sensor_of_the_twin_has_a_range(twin: Telemetry) -> None:
    suite = json.loads((SUITES / "readings.json").read_text(encoding="utf-8"))
    ranged = [
        rule["kwargs"]["column"]
        for rule in suite["expectations"]
        if rule["type"] == "expect_column_values_to_be_between"
    ]
    assert {sensor.name for sensor in twin.sensors} | {"rul_pct", "health_pct"} == set(ranged)


@pytest.mark.parametrize("dataset", ["v2", "v3"])
def test_the_standard_fleets_lose_what_silent_instruments_cost_and_every_pump_keeps_its_record(
    dataset: str,
) -> None:
    telemetry = SimulatedSource(dataset=dataset).fetch()

    validation = validate(telemetry, suites=SUITES)

    assert 0.011 < len(validation.quarantined) / len(telemetry.readings) < 0.014
    rules = validation.quarantined["rules"].str.split(";").explode()
    assert (rules.str.endswith("-given") | (rules == "pump-raises-pressure")).all()
    record = validation.good[validation.good["commissioning"]].groupby("asset_id").size()
    assert len(record) == telemetry.readings["asset_id"].nunique()
    assert record.min() >= 90  # of 120


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(cell("time", 50, 3), {50: "reading-unique;time-increases", 42: "reading-unique"}, id="step-back"),
        pytest.param(
            lambda readings: pd.concat([readings[:7], readings[6:]], ignore_index=True),
            {6: "reading-unique", 7: "reading-unique;time-increases"},
            id="duplicate-row",
        ),
        pytest.param(
            lambda readings: readings.iloc[[0, 1, 3, 2, *range(4, 160)]],
            {3: "time-increases;rul_cycles-never-rises"},
            id="two-rows-swapped",
        ),
        pytest.param(cell("rul_cycles", 50, 35), {50: "rul_cycles-never-rises"}, id="rul-rises"),
        pytest.param(
            cell("rul_cycles", 50, 26), {51: "rul_cycles-never-rises", 52: "rul_cycles-never-rises"}, id="dip"
        ),
        pytest.param(lambda readings: readings.replace({"time": {7: np.nan}}), None, id="cycle-missing"),
    ],
)
def test_the_order_of_a_run_is_checked_within_the_run(
    plant: Telemetry, damage: Damage, expected: dict[int, str] | None
) -> None:
    validation = validate(damaged(plant, damage), suites=SUITES)

    assert broken(validation) == (expected or dict.fromkeys([6, 46, 86, 126], "time-given"))
    assert validation.good["time"].dtype == "int64"
    for _, run in validation.good.groupby("run_id"):
        assert run["time"].is_monotonic_increasing
        assert run["time"].is_unique
        assert run["rul_cycles"].is_monotonic_decreasing


def test_rows_keep_their_order_index_and_dtypes_whatever_the_index(plant: Telemetry) -> None:
    telemetry = damaged(plant, cell("oil_pressure_bar", 3, np.nan))
    telemetry.readings["oil_pressure_bar"] = telemetry.readings["oil_pressure_bar"].astype("float32")
    telemetry.readings["run_id"] = telemetry.readings["run_id"].astype("category")
    telemetry.readings.index = pd.Index(np.arange(160)[::-1] // 2)

    validation = validate(telemetry, suites=SUITES)

    assert broken(validation) == {3: "oil_pressure_bar-given"}
    pd.testing.assert_frame_equal(validation.good, telemetry.readings[np.arange(160) != 3])


def test_interleaved_runs_are_told_apart(plant: Telemetry) -> None:
    telemetry = damaged(plant, lambda readings: readings.sort_values("time", kind="stable"))

    assert validate(telemetry, suites=SUITES).quarantined.empty


def test_an_inspection_counts_what_validation_takes_away(plant: Telemetry) -> None:
    readings = plant.readings.copy()
    readings.loc[[3, 5], "oil_pressure_bar"] = np.nan
    readings.loc[7, "oil_pressure_bar"] = np.inf
    readings.loc[9, "time"] = readings.loc[8, "time"]
    telemetry = replace(plant, readings=readings)
    assert inspect(telemetry, suites=SUITES)["rules"] == validate(telemetry, suites=SUITES).report["rules"]
    empty = replace(plant, readings=readings.assign(oil_pressure_bar=np.nan))
    counted = {rule["id"]: rule["failing"] for rule in inspect(empty, suites=SUITES)["rules"]}
    assert counted["oil_pressure_bar-given"] == len(readings)


@pytest.mark.parametrize(
    "damage",
    [lambda readings: readings.assign(oil_pressure_bar="2,5"), lambda readings: readings.drop(columns="run_id")],
    ids=["text", "no run"],
)
def test_an_inspection_finds_a_broken_contract_as_validation_does(plant: Telemetry, damage: Damage) -> None:
    broken = replace(plant, readings=damage(plant.readings))
    with pytest.raises(ContractError) as validated:
        validate(broken, suites=SUITES)
    with pytest.raises(ContractError) as inspected:
        inspect(broken, suites=SUITES)
    assert str(inspected.value) == str(validated.value)


def test_no_copy_of_the_readings_stays_in_memory(plant: Telemetry) -> None:
    def tables() -> int:
        gc.collect()
        return sum(isinstance(each, pd.DataFrame) and len(each) == len(plant.readings) for each in gc.get_objects())

    before = tables()
    inspect(plant, suites=SUITES)
    assert tables() == before


def test_limits_of_the_source_are_rules(plant: Telemetry) -> None:
    limits = {"oil_pressure_bar": [0.5, None]}
    telemetry = replace(damaged(plant, cell("oil_pressure_bar", 9, 0.4)), origin={"limits": limits})

    assert broken(validate(telemetry, suites=SUITES)) == {9: "oil_pressure_bar-limits"}


def test_the_turbofan_suite_catches_a_life_below_zero(plant: Telemetry) -> None:
    names = ("t2_degr", "t24_degr", "t30_degr", "t50_degr", "p2_psi", "p15_psi", "p30_psi", "nf_rpm", "nc_rpm")
    typical = (518.67, 642.0, 1590.0, 1408.0, 14.62, 21.61, 554.0, 2388.0, 9060.0)
    readings = plant.readings.drop(columns="oil_pressure_bar").assign(**dict(zip(names, typical, strict=True)))
    sensors = tuple(Sensor(name) for name in names)
    telemetry = replace(plant, readings=readings, sensors=sensors, suite="cmapss_fd001")

    assert broken(validate(telemetry, suites=SUITES)) == {}
    assert broken(validate(damaged(telemetry, cell("rul_cycles", 159, -1)), suites=SUITES)) == {159: "rul-not-negative"}


def _text(readings: pd.DataFrame) -> pd.DataFrame:
    return readings.assign(oil_pressure_bar=readings["oil_pressure_bar"].astype("str").str.replace(".", ","))


def _error_code(readings: pd.DataFrame) -> pd.DataFrame:
    return cell("oil_pressure_bar", 4, "ERR")(readings.astype({"oil_pressure_bar": "object"}))


@pytest.mark.parametrize(
    ("damage", "named", "rows"),
    [
        pytest.param(lambda r: r.drop(columns="oil_pressure_bar"), ["columns-present: missing: oil_"], 0, id="sensor"),
        pytest.param(lambda r: r.drop(columns="rul_cycles"), ["columns-present: missing: rul_cycles"], 0, id="label"),
        pytest.param(
            lambda r: r.drop(columns=["time", "run_id"]), ["key-columns: missing: run_id, time"], 0, id="keys"
        ),
        pytest.param(lambda r: r[:0], ["not-empty: 0"], 0, id="empty"),
        pytest.param(_text, ["oil_pressure_bar-number: str"], 0, id="text-in-a-numeric-column"),
        pytest.param(_error_code, ["oil_pressure_bar-number: 1 failing, such as row 4: ERR"], 1, id="error-code"),
        pytest.param(lambda r: r.assign(asset_id=1), ["asset-id-text: int64"], 0, id="numbers-for-assets"),
        pytest.param(lambda r: r.assign(commissioning="no"), ["commissioning-type: str"], 0, id="text-for-bool"),
        pytest.param(
            lambda r: r.assign(time=pd.date_range("2026-01-01", periods=160, freq="h")),
            ["time-type"],
            160,
            id="no-zone",
        ),
        pytest.param(lambda r: r.assign(time=r["time"].astype("str")), ["time-type"], 160, id="text-for-time"),
        pytest.param(lambda r: r.assign(time=r["time"] + 0.5), ["time-type"], 160, id="fractions-of-a-cycle"),
        pytest.param(cell("commissioning", 50, True), ["commissioning-apart"], 40, id="commissioning-within-a-run"),
    ],
)
def test_a_broken_contract_is_named_once_with_what_was_found(
    plant: Telemetry, damage: Damage, named: list[str], rows: int
) -> None:
    with pytest.raises(ContractError) as caught:
        validate(damaged(plant, damage), suites=SUITES)

    complaints = str(caught.value).splitlines()[1:]
    assert len(complaints) == len(named), complaints
    for complaint, beginning in zip(complaints, named, strict=True):
        assert complaint.startswith(f"- {beginning}")
        assert "Expected: " in complaint
    assert caught.value.quarantined is not None
    assert len(caught.value.quarantined) == rows


def test_too_many_bad_rows_break_the_contract_and_are_still_handed_over(plant: Telemetry, tmp_path: Path) -> None:
    telemetry = damaged(plant, cell("oil_pressure_bar", slice(0, 9), np.inf))  # type: ignore[arg-type]

    with pytest.raises(ContractError, match=r"9 of 160 rows \(5\.6%\) break a rule; expected at most 5\.0%") as caught:
        validate(telemetry, suites=SUITES, docs=tmp_path / "docs")

    assert "oil_pressure_bar-finite: 9 failing" in str(caught.value)
    assert caught.value.quarantined is not None
    assert list(caught.value.quarantined["rules"]) == ["oil_pressure_bar-finite"] * 9
    assert caught.value.report is not None
    assert json.loads(json.dumps(caught.value.report))["quarantined"] == 9
    assert (tmp_path / "docs" / "index.html").is_file()


def test_quarantined_rows_with_mixed_values_can_be_stored(plant: Telemetry, tmp_path: Path) -> None:
    telemetry = damaged(plant, _error_code, cell("commissioning", 10, True), cell("rul_cycles", 60, 38))

    with pytest.raises(ContractError) as caught:
        validate(telemetry, suites=SUITES)

    assert caught.value.quarantined is not None
    caught.value.quarantined.to_parquet(tmp_path / "quarantine.parquet")
    stored = pd.read_parquet(tmp_path / "quarantine.parquet")
    assert dict(zip(stored["row"], stored["oil_pressure_bar"], strict=True)) == {4: "ERR", 60: "2.0"}


def test_data_docs_show_the_rule_its_reason_and_the_row(plant: Telemetry, tmp_path: Path) -> None:
    validation = validate(damaged(plant, cell("rul_cycles", 50, 35)), suites=SUITES, docs=tmp_path / "docs")

    assert validation.docs == tmp_path / "docs" / "index.html"
    assert validation.docs.is_file()
    (page,) = (tmp_path / "docs" / "validations").rglob("*.html")
    shown = page.read_text(encoding="utf-8")
    assert "rul_cycles-never-rises" in shown
    assert "Remaining life does not grow" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_a_check_that_fails_itself_breaks_the_contract(plant: Telemetry, tmp_path: Path) -> None:
    shutil.copytree(SUITES, tmp_path, dirs_exist_ok=True)
    kwargs = {"column": "oil_pressure_bar", "regex": "("}
    write(tmp_path, {"type": "expect_column_values_to_match_regex", "kwargs": kwargs, "severity": "warning"})

    with pytest.raises(ContractError, match=r"- odd: the check itself failed"):
        validate(replace(plant, suite="odd"), suites=tmp_path)


def test_a_warning_that_can_point_at_no_row_breaks_the_contract(plant: Telemetry, tmp_path: Path) -> None:
    kwargs = {"column": "oil_pressure_bar", "min_value": 3}
    write(tmp_path, {"type": "expect_column_mean_to_be_between", "kwargs": kwargs, "severity": "warning"})

    with pytest.raises(ContractError, match=r"- odd: 2\.0\. Expected: column mean to be between"):
        validate(replace(plant, suite="odd"), suites=tmp_path)


MEAN = {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "oil_pressure_bar"}, "severity": "warning"}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        pytest.param(MEAN | {"severity": "info"}, "expected type, kwargs", id="severity"),
        pytest.param(MEAN | {"meta": {"id": "odd"}}, "expected type, kwargs", id="no-reason"),
        pytest.param(MEAN | {"type": "expect_miracles"}, "expect_miracles", id="unknown-type"),
        pytest.param(MEAN | {"meta": {"id": "oil_pressure_bar-given", "reason": "x"}}, "more than once", id="id-twice"),
    ],
)
def test_a_rule_that_cannot_be_used_says_why(
    plant: Telemetry, tmp_path: Path, rule: dict[str, object], message: str
) -> None:
    write(tmp_path, rule)

    with pytest.raises(ConfigurationError, match=message):
        validate(replace(plant, suite="odd"), suites=tmp_path)


def test_an_unknown_suite_lists_the_known_ones(plant: Telemetry) -> None:
    with pytest.raises(
        UnknownNameError, match=r"'reading'; known: cmapss_fd001, lives, readings, telemetry\. Did you mean"
    ):
        validate(replace(plant, suite="reading"), suites=SUITES)


def test_validation_leaves_the_process_as_it_was(plant: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        validate(plant, suites=SUITES)
        warnings.warn("anybody there?", UserWarning, stacklevel=1)

    assert caplog.records == []
    assert [str(each.message) for each in heard] == ["anybody there?"]


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_rule_has_an_id_of_its_own_a_reason_and_a_severity(path: Path) -> None:
    suite = json.loads(path.read_text(encoding="utf-8"))
    included = [json.loads((SUITES / f"{name}.json").read_text()) for name in suite["meta"].get("includes", [])]
    rules = [rule for each in (suite, *included) for rule in each["expectations"]]

    assert suite["name"] == path.stem
    assert len({rule["meta"]["id"] for rule in rules}) == len(rules)
    for rule in rules:
        assert len(rule["meta"]["reason"].split()) >= 3
        assert rule["severity"] in ("critical", "warning")
        assert "cure" in rule["meta"] or rule["severity"] == "warning"
        assert "id" not in rule


def write(folder: Path, rule: dict[str, object]) -> None:
    suite = {"name": "odd", "expectations": [{"meta": {"id": "odd", "reason": "A test."}} | rule]}
    (folder / "odd.json").write_text(json.dumps(suite), encoding="utf-8")
