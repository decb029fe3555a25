"""Gradient-boosted trees on window statistics (XGBoost 3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import xgboost

from pump_ml.models import Answers, Predictor, Watch, class_codes, decides, fitted_assets, training_values
from pump_ml.models.features import Statistics
from pump_ml.models.space import Choice, Range
from pump_ml.problems import Problem, Target
from pump_ml.windows import Windows

if TYPE_CHECKING:
    from pump_ml.models.checkpoint import Checkpoint

NVIDIA = Path("/dev/nvidiactl")
"""There where the driver of an NVIDIA device is."""


class XgbPredictor(Predictor):
    """One booster a target, and the statistics that they look at."""

    family = "xgb"

    def __init__(
        self,
        problem: Problem,
        sensors: tuple[str, ...],
        assets: tuple[str, ...],
        statistics: Statistics,
        boosters: dict[str, xgboost.Booster],
    ) -> None:
        super().__init__(problem, sensors, assets)
        self.statistics, self.boosters = statistics, boosters
        self.normal = statistics.normal

    def answer(self, windows: Windows) -> Answers:
        """See `Predictor.answer`."""
        features, names = self.statistics.transform(windows)
        matrix = xgboost.DMatrix(features, feature_names=names)
        return {target.name: self.boosters[target.name].predict(matrix) for target in self.problem.targets}

    def save_state(self, folder: Path) -> dict[str, Any]:
        """Boosters in XGBoost's own binary JSON."""
        for name, booster in self.boosters.items():
            booster.save_model(folder / f"{name}.ubj")
        return {"statistics": self.statistics.to_json()}

    @classmethod
    def load_state(
        cls, folder: Path, state: dict[str, Any], problem: Problem, sensors: tuple[str, ...], assets: tuple[str, ...]
    ) -> Self:
        """See `Predictor.load_state`."""
        boosters = {t.name: xgboost.Booster(model_file=folder / f"{t.name}.ubj") for t in problem.targets}
        return cls(problem, sensors, assets, Statistics.from_json(state["statistics"]), boosters)


@dataclass(frozen=True)
class Xgb:
    """Gradient-boosted trees, stopped where the validation loss turns; not where a single asset would say so.

    They grow on a GPU where there is one, and answer on the CPU.

    Args:
        rounds: most trees a target (and class).
        depth: depth of a tree.
        rate: learning rate.
        rows: share of windows a tree sees.
        columns: share of statistics a tree sees.
        patience: rounds without a better validation loss before it stops, unless that is of a single asset.
        jobs: threads; the same number gives the same model.
    """

    rounds: int = 400
    depth: int = 5
    rate: float = 0.05
    rows: float = 0.7
    columns: float = 0.5
    patience: int = 40
    jobs: int = 2

    name: ClassVar[str] = "xgb"
    inputs: ClassVar[Literal["readings", "waveform"]] = "readings"
    predictor: ClassVar[type[Predictor]] = XgbPredictor
    requires: ClassVar[tuple[str, ...]] = ("xgboost",)
    space: ClassVar[Mapping[str, Range | Choice]] = {
        "rounds": Range(1, 5000, tuned=False),
        "depth": Range(1, 12),
        "rate": Range(0.005, 0.5, log=True),
        "rows": Range(0.3, 1.0),
        "columns": Range(0.1, 1.0),
        "patience": Range(1, 500, tuned=False),
        "jobs": Range(1, 64, tuned=False),
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
        """Learn one booster a target."""
        del checkpoint  # trees take seconds
        patience = self.patience if decides(train, validation) else None
        boosters: dict[str, xgboost.Booster] = {}
        statistics = Statistics.fit(train, problem)
        (x, names), (x_validation, _) = statistics.transform(train), statistics.transform(validation)
        for number, target in enumerate(problem.targets):
            inside = xgboost.DMatrix(x, _labels(train, target), feature_names=names)
            outside = xgboost.DMatrix(x_validation, _labels(validation, target), feature_names=names)
            curve: dict[str, Any] = {}
            booster = xgboost.train(
                {
                    "max_depth": self.depth,
                    "eta": self.rate,
                    "subsample": self.rows,
                    "colsample_bytree": self.columns,
                    "tree_method": "hist",
                    "device": _device(),
                    "nthread": self.jobs,
                    "seed": seed,
                    **_objective(target),
                },
                inside,
                num_boost_round=self.rounds,
                evals=[(inside, "train"), (outside, "validation")],
                early_stopping_rounds=patience,
                evals_result=curve,
                verbose_eval=False,
            )
            boosters[target.name] = booster if patience is None else booster[: booster.best_iteration + 1]
            boosters[target.name].set_param({"device": "cpu"})  # answers are for few windows, and anywhere
            for part, losses in curve.items():
                (loss,) = losses.values()
                for step in range(0, len(loss), 10):
                    watch(step, {f"{part}/{target.name}_loss": float(loss[step])})
            watch(number, {"progress": (number + 1) / len(problem.targets)})
        return XgbPredictor(problem, train.sensors, fitted_assets(train, validation), statistics, boosters)


def _device(node: Path = NVIDIA) -> Literal["cuda", "cpu"]:
    """Where trees are grown. XGBoost goes on with the CPU, and warns, where the device may not be used after all."""
    return "cuda" if xgboost.build_info()["USE_CUDA"] and node.exists() else "cpu"


def _labels(windows: Windows, target: Target) -> Any:
    if target.kind == "classes":
        return class_codes(windows.labels[target.name], target.classes)
    return training_values(windows, target).astype(np.float32)


def _objective(target: Target) -> dict[str, Any]:
    if target.kind == "classes":
        return {"objective": "multi:softprob", "num_class": len(target.classes), "eval_metric": "mlogloss"}
    return {"objective": "reg:squarederror", "eval_metric": "mae" if target.metric == "mae" else "rmse"}
