"""The baseline that deep learning has to beat: for each target, the better of a forest and a linear model.

Forests of extremely randomised trees (scikit-learn) on window statistics learn curved and joint effects, and answer
within what they saw. Linear models with shrinkage on intervals of the window (`pump_ml.models.linear`) add up effects,
and so answer combinations that training lacks. The validation windows say which of the two a target needs; a single
asset does not, and the forest with small leaves is kept.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from pump_ml import metrics
from pump_ml.models import Answers, Predictor, Watch, class_codes, decides, fitted_assets, training_values
from pump_ml.models.features import Intervals, Statistics
from pump_ml.models.linear import Columns, LinearModel, fit_linear
from pump_ml.models.space import Choice, Range
from pump_ml.problems import Problem, Target
from pump_ml.windows import Windows

if TYPE_CHECKING:
    from pump_ml.models.checkpoint import Checkpoint

log = logging.getLogger(__name__)

TRUSTED = ["sklearn.tree._tree.Tree"]
"""The one type in the saved forest that skops does not know by itself."""

FOREST, LINEAR, NAIVE = "forest", "linear", "naive"
"""The rungs. The naive one is there to compare with and is never kept: the gate stops a run that does not beat it."""


class BaselinePredictor(Predictor):
    """The rung that was kept for each target, and what it looks at.

    Args:
        problem: what is asked.
        sensors: the columns it learnt from.
        assets: those whose windows it learnt from or chose by.
        statistics: what forests look at.
        intervals: how many intervals linear models look at.
        models: a forest or a linear model for each target.
        errors: of each rung on the validation windows, by target: the target's metric, or 1 minus it where higher is
            better.
    """

    family = "baseline"

    def __init__(
        self,
        problem: Problem,
        sensors: tuple[str, ...],
        assets: tuple[str, ...],
        statistics: Statistics,
        intervals: int,
        models: dict[str, Any],
        errors: dict[str, dict[str, float]],
    ) -> None:
        super().__init__(problem, sensors, assets)
        self.statistics, self.intervals, self.models, self.errors = statistics, intervals, models, errors
        self.normal = statistics.normal

    @property
    def kept(self) -> dict[str, str]:
        """The rung of each target."""
        return {name: LINEAR if isinstance(model, LinearModel) else FOREST for name, model in self.models.items()}

    def answer(self, windows: Windows) -> Answers:
        """See `Predictor.answer`."""
        columns: dict[str, Columns] = {}
        if FOREST in self.kept.values():
            columns[FOREST], _ = self.statistics.transform(windows)
        if LINEAR in self.kept.values():
            intervals = Intervals(self.statistics.normal, self.intervals, self.statistics.signals)
            columns[LINEAR], _ = intervals.transform(windows)
        return {t.name: ask(self.models[t.name], columns[self.kept[t.name]], t) for t in self.problem.targets}

    def save_state(self, folder: Path) -> dict[str, Any]:
        """Forests as skops files and linear models as arrays, neither of which holds pickles."""
        import skops.io  # only where a model is stored

        for name, model in self.models.items():
            if isinstance(model, LinearModel):
                model.save(folder / f"{name}.npz")
            else:
                skops.io.dump(model, folder / f"{name}.skops")
        return {
            "statistics": self.statistics.to_json(),
            "intervals": self.intervals,
            "kept": self.kept,
            "errors": self.errors,
        }

    @classmethod
    def load_state(
        cls, folder: Path, state: dict[str, Any], problem: Problem, sensors: tuple[str, ...], assets: tuple[str, ...]
    ) -> Self:
        """See `Predictor.load_state`. What an earlier version wrote has a forest for each target."""
        import skops.io

        models = {
            t.name: LinearModel.load(folder / f"{t.name}.npz")
            if state.get("kept", {}).get(t.name) == LINEAR
            else skops.io.load(folder / f"{t.name}.skops", trusted=TRUSTED)
            for t in problem.targets
        }
        statistics = Statistics.from_json(state["statistics"])
        return cls(problem, sensors, assets, statistics, state.get("intervals", 1), models, state.get("errors", {}))


@dataclass(frozen=True)
class Baseline:
    """Extremely randomised trees (Geurts et al. 2006), or a linear model with shrinkage.

    Args:
        trees: trees a target.
        features: share of the statistics that a split looks at, in forests of classes.
        leaf: fewest windows in a leaf, in forests of classes.
        value_features: share of the statistics that a split looks at, in forests of values.
        value_leaf: fewest windows in a leaf, in forests of values.
        noisy_leaf: the same of a second forest of values, kept where validation prefers it: where labels are noisy,
            small leaves learn the noise.
        intervals: of a window, for linear models.
        members: linear models that are averaged.
        share: of the sensors that each of them sees.
    """

    trees: int = 120
    features: float = 0.4
    leaf: int = 2
    value_features: float = 0.9
    value_leaf: int = 1
    noisy_leaf: int = 10
    jobs: int = 2
    intervals: int = 20
    members: int = 20
    share: float = 0.7

    name: ClassVar[str] = "baseline"
    inputs: ClassVar[Literal["readings", "waveform"]] = "readings"
    predictor: ClassVar[type[Predictor]] = BaselinePredictor
    requires: ClassVar[tuple[str, ...]] = ("scikit-learn", "skops")
    space: ClassVar[Mapping[str, Range | Choice]] = {
        "trees": Range(1, 2000, tuned=False),
        "features": Range(0.05, 1.0),
        "leaf": Range(1, 50, log=True),
        "value_features": Range(0.05, 1.0),
        "value_leaf": Range(1, 50, log=True),
        "noisy_leaf": Range(1, 500, log=True),
        "jobs": Range(1, 64, tuned=False),
        "intervals": Range(1, 120, log=True),
        "members": Range(1, 200, tuned=False),
        "share": Range(0.1, 1.0),
    }

    def fit(
        self,
        train: Windows,
        validation: Windows,
        problem: Problem,
        *,
        seed: int,
        watch: Watch,
        checkpoint: "Checkpoint | None" = None,
    ) -> Predictor:
        """Learn both rungs of each target from `train`, and keep the one that `validation` prefers."""
        del checkpoint  # seconds
        from pump_ml.evaluation import naive_answers  # which does not travel with a model

        statistics = Statistics.fit(train, problem)
        intervals = Intervals(statistics.normal, self.intervals, statistics.signals)
        (stats, _), (stats_validation, _) = statistics.transform(train), statistics.transform(validation)
        (course, owners), (course_validation, _) = intervals.transform(train), intervals.transform(validation)
        naive = naive_answers(train.labels, validation.rows, problem)
        choosing = decides(train, validation)
        models: dict[str, Any] = {}
        errors: dict[str, dict[str, float]] = {}
        for step, target in enumerate(problem.targets):
            labels, truth = (_labels(part, target) for part in (train, validation))

            def off(
                model: Any,
                columns: Columns = course_validation,
                truth: NDArray[Any] = truth,
                target: Target = target,
            ) -> float:
                return _error(ask(model, columns, target), truth, target)

            # Its error is told even where it cannot be kept.
            linear = fit_linear(
                course, labels, owners, off,
                classes=target.kind == "classes", members=self.members, share=self.share, seed=seed,
            )  # fmt: skip
            forests = self._forests(stats, labels, target, seed, several=choosing)
            forest = min(forests, key=lambda each: off(each, stats_validation))
            same = naive[target.name]
            errors[target.name] = found = {
                NAIVE: _off(class_codes(same, target.classes) if target.classes else same.to_numpy(), truth, target),
                FOREST: off(forest, stats_validation),
                LINEAR: off(linear),
            }
            # The forest keeps a tie.
            models[target.name] = linear if choosing and found[LINEAR] < found[FOREST] else forest
            watch(step, {f"rungs/{target.name}_{rung}_error": value for rung, value in found.items()})
            watch(step, {"progress": (step + 1) / len(problem.targets)})
        assets = fitted_assets(train, validation)
        made = BaselinePredictor(problem, train.sensors, assets, statistics, self.intervals, models, errors)
        log.info("the baseline keeps %s; errors on validation: %s", made.kept, errors)
        return made

    def _forests(
        self, columns: Columns, labels: NDArray[Any], target: Target, seed: int, *, several: bool
    ) -> list[Any]:
        """The forests of a target that validation chooses among, or the one with small leaves."""
        values = target.kind == "regression"
        kind = ExtraTreesRegressor if values else ExtraTreesClassifier
        leaves = (self.value_leaf, self.noisy_leaf) if values else (self.leaf,)
        forests = [
            kind(
                n_estimators=self.trees,
                max_features=self.value_features if values else self.features,
                min_samples_leaf=leaf,
                n_jobs=self.jobs,
                random_state=seed,
            ).fit(columns, labels)
            for leaf in dict.fromkeys(leaves if several else leaves[:1])
        ]
        # Threads add up the trees' answers in no fixed order: the last digit would change from call to call.
        return [forest.set_params(n_jobs=1) for forest in forests]


def ask(model: Any, columns: Columns, target: Target) -> NDArray[np.float64]:
    """A rung's answer to one target, see `pump_ml.models.Answers`."""
    linear = isinstance(model, LinearModel)
    if target.kind == "classes":
        codes, odds = (
            (model.codes, model.predict(columns)) if linear else (model.classes_, model.predict_proba(columns))
        )
        return spread(odds, codes, len(target.classes))
    values: NDArray[np.float64] = model.predict(columns)
    return values


def _labels(windows: Windows, target: Target) -> NDArray[Any]:
    """Class codes, or values as they are learnt."""
    if target.kind == "classes":
        return class_codes(windows.labels[target.name], target.classes)
    return training_values(windows, target)


def _error(answer: NDArray[np.float64], truth: NDArray[Any], target: Target) -> float:
    """Of an answer as it leaves the predictor: the likeliest class, or a value within the target's range."""
    if target.kind == "classes":
        return _off(answer.argmax(axis=1), truth, target)
    return _off(np.clip(answer, target.low, target.high), truth, target)


def _off(given: NDArray[Any], truth: NDArray[Any], target: Target) -> float:
    metric = metrics.get(target.metric)
    return metric.shortfall(metric(truth, given))


def spread(probabilities: Any, codes: Any, classes: int) -> NDArray[np.float64]:
    """Probabilities over the classes that training saw, spread over all classes of the target."""
    full = np.zeros((len(probabilities), classes))
    full[:, codes] = probabilities
    return full
