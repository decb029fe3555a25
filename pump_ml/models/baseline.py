"""The baseline that deep learning has to beat: extremely randomised trees on window statistics (scikit-learn)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from pump_ml.models import Answers, Predictor, Watch, class_codes, fitted_assets, training_values
from pump_ml.models.features import Statistics
from pump_ml.problems import Problem
from pump_ml.windows import Windows

TRUSTED = ["sklearn.tree._tree.Tree"]
"""The one type in the saved forest that skops does not know by itself."""


class BaselinePredictor(Predictor):
    """One forest a target, and the statistics that they look at."""

    family: ClassVar[str] = "baseline"

    def __init__(
        self,
        problem: Problem,
        sensors: tuple[str, ...],
        assets: tuple[str, ...],
        statistics: Statistics,
        forests: dict[str, Any],
    ) -> None:
        super().__init__(problem, sensors, assets)
        self.statistics, self.forests = statistics, forests

    def answer(self, windows: Windows) -> Answers:
        """See `Predictor.answer`."""
        features, _ = self.statistics.transform(windows)
        answers: Answers = {}
        for target in self.problem.targets:
            forest = self.forests[target.name]
            if target.kind == "regression":
                answers[target.name] = forest.predict(features)
            else:
                answers[target.name] = spread(forest.predict_proba(features), forest.classes_, len(target.classes))
        return answers

    def save_state(self, folder: Path) -> dict[str, Any]:
        """Forests as skops files, which hold no pickles."""
        import skops.io  # only where a model is stored

        for name, forest in self.forests.items():
            skops.io.dump(forest, folder / f"{name}.skops")
        return {"statistics": self.statistics.to_json()}

    @classmethod
    def load_state(
        cls, folder: Path, state: dict[str, Any], problem: Problem, sensors: tuple[str, ...], assets: tuple[str, ...]
    ) -> Self:
        """See `Predictor.load_state`."""
        import skops.io

        forests = {t.name: skops.io.load(folder / f"{t.name}.skops", trusted=TRUSTED) for t in problem.targets}
        return cls(problem, sensors, assets, Statistics.from_json(state["statistics"]), forests)


@dataclass(frozen=True)
class Baseline:
    """Extremely randomised trees (Geurts et al. 2006).

    Args:
        trees: trees a target.
        features: share of the statistics that a split looks at.
        leaf: fewest windows in a leaf.
    """

    trees: int = 120
    features: float = 0.4
    leaf: int = 2
    jobs: int = 2

    name: ClassVar[str] = "baseline"
    inputs: ClassVar[Literal["readings", "waveform"]] = "readings"
    predictor: ClassVar[type[Predictor]] = BaselinePredictor
    requires: ClassVar[tuple[str, ...]] = ("scikit-learn", "skops")

    def fit(self, train: Windows, validation: Windows, problem: Problem, *, seed: int, watch: Watch) -> Predictor:
        """Learn one forest a target from `train`; a forest needs no validation."""
        del validation
        statistics = Statistics.fit(train, problem)
        features, _ = statistics.transform(train)
        options: dict[str, Any] = {
            "n_estimators": self.trees,
            "max_features": self.features,
            "min_samples_leaf": self.leaf,
            "n_jobs": self.jobs,
            "random_state": seed,
        }
        forests: dict[str, Any] = {}
        for step, target in enumerate(problem.targets):
            if target.kind == "classes":
                labels = class_codes(train.labels[target.name], target.classes)
                forests[target.name] = ExtraTreesClassifier(**options).fit(features, labels)
            else:
                forests[target.name] = ExtraTreesRegressor(**options).fit(features, training_values(train, target))
            # Threads add up the trees' answers in no fixed order: the last digit would change from call to call.
            forests[target.name].set_params(n_jobs=1)
            watch(step, {"progress": (step + 1) / len(problem.targets)})
        return BaselinePredictor(problem, train.sensors, fitted_assets(train), statistics, forests)


def spread(probabilities: Any, codes: Any, classes: int) -> Any:
    """Probabilities over the classes that training saw, spread over all classes of the target."""
    import numpy as np

    full = np.zeros((len(probabilities), classes))
    full[:, codes] = probabilities
    return full
