"""Pump types come from data sheets, and the twin's curves are those of real pumps."""

from typing import Any

import numpy as np
import pytest
import yaml

from pump_ml.errors import ConfigurationError
from pump_ml.settings import PACKAGE
from pump_ml.twin import datasheet
from pump_ml.twin.bearings import BEARINGS, Bearing
from pump_ml.twin.curves import hydraulic_power_kw
from pump_ml.twin.datasheet import DataSheet, read

SHEETS = sorted((PACKAGE / "conf" / "pumps").glob("*.yaml"))
NB, NK, IL = "grundfos_nb_65_160_157", "grundfos_nk_65_180_172", "wilo_il_80_220_4_4"

# Rows of the makers' tables that the data sheets above do not hold: flow m3/h, head m, shaft power kW, speed rpm.
UNSEEN = {
    NB: [
        (80, 30.44, 8.612, 2959), (100, 28.22, 9.464, 2953), (105, 27.51, 9.652, 2952), (108, 27.05, 9.761, 2952),
        (110, 26.73, 9.830, 2951), (120, 24.96, 10.15, 2949),
    ],
    NK: [(65.59, 40.06, 8.928, 2930), (81.99, 36.97, 9.969, 2930)],
    IL: [
        (31.09, 16.78, 2.5489, 1450), (52.61, 15.77, 3.1461, 1450), (65.38, 14.59, 3.4351, 1450),
        (89.41, 11.08, 3.7101, 1450),
    ],
}  # fmt: skip


def content(name: str = NB) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PACKAGE / "conf" / "pumps" / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def sheet(name: str) -> DataSheet:
    return read(content(name))


def test_each_sheet_has_the_name_of_its_file_and_a_source() -> None:
    assert {file.stem for file in SHEETS} == {NB, NK, IL}
    for file in SHEETS:
        found = sheet(file.stem)
        assert found.name == file.stem
        assert found.source


@pytest.mark.parametrize("name", UNSEEN)
def test_head_power_and_efficiency_of_a_real_pump_are_met_within_3_percent_where_the_sheet_was_not_fitted(
    name: str,
) -> None:
    found = sheet(name)
    curves = found.curves()
    rated = found.rated
    rows = [*UNSEEN[name], (rated.flow, rated.head, rated.power, rated.speed)]
    flow, head, power, rpm = np.array(rows, dtype=float).T
    speed = rpm / rated.speed
    told = hydraulic_power_kw(flow, head, found.density) / power
    for ours, theirs in (
        (curves.head(flow, speed), head),
        (curves.shaft_power(flow, speed), power),
        (curves.efficiency(flow, speed), told),
    ):
        assert np.abs(ours / theirs - 1).max() < 0.03


@pytest.mark.parametrize("name", UNSEEN)
def test_affinity_laws_hold_from_60_to_110_percent_of_speed(name: str) -> None:
    curves = sheet(name).curves()
    flow = np.linspace(0.1, 1.25, 24) * curves.flow_m3_h
    one = np.ones_like(flow)
    for speed in np.linspace(0.6, 1.1, 11):
        at = speed * one
        np.testing.assert_allclose(curves.head(flow * speed, at), speed**2 * curves.head(flow, one), rtol=5e-3)
        np.testing.assert_allclose(
            curves.shaft_power(flow * speed, at), speed**3 * curves.shaft_power(flow, one), rtol=5e-3
        )
        np.testing.assert_allclose(curves.efficiency(flow * speed, at), curves.efficiency(flow, one), rtol=5e-3)


@pytest.mark.parametrize("name", UNSEEN)
def test_a_pump_takes_power_against_a_closed_valve_and_more_than_the_liquid_gets(name: str) -> None:
    curves = sheet(name).curves()
    flow = np.linspace(0.0, 1.3, 131) * curves.flow_m3_h
    one = np.ones_like(flow)
    useful = hydraulic_power_kw(flow, curves.head(flow, one), curves.density_kg_m3)
    assert (useful < curves.shaft_power(flow, one)).all()
    assert curves.shaft_power(flow, one)[0] > 0.25 * curves.power_kw
    assert curves.efficiency(flow, one)[0] == 0.0


def test_npsh3_grows_with_the_flow_and_is_not_invented() -> None:
    curves = sheet(NB).curves()
    flow = np.array([60.0, 80.0, 100.0, 120.0])
    np.testing.assert_allclose(curves.npsh3(flow, np.ones(4)), [3.08, 3.40, 3.94, 4.82], rtol=0.10)
    with pytest.raises(ValueError, match="no NPSH3"):
        sheet(IL).curves().npsh3(flow, np.ones(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rated": {"flow": "-5 m3/h"}}, r"rated\.flow: .*greater than 0"),
        ({"rated": {"speed": "0 rpm"}}, r"rated\.speed: .*greater than 0"),
        ({"rated": {"flow": 114}}, r"rated\.flow: .*given 114, expected a number with its unit, such as '1\.5 m3/h'"),
        ({"rated": {"flow": "114"}}, r"rated\.flow: .*given '114', expected a number with its unit"),
        ({"rated": {"head": "26 bar"}}, r"rated\.head: .*given '26 bar', expected .* '1\.5 m'"),
        ({"rated": {"head": "nan m"}}, r"rated\.head: .*given 'nan m'"),
        ({"rated": {"power": "3 kW"}}, r"rated: a shaft power of 3 kW .* expected at most 92%"),
        ({"motor": {"power": "5 kW"}}, r"motor\.power: 5 kW is less than the 9\.961 kW"),
        ({"motor": {"poles": 3}}, r"motor\.poles: .*2, 4, 6 or 8"),
        ({"bearings": {"drive_end": "6309X"}}, r"drive_end: .*6309X.*6309"),
        ({"vanes": 0}, r"vanes: .*greater than or equal to 2, given 0"),
        ({"colour": "blue"}, r"colour: Extra inputs"),
    ],
)
def test_a_sheet_that_cannot_be_is_told_with_field_value_and_bound(change: dict[str, Any], message: str) -> None:
    wrong = content()
    for field, value in change.items():
        wrong[field] = wrong[field] | value if isinstance(value, dict) else value
    with pytest.raises(ConfigurationError, match=rf"data sheet {NB}: .*{message}"):
        read(wrong)


def test_a_table_of_two_impellers_is_no_curve() -> None:
    wrong = content()
    wrong["points"][1]["head"] = "20 m"
    with pytest.raises(ConfigurationError, match="does not fall"):
        read(wrong)


def test_a_row_that_was_measured_slower_counts_by_the_affinity_laws() -> None:
    at_rated, slower = content(NK), content(NK)
    for row in slower["points"]:
        for name, power in (("flow", 1), ("head", 2), ("power", 3), ("npsh3", 2)):
            value, unit = row[name].split()
            row[name] = f"{float(value) * 0.9**power} {unit}"
        row["speed"] = f"{0.9 * 2930} rpm"
    one, other = read(at_rated).curves(), read(slower).curves()
    assert other.head_shape == pytest.approx(one.head_shape)
    assert other.power_shape == pytest.approx(one.power_shape)
    assert other.npsh3_shape == pytest.approx(one.npsh3_shape)


def test_power_goes_with_the_density_of_the_liquid() -> None:
    curves = sheet(NK).curves()
    assert curves.density_kg_m3 == 988.0
    flow, one = np.array([90.0]), np.ones(1)
    assert curves.shaft_power(flow, one, 1100.0) == pytest.approx(curves.shaft_power(flow, one) * 1100.0 / 988.0)


def test_any_unit_of_its_kind_is_taken() -> None:
    other = content()
    other["rated"] |= {"flow": "31.6666667 l/s", "power": "9961 W"}
    assert read(other).rated.flow == pytest.approx(114.0)
    assert read(other).rated.power == pytest.approx(9.961)


@pytest.mark.parametrize("name", BEARINGS)
def test_a_bearings_frequencies_obey_its_kinematics(name: str) -> None:
    bearing = BEARINGS[name]
    assert bearing.bpfo + bearing.bpfi == pytest.approx(bearing.balls)
    assert bearing.bpfo == pytest.approx(bearing.balls * bearing.ftf)
    assert bearing.bpfo < bearing.bpfi
    assert bearing.source


def test_the_frequencies_of_a_known_bearing_are_the_published_ones() -> None:
    # Case Western Reserve University, drive end, 6205: multiples of the shaft's speed
    bearing = BEARINGS["6205"]
    published = (3.5848, 5.4152, 2.3567, 0.39828)
    assert (bearing.bpfo, bearing.bpfi, bearing.bsf, bearing.ftf) == pytest.approx(published, rel=2e-4)


def test_a_geometry_of_ones_own_is_taken_and_an_impossible_one_refused() -> None:
    own = {"balls": 9, "ball": "7.94 mm", "pitch": "39.04 mm", "source": "the maker"}
    wanted = content() | {"bearings": {"drive_end": own, "non_drive_end": "6309"}}
    assert datasheet.bearing(read(wanted).bearings.drive_end).bpfo == pytest.approx(BEARINGS["6205"].bpfo)
    with pytest.raises(ConfigurationError, match="do not fit"):
        read(wanted | {"bearings": {"drive_end": own | {"balls": 20}, "non_drive_end": "6309"}})
    with pytest.raises(ValueError, match="contact angle"):
        Bearing(9, 7.94, 39.04, contact_deg=80.0)
