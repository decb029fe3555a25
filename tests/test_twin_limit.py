"""The limit of what anyone can reach on the twin's data, and that the data give nothing away beside it."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from pump_ml.errors import ConfigurationError
from pump_ml.generation import table
from pump_ml.models.baseline import Baseline
from pump_ml.models.features import Statistics
from pump_ml.problems import Problem
from pump_ml.schema import ASSET
from pump_ml.twin import degradation, limit
from pump_ml.twin.datasets import Fleet
from pump_ml.twin.instruments import IDEAL, NAMES, Options
from pump_ml.windows import Windows, make_windows

TRAIN, TEST = 105, 35


@pytest.fixture(scope="module")
def windows(diagnosis: Problem) -> Windows:
    plan = Fleet("v2", TRAIN + TEST)
    readings = pd.concat([table(plan.rows(number), plan).to_pandas() for number in range(plan.pumps)])
    return make_windows(readings.dropna(ignore_index=True), diagnosis, NAMES, which="last")


def parts(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    number = windows.rows[ASSET].str[-4:].astype(int).to_numpy()
    return number < TRAIN, number >= TRAIN


LIVES = Fleet("v3", 10)


@pytest.fixture(scope="module")
def lives() -> list[tuple[limit.Posterior, np.ndarray]]:
    """Of whole lives: what may be behind each pump's windows, and the error of who knows the past."""
    priors: dict[bool, Any] = {}
    found = [limit.posterior_v3(LIVES, number, priors) for number in range(LIVES.pumps)]
    return [each for each in found if each is not None]


def inside(posteriors: list[limit.Posterior], target: str, share: float) -> float:
    """How often the truth lies in the middle `share` of its posterior; where that has a lump, at random in the lump."""
    rng, ranks = np.random.default_rng(0), []
    for each in posteriors:
        values, truth = each.candidates[target], each.truth[target][:, None]
        below = (each.weights * (values < truth - 1e-9)).sum(axis=1)
        ranks.append(below + rng.random(len(below)) * (each.weights * (np.abs(values - truth) <= 1e-9)).sum(axis=1))
    return float(np.mean(np.abs(np.concatenate(ranks) - 0.5) < 0.5 * share))


def test_the_limit_lies_near_the_floor_that_the_labels_themselves_have() -> None:
    found = limit.estimate(Fleet("v2", 14, samples=8))["targets"]
    assert found["severity"]["limit"] > 0.97
    assert found["mode"]["limit"] > 0.97
    # Within severity 0 nobody can tell the damage: 1.25 points off for a quarter of the windows.
    assert 0.3 < found["health_pct"]["limit"] < 0.8
    for each in found.values():
        assert each["low"] <= each["limit"] <= each["high"]


def test_the_truth_of_a_sample_lies_in_the_middle_of_what_its_readings_allow_as_often_as_it_should() -> None:
    plan = Fleet("v2", 28)
    found = [limit.posterior_v2(plan, number) for number in range(plan.pumps)]
    # 336 samples: three standard deviations are 0.08 and 0.05.
    assert inside(found, "health_pct", 0.5) == pytest.approx(0.5, abs=0.08)
    assert inside(found, "health_pct", 0.9) == pytest.approx(0.9, abs=0.05)


def test_the_truth_of_a_life_lies_in_the_middle_of_what_its_readings_allow_as_often_as_it_should(
    lives: list[tuple[limit.Posterior, np.ndarray]],
) -> None:
    found = [posterior for posterior, _ in lives]
    # 80 windows, some of the same life: three standard deviations are 0.17 and 0.10 at least.
    for target in ("health_pct", "rul_pct"):
        assert inside(found, target, 0.5) == pytest.approx(0.5, abs=0.17)
        assert inside(found, target, 0.9) == pytest.approx(0.9, abs=0.10)


def test_a_window_of_a_life_tells_its_damage_but_leaves_its_end_open(
    lives: list[tuple[limit.Posterior, np.ndarray]],
) -> None:
    scores = [posterior.scores() for posterior, _ in lives]
    mean = {name: np.concatenate([each[name] for each in scores]).mean() for name in scores[0]}
    assert mean["severity"] > 0.9
    assert mean["mode"] > 0.9
    assert mean["health_pct"] < 1.5
    assert mean["rul_pct"] > 5.0 * mean["health_pct"]
    # Who knows the past knows more, and not the end either.
    past = np.concatenate([each for _, each in lives]).mean()
    assert 2.0 < past < mean["rul_pct"]


def test_worse_instruments_lower_the_limit() -> None:
    quiet = limit.estimate(Fleet("v2", 7, samples=8, options=IDEAL))["targets"]
    poor = limit.estimate(Fleet("v2", 7, samples=8, options=Options(missing=0.05, missing_readings=15.0)))["targets"]
    assert poor["health_pct"]["limit"] > quiet["health_pct"]["limit"]


def test_ideal_instruments_give_a_life_s_health_almost_exactly_and_silent_ones_much_less() -> None:
    def health(options: Options) -> float:
        plan = Fleet("v3", 14, options=options)
        return float(limit.estimate(plan, numbers=[1])["targets"]["health_pct"]["limit"])

    ideal, usual, silent = (health(each) for each in (IDEAL, Options(), Options(missing=0.1, missing_readings=300.0)))
    assert ideal < 0.1
    assert ideal < usual < silent


def test_the_limit_of_some_pumps_does_not_depend_on_the_others() -> None:
    few, many = (limit.estimate(Fleet("v2", pumps, samples=4), numbers=[2]) for pumps in (3, 30))
    assert few == many
    assert (few["pumps"], few["windows"]) == (1, 4)


def test_who_has_no_whole_window_gets_no_limit() -> None:
    with pytest.raises(ConfigurationError, match="no window of 60 readings in 2 pumps"):
        limit.estimate(Fleet("v3", 2, days=1.0))


@pytest.fixture(scope="module")
def columns(windows: Windows, diagnosis: Problem) -> tuple[np.ndarray, list[str]]:
    """The mean of each sensor over a window as it is, against the commissioning record's mean, and beyond its normal.

    All but the first are held against what the pump showed when new, the last at the same speed, flow and weather.
    """
    assert windows.commissioning is not None
    mean = windows.x.mean(axis=1)
    new = np.stack([windows.commissioning[asset].mean(axis=0) for asset in windows.rows[ASSET]])
    names = [f"{how}({name})" for how in ("change", "ratio") for name in NAMES]
    train, _ = parts(windows)
    made, made_names = Statistics.fit(windows.where(train), diagnosis).transform(windows)
    return np.concatenate([mean - new, mean / np.maximum(new, 1e-3), made], axis=1), names + made_names


@pytest.fixture(scope="module")
def baseline(windows: Windows, diagnosis: Problem) -> pd.DataFrame:
    """Answers of the baseline to the test pumps."""
    train, test = parts(windows)
    learn = windows.where(train)
    fitted = Baseline(jobs=1).fit(learn, learn, diagnosis, seed=7, watch=lambda *_: None)
    return fitted.table(windows.where(test))


@pytest.mark.parametrize("target", ["severity", "mode"])
def test_no_single_column_tells_a_class(
    windows: Windows, columns: tuple[np.ndarray, list[str]], baseline: pd.DataFrame, target: str
) -> None:
    """The best tree on one column stays 10 points under the baseline."""
    train, test = parts(windows)
    x, names = columns
    truth = windows.labels[target].astype(str).to_numpy()
    tree = DecisionTreeClassifier(max_depth=8, min_samples_leaf=5, random_state=0)
    right = [
        float((tree.fit(x[train][:, [place]], truth[train]).predict(x[test][:, [place]]) == truth[test]).mean())
        for place in range(x.shape[1])
    ]
    best = int(np.argmax(right))
    together = float((baseline[target].astype(str).to_numpy() == truth[test]).mean())
    print(f"{target}: best column {names[best]} {right[best]:.3f}, baseline {together:.3f}")  # noqa: T201 - pytest -rP
    assert right[best] < together - 0.10


def test_a_linear_model_of_a_window_s_statistics_does_not_reach_the_limit(
    windows: Windows, columns: tuple[np.ndarray, list[str]]
) -> None:
    train, test = parts(windows)
    x, _ = columns
    limits = limit.estimate(Fleet("v2", TRAIN + TEST), numbers=range(TRAIN, TRAIN + TEST))["targets"]
    for target in ("rul_pct", "health_pct"):
        truth = windows.labels[target].to_numpy()
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))).fit(x[train], truth[train])
        error = float(np.abs(model.predict(x[test]) - truth[test]).mean())
        print(f"{target}: linear {error:.2f}, limit {limits[target]['limit']:.2f}")  # noqa: T201 - pytest -rP
        assert error > 3.0 * limits[target]["high"]


Labels = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def constants() -> list[tuple[np.ndarray, Labels]]:
    """Of three fleets: what each pump is and read when new, and what it has in its first sample."""
    fleets = []
    for seed in (7, 8, 9):
        plan = Fleet("v2", 420, seed, samples=4)
        known, severity, mode = [], [], []
        for number in range(plan.pumps):
            pump, rows = plan.pump(number), plan.rows(number)
            curves, site = pump.type.curves, pump.site
            known.append([
                number, curves.flow_m3_h, curves.head_m, curves.speed_rpm, curves.power_kw, pump.type.motor.rated_kw,
                pump.type.vanes, site.static_head, site.npsh_available_m, site.liquid_c, site.ambient_c,
                *(np.nanmean(values[rows.commissioning]) for values in rows.sensors.values()),
            ])  # fmt: skip
            severity.append(rows.labels["severity"][120])
            mode.append(degradation.MODES.index(plan._mode(number).name))  # even where it does not show yet
        fleets.append((np.array(known), {"severity": np.array(severity), "mode": np.array(mode)}))
    return fleets


def against_chance(constants: list[tuple[np.ndarray, Labels]], target: str) -> tuple[float, np.ndarray]:
    """Accuracy of a model of asset constants alone, and of the same with the pumps' labels shuffled 40 times."""

    def right(x: np.ndarray, labels: np.ndarray) -> float:
        train = np.arange(len(x)) < 280
        model = RandomForestClassifier(20, max_depth=6, random_state=0)
        return float((model.fit(x[train], labels[train]).predict(x[~train]) == labels[~train]).mean())

    shuffle = np.random.default_rng(0)
    found = float(np.mean([right(x, labels[target]) for x, labels in constants]))
    chance = [np.mean([right(x, shuffle.permutation(labels[target])) for x, labels in constants]) for _ in range(40)]
    return found, np.array(chance)


@pytest.mark.parametrize("target", ["severity", "mode"])
def test_what_a_pump_is_says_nothing_about_what_it_has(constants: list[tuple[np.ndarray, Labels]], target: str) -> None:
    found, chance = against_chance(constants, target)
    print(f"{target}: by constants {found:.3f}, by chance {chance.mean():.3f}")  # noqa: T201 - pytest -rP
    assert found <= np.quantile(chance, 0.95)


def test_a_leak_through_the_commissioning_record_would_be_found(constants: list[tuple[np.ndarray, Labels]]) -> None:
    oil_level = 11 + NAMES.index("oil_level_pct")
    leaking = []
    for x, labels in constants:
        planted = x.copy()
        planted[:, oil_level] += 0.5 * x[:, oil_level].std() * labels["severity"]
        leaking.append((planted, labels))
    found, chance = against_chance(leaking, "severity")
    assert found > chance.max()


def test_the_place_of_a_sample_says_nothing_about_its_severity() -> None:
    plan = Fleet("v2", 280, samples=8)
    grades = np.array([plan.rows(number).labels["severity"][120::60] for number in range(280)])
    table = pd.DataFrame(grades).apply(lambda column: column.value_counts(normalize=True))
    assert (np.abs(table - 0.25) < 0.12).all(axis=None)
