"""Planted faults: each ends in a named error or in quarantine, and no champion falls."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Trained, forget_deployment, windows_of

from pump_ml import evaluation, generation, registry, snapshots, steps
from pump_ml.errors import ConfigurationError, ContractError, DataError, LeakError, PumpMLError, SourceError
from pump_ml.models import fitted_assets
from pump_ml.models.cnn1d import Cnn1d
from pump_ml.models.features import Channels
from pump_ml.models.network import NetworkPredictor
from pump_ml.models.xgb import Xgb
from pump_ml.problems import Problem
from pump_ml.schema import Telemetry
from pump_ml.settings import Settings
from pump_ml.twin.datasets import Fleet
from pump_ml.twin.instruments import Options

MODEL = "pump-plant-wear"


# A user's plant: its own CSV, its own mapping, its own problem, and a champion

COLUMNS = {
    "Succao": "suction_pressure_bar",
    "Recalque": "discharge_pressure_bar",
    "Vazao": "flow_m3_h",
    "Corrente": "motor_current_a",
    "Mancal": "bearing_temperature_c",
    "Vibracao": "vibration_rms_mm_s",
    "Vazamento": "seal_leakage_l_h",
    "Aceleracao": "acceleration_hf_g",
}
UNITS = ("bar", "bar", "m3/h", "A", "degC", "mm/s", "l/h", "g_0")


def export(pumps: int = 28, rows: int = 12) -> pd.DataFrame:
    """What the plant's historian writes: its own names; the commissioning record first, then samples of some rows."""
    # No instrument is silent: the gaps of these tests are planted.
    plan = Fleet("v2", pumps, seed=11, samples=4, options=Options(missing=0.0))
    readings = pd.concat([generation.table(plan.rows(n), plan).to_pandas() for n in range(pumps)], ignore_index=True)
    place = readings.groupby("run_id").cumcount()
    readings = readings[place < np.where(readings["commissioning"], 120, rows)]
    return pd.DataFrame(
        {
            "Bomba": readings["asset_id"],
            "Amostra": readings["run_id"].str.rsplit("/").str[-1].replace("commissioning", "000"),
            "Data_Hora": readings["time"].dt.tz_convert("America/Sao_Paulo").dt.strftime("%d/%m/%Y %H:%M:%S"),
            **{theirs: readings[ours] for theirs, ours in COLUMNS.items()},
            "Falha": readings["mode"],
            "Vida": readings["rul_pct"],
        }
    ).reset_index(drop=True)


def mapping() -> dict[str, Any]:
    limits = {"suction_pressure_bar": {"min": 0}, "discharge_pressure_bar": {"min": 0}}
    return {
        "name": "plant",
        "format": {"kind": "csv", "delimiter": ";", "decimal": ","},
        "files": [{"pattern": "*.csv"}],
        "asset_id": "{Bomba}",
        "run_id": "{Bomba}/{Amostra}",
        "time": {
            "column": "Data_Hora",
            "kind": "timestamp",
            "format": "%d/%m/%Y %H:%M:%S",
            "timezone": "America/Sao_Paulo",
        },
        "commissioning": {"first": 120},
        "sensors": {
            ours: {"column": theirs, "unit": unit, **limits.get(ours, {})}
            for (theirs, ours), unit in zip(COLUMNS.items(), UNITS, strict=True)
        },
        "labels": {"mode": {"column": "Falha", "type": "class"}, "rul_pct": {"column": "Vida"}},
    }


def wear() -> dict[str, Any]:
    modes = (
        "healthy",
        "bearing_wear",
        "impeller_wear",
        "cavitation",
        "seal_leak",
        "misalignment",
        "imbalance",
        "clogging",
    )
    return {
        "name": "plant_wear",
        "windows": {"length": 12, "stride": 12},
        "reference": "commissioning",
        "predicts": [
            {"name": "mode", "kind": "classes", "classes": list(modes), "metric": "accuracy"},
            {"name": "rul_pct", "kind": "regression", "metric": "mae", "unit": "percent", "low": 0, "high": 100},
        ],
        "targets": {"mode": 0.3, "rul_pct": 25},
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2, "stratify": "mode"},
        "mode": "mode",
    }


@dataclass
class Plant:
    """A plant's folder, and the steps on it."""

    folder: Path
    rows: pd.DataFrame
    mapping: dict[str, Any]
    problem: dict[str, Any]

    def write(self) -> None:
        (self.folder / "export").mkdir(parents=True, exist_ok=True)
        self.rows.to_csv(self.folder / "export" / "plant.csv", sep=";", decimal=",", index=False)

    @property
    def csv(self) -> Path:
        return self.folder / "export" / "plant.csv"

    def fetch(self) -> dict[str, Any]:
        for name, content in (("mapping", self.mapping), ("problem", self.problem)):
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return steps.fetch("files", {"mapping": str(self.folder / "mapping.yaml"), "path": str(self.csv.parent)})

    def dataset(self) -> dict[str, Any]:
        return steps.snapshot(steps.validate(self.fetch()["raw"]))

    def train(self, run_key: str) -> dict[str, Any]:
        stored = self.dataset()
        plan = steps.plan(stored["snapshot"], str(self.folder / "problem.yaml"), run_key, families=(), preset="quick")
        baseline = steps.train(plan, "baseline")
        steps.gate(plan, baseline)
        evaluation = steps.evaluate(plan, [baseline])
        decision = steps.promote(plan, evaluation)
        return steps.report(plan, evaluation, decision)


def champion() -> tuple[dict[str, int], list[str], list[str]]:
    """The aliases of the plant's model, its versions, and the status of every run."""
    client = registry.connect()
    aliases = {name: int(version) for name, version in client.get_registered_model(MODEL).aliases.items()}
    versions = [str(version.version) for version in client.search_model_versions(f"name='{MODEL}'")]
    experiment = client.get_experiment_by_name("plant_wear").experiment_id
    return aliases, versions, [run.info.status for run in client.search_runs([experiment])]


CROWNED = ({"champion": 1}, ["1"], ["FINISHED", "FINISHED"])


@pytest.fixture(scope="module")
def crowned_plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the plant's first training run crowned a champion."""
    folder = tmp_path_factory.mktemp("plant")
    with pytest.MonkeyPatch.context() as patch:
        forget_deployment(patch)
        patch.setenv("PUMP_ML_VAR", str(folder / "var"))
        made = Plant(folder, export(), mapping(), wear())
        made.write()
        assert made.train("plant/first")["champion"]["version"] == "1"
        assert champion() == CROWNED
    return folder


@pytest.fixture
def plant(crowned_plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """The plant with its champion, and a new export; the store is the champion's own."""
    monkeypatch.setenv("PUMP_ML_VAR", str(crowned_plant / "var"))
    return Plant(tmp_path, export(), mapping(), wear())


# Rows that break a rule go to quarantine


def nothing_there(rows: pd.DataFrame) -> pd.DataFrame:
    rows.loc[130, "Vibracao"] = np.nan
    return rows


def below_zero(rows: pd.DataFrame) -> pd.DataFrame:
    rows.loc[131, "Succao"] = -0.4
    return rows


def twice(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows[:133], rows[132:]], ignore_index=True)


def backwards(rows: pd.DataFrame) -> pd.DataFrame:
    before = pd.to_datetime(rows.loc[122, "Data_Hora"], dayfirst=True) - pd.Timedelta(hours=2)
    rows.loc[135, "Data_Hora"] = before.strftime("%d/%m/%Y %H:%M:%S")
    return rows


QUARANTINED = {
    "a sensor without a value": (nothing_there, {130: "vibration_rms_mm_s-given"}),
    "a negative pressure": (below_zero, {131: "suction_pressure_bar-limits"}),
    "a row that stands twice": (twice, {132: "reading-unique", 133: "reading-unique;time-increases"}),
    "a time that goes backwards": (backwards, {135: "time-increases"}),
}


@pytest.mark.parametrize(("fault", "expected"), QUARANTINED.values(), ids=QUARANTINED)
def test_a_bad_row_is_quarantined_with_its_rules_and_all_others_are_kept(
    plant: Plant, fault: Callable[[pd.DataFrame], pd.DataFrame], expected: dict[int, str]
) -> None:
    plant.rows = fault(plant.rows)
    plant.write()
    fetched = plant.fetch()
    validated = steps.validate(fetched["raw"])
    assert (validated["rows"], validated["quarantined"]) == (len(plant.rows), len(expected))
    data = Settings.load().data
    bad = pd.read_parquet(str(data / "quarantine" / validated["validation"] / "readings.parquet"))
    assert dict(zip(bad["row"], bad["rules"], strict=True)) == expected
    raw = snapshots.load(data, "raw", fetched["raw"]).telemetry.readings
    good = snapshots.load(data, "snapshots", steps.snapshot(validated)["snapshot"]).telemetry.readings
    pd.testing.assert_frame_equal(good, raw.drop(index=list(expected)).reset_index(drop=True))
    pd.testing.assert_frame_equal(bad.drop(columns=["row", "rules"]), raw.loc[list(expected)].reset_index(drop=True))
    report = json.loads((data / "quarantine" / validated["validation"] / "report.json").read_text())
    failing = {rule["id"] for rule in report["rules"] if rule["failing"]}
    assert failing == {rule for rules in expected.values() for rule in rules.split(";")}
    assert champion() == CROWNED


def test_training_goes_on_with_the_rows_that_are_left(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMP_ML_VAR", str(tmp_path / "var"))
    plant.rows = backwards(below_zero(nothing_there(plant.rows)))
    plant.write()
    plant.train("plant/faulty")
    aliases, versions, statuses = champion()
    assert (aliases, versions, set(statuses)) == ({"champion": 1}, ["1"], {"FINISHED"})


def test_a_quarantine_that_was_cut_off_is_written_again(
    plant: Plant, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMP_ML_VAR", str(home))
    plant.rows = below_zero(plant.rows)
    plant.write()
    raw = plant.fetch()["raw"]
    validated = steps.validate(raw)
    folder = home / "data" / "quarantine" / validated["validation"]
    (folder / "report.json").unlink()
    (folder / "readings.parquet").write_bytes(b"PAR1")
    assert steps.validate(raw) == validated
    assert steps.snapshot(validated)["quarantined"] == 1


# Files that cannot be used end in an error that names the cure


def without(column: str) -> Callable[[Plant], None]:
    def fault(plant: Plant) -> None:
        plant.rows = plant.rows.drop(columns=column)
        plant.write()

    return fault


def with_text(text: str) -> Callable[[Plant], None]:
    def fault(plant: Plant) -> None:
        plant.write()
        plant.csv.write_text(text)

    return fault


def with_commas(plant: Plant) -> None:
    plant.write()
    plant.rows.to_csv(plant.csv, index=False)


def with_label_as_sensor(plant: Plant) -> None:
    plant.write()
    plant.mapping["sensors"]["life_pct"] = {"column": "Vida", "unit": "percent"}


def with_sensor_named_as_label(plant: Plant) -> None:
    plant.write()
    plant.mapping["sensors"]["rul_pct"] = plant.mapping["sensors"].pop("flow_m3_h")


def with_label_as_feature(plant: Plant) -> None:
    plant.write()
    plant.problem["features"] = ["flow_m3_h", "vibration_rms_mm_s", "rul_pct"]


def with_target_as_sensor(plant: Plant) -> None:
    """The mapping does not know the answer as a label, the problem does."""
    plant.write()
    del plant.mapping["labels"]["rul_pct"]
    plant.mapping["sensors"]["rul_pct"] = {"column": "Vida", "unit": "percent"}


def with_broken_sensor(plant: Plant) -> None:
    plant.rows.loc[::10, "Recalque"] = -1.0
    plant.write()


def with_one_asset_in_two_parts(plant: Plant) -> None:
    plant.write()
    first = plant.rows["Bomba"] == plant.rows["Bomba"].iloc[0]
    for name, rows in (("train", plant.rows), ("test", plant.rows[first])):
        rows.to_csv(plant.csv.parent / f"{name}.csv", sep=";", decimal=",", index=False)
    plant.csv.unlink()
    plant.mapping["files"] = [{"pattern": f"{name}.csv", "part": name} for name in ("train", "test")]


REFUSED: dict[str, tuple[Callable[[Plant], None], type[PumpMLError], str]] = {
    "a missing column": (without("Recalque"), SourceError, "discharge_pressure_bar.*unknown column 'Recalque'"),
    "a missing label": (without("Falha"), SourceError, "labels.mode.*unknown column 'Falha'"),
    "an empty file": (with_text(""), SourceError, "plant.csv is empty"),
    "a header without rows": (with_text(";".join(export(1)) + "\n"), SourceError, "a header and no rows"),
    "a wrong delimiter": (with_commas, SourceError, "not divided by ';' but, as it looks, by ','"),
    "a sensor that is a label's column": (
        with_label_as_sensor,
        ConfigurationError,
        "a model would learn from its answer",
    ),
    "a sensor named as a label": (with_sensor_named_as_label, ConfigurationError, "the name is taken"),
    "a label among the problem's features": (with_label_as_feature, LeakError, "rul_pct would be learnt from"),
    "a target among the sensors": (with_target_as_sensor, LeakError, "rul_pct would be learnt from"),
    "a sensor that is broken": (with_broken_sensor, ContractError, "discharge_pressure_bar-limits"),
    "an asset in two parts": (with_one_asset_in_two_parts, SourceError, "'v2-s11-p0000' stands in train .* and test"),
}


@pytest.mark.parametrize(("fault", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_a_fault_ends_in_its_error_and_the_champion_stays(
    plant: Plant, fault: Callable[[Plant], None], error: type[PumpMLError], message: str
) -> None:
    fault(plant)
    with pytest.raises(error, match=message):
        plant.train("plant/refused")
    assert champion() == CROWNED


def test_what_broke_the_contract_is_on_disk_with_its_rules(plant: Plant) -> None:
    with_broken_sensor(plant)
    raw = plant.fetch()["raw"]
    with pytest.raises(ContractError):
        steps.validate(raw)
    (folder,) = (Settings.load().data / "quarantine").glob(f"{raw}-*")
    assert set(pd.read_parquet(str(folder / "readings.parquet"))["rules"]) == {"discharge_pressure_bar-limits"}
    assert "discharge_pressure_bar-limits" in json.loads((folder / "contract_broken.json").read_text())["error"]


# Leaks


def test_an_asset_in_two_splits_is_refused_when_a_step_reads_the_split(crowned: Trained) -> None:
    manifest = Settings.load().data / "splits" / f"{crowned.plan['split']}.json"
    split = json.loads(manifest.read_text())
    split["train"].append(split["test"][0])
    manifest.write_text(json.dumps(split))
    with pytest.raises(LeakError, match=f"'{split['test'][0]}' is in train and in test"):
        steps.evaluate(crowned.plan, crowned.candidates)


def test_a_scaler_that_was_fitted_on_all_rows_is_refused_by_evaluation(
    crowned: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault as it would be written: a fit that takes every asset's windows instead of the training part's."""
    from pump_ml.work import Work

    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/leak", families=(), preset="quick")
    honest = Work.windows

    def all_rows(self: Work, part: str, inputs: str = "readings") -> Any:
        if part == "train":
            return honest(_Everything(self), "train", inputs)  # type: ignore[arg-type]
        return honest(self, part, inputs)

    class _Everything:
        def __init__(self, work: Work) -> None:
            self.problem, self.features, self.taken = work.problem, work.features, work.taken
            self.rows = lambda _: work.snapshot.telemetry.readings

    with monkeypatch.context() as patch:
        patch.setattr(Work, "windows", all_rows)
        candidate = steps.train(plan, "baseline")
    with pytest.raises(LeakError, match=r"fitted on 11 of the assets it is to be judged by"):
        steps.evaluate(plan, [candidate])
    aliases = registry.connect().get_registered_model("pump-diagnosis").aliases
    assert {name: str(version) for name, version in aliases.items()} == {"champion": crowned.decision["challenger"]}


def test_channels_are_those_of_the_training_rows_whatever_the_other_rows_hold(
    fleet: Telemetry, diagnosis: Problem
) -> None:
    family = Cnn1d(filters=4, dense=4, epochs=1)
    assets = sorted(fleet.readings["asset_id"].unique())
    parts = slice(0, 16), slice(16, 20)
    train = windows_of(fleet, diagnosis, parts[0])
    assert len(train)
    sensors = [sensor.name for sensor in fleet.sensors]
    shouted = fleet.readings.copy()
    others = shouted["asset_id"].isin(assets[20:])
    shouted.loc[others, sensors] *= 1000.0
    louder = replace(fleet, readings=shouted)
    channels = []
    for telemetry in (fleet, louder):
        learn, tune = (windows_of(telemetry, diagnosis, part) for part in parts)
        predictor = family.fit(learn, tune, diagnosis, seed=1, watch=lambda *_: None)
        assert isinstance(predictor, NetworkPredictor)
        assert set(predictor.assets) == set(fitted_assets(learn, tune)) == set(assets[:20])
        channels.append(predictor.channels)
    expected = Channels.fit(train, diagnosis, family.pool)
    np.testing.assert_array_equal(channels[0].mean, expected.mean)
    np.testing.assert_array_equal(channels[0].scale, expected.scale)
    np.testing.assert_array_equal(channels[0].mean, channels[1].mean)
    np.testing.assert_array_equal(channels[0].scale, channels[1].scale)


def test_channels_do_not_look_at_the_validation_rows(fleet: Telemetry, diagnosis: Problem) -> None:
    family = Cnn1d(filters=4, dense=4, epochs=1)
    learn, tune = (windows_of(fleet, diagnosis, part) for part in (slice(0, 8), slice(8, 12)))
    assert tune.commissioning is not None
    records = {asset: 1000.0 * record for asset, record in tune.commissioning.items()}
    for validation in (tune, replace(tune, readings=tune.readings * 1000.0, commissioning=records)):
        predictor = family.fit(learn, validation, diagnosis, seed=1, watch=lambda *_: None)
        assert isinstance(predictor, NetworkPredictor)
        expected = Channels.fit(learn, diagnosis, family.pool)
        np.testing.assert_array_equal(predictor.channels.mean, expected.mean)
        np.testing.assert_array_equal(predictor.channels.scale, expected.scale)
        assert predictor.channels.normal is not None
        assert expected.normal is not None
        assert predictor.channels.normal.to_json() == expected.normal.to_json()
        labels = learn.labels["rul_pct"].to_numpy()
        assert predictor.scales["rul_pct"] == pytest.approx((labels.mean(), labels.std()))


@pytest.mark.parametrize("family", ["xgb", "cnn1d"])
def test_a_model_that_was_tuned_on_a_test_asset_is_refused(family: str, fleet: Telemetry, diagnosis: Problem) -> None:
    made = Xgb(rounds=2, jobs=1) if family == "xgb" else Cnn1d(filters=4, dense=4, epochs=1)
    learn, tune = (windows_of(fleet, diagnosis, part) for part in (slice(0, 8), slice(8, 12)))
    predictor = made.fit(learn, tune, diagnosis, seed=1, watch=lambda *_: None)
    with pytest.raises(LeakError, match="fitted on 1 of the assets"):
        evaluation.refuse_seen(predictor, windows_of(fleet, diagnosis, slice(11, 15)))


def test_a_snapshot_that_was_altered_is_not_learnt_from(crowned: Trained) -> None:
    file = Settings.load().data / "snapshots" / crowned.stored["snapshot"] / "readings.parquet"
    readings = pd.read_parquet(str(file))
    readings.loc[0, "flow_m3_h"] += 0.01
    readings.to_parquet(str(file), index=False)
    with pytest.raises(DataError, match="was altered after it was stored"):
        steps.evaluate(crowned.plan, crowned.candidates)
