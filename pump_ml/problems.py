"""What is predicted: targets with their metrics and thresholds, the window, and what readings are held against."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from pump_ml import catalog, metrics
from pump_ml.errors import ConfigurationError, LeakError, PumpMLError, UnknownNameError
from pump_ml.quantities import Alternatives, Derived
from pump_ml.settings import PACKAGE, Settings
from pump_ml.split_policy import Folds, Frozen, SplitPolicy


class Target(Frozen):
    """One column that a model answers.

    Args:
        name: the label column.
        kind: ``"regression"`` or ``"classes"``.
        classes: the class names, as text, in the order of the probabilities.
        metric: name of the metric that the threshold is about, see `pump_ml.metrics`.
        more_metrics: other metrics to report.
        unit: unit of a regression target.
        low: answers are never below it.
        high: answers are never above it.
        train_cap: training and validation labels are cut at it; judged labels are not.
        threshold: what the metric has to reach; None where no threshold is known.
    """

    name: str
    kind: Literal["regression", "classes"]
    classes: tuple[str, ...] = ()
    metric: str
    more_metrics: tuple[str, ...] = ()
    unit: str = ""
    low: float | None = None
    high: float | None = None
    train_cap: float | None = None
    threshold: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in (self.metric, *self.more_metrics):
            metrics.get(name)
        if (self.kind == "classes") != bool(self.classes):
            raise ValueError(f"target {self.name!r}: a target of kind 'classes', and no other, lists its classes")
        return self

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Direction of the metric."""
        return metrics.get(self.metric).better


class Published(Frozen):
    """A figure from elsewhere, shown beside ours.

    Args:
        model: what it was reached with.
        target: the target it is about.
        value: of the target's metric, as its source gives it.
        source: where it stands.
    """

    model: str
    target: str
    value: float
    source: str


class WindowPolicy(Frozen):
    """How runs become windows.

    Args:
        length: readings in a window.
        stride: readings between the ends of neighbouring training windows.
        judged: which windows of a test run are judged: all of them, or the last.
    """

    length: int = Field(gt=0)
    stride: int = Field(gt=0)
    judged: Literal["all", "last"] = "last"


class Conditions(Frozen):
    """The sensors that say what an asset is asked and what is around it, and nothing of its health.

    What the other sensors show under the same conditions in the commissioning record is what a model compares with.

    Args:
        relative: counted as a share, such as speed and flow: the laws of pumps are powers of them.
        absolute: counted by their difference, such as temperatures.
        levels: those of the relative ones whose level matters as well, beside how far they are from the record's.
        additive: other sensors that conditions add to and do not multiply, such as the temperature of a bearing.
    """

    relative: tuple[str, ...] = ()
    absolute: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    additive: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"conditions: {', '.join(map(repr, twice))} stands twice; state each once")
        if strange := [name for name in self.levels if name not in self.relative]:
            raise ValueError(f"conditions: levels has {', '.join(map(repr, strange))}; expected some of relative")
        if both := [name for name in self.additive if name in self.names]:
            raise ValueError(f"conditions: {', '.join(map(repr, both))} is a condition; additive lists other sensors")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, the relative ones first."""
        return (*self.relative, *self.absolute)


class Problem(Frozen):
    """A question to the data, as a YAML file under ``conf/problems/`` states it.

    Its ``hyper`` are hyper-parameters, family -> name -> value, that suit these data better than a preset's. ``means``,
    feature -> columns, are what families see instead of these columns; `pump_ml.ways.choose` states them.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str = ""
    windows: WindowPolicy
    reference: Literal["commissioning"] | None = None
    conditions: Conditions = Conditions()
    derived: dict[str, Derived] = Field(default_factory=dict)
    features: tuple[str, ...] | None = None
    alternatives: Alternatives | None = None
    means: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    denoise: bool = False
    targets: tuple[Target, ...] = Field(min_length=1)
    split: SplitPolicy
    interval: float = Field(default=0.9, ge=0.5, lt=1)
    mode: str | None = None
    published: tuple[Published, ...] = ()
    hyper: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [target.name for target in self.targets]
        if strange := sorted({figure.target for figure in self.published} - set(names)):
            raise ValueError(f"published: {', '.join(map(repr, strange))} is no target; expected {', '.join(names)}")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"predicts: {', '.join(map(repr, twice))} stands twice; state each target once")
        if (self.alternatives or self.means) and (self.denoise or self.reference is not None or self.derived):
            raise ValueError(
                "alternatives: means over columns go with neither denoise, reference nor derived; drop them"
            )
        if self.conditions.names and self.reference is None:
            raise ValueError("conditions are those of the commissioning record; state reference: commissioning as well")
        if self.denoise and self.reference is not None:
            raise ValueError("denoise and reference are two ways to see past what does not matter; state one of them")
        if self.denoise and self.windows.length < 2:
            raise ValueError(
                "denoise tells noise by how a window's readings differ; expected windows.length of 2 or more"
            )
        if self.mode is not None and self.mode not in names:
            raise ValueError(f"mode {self.mode!r} is no target; expected one of {', '.join(names)}")
        return self

    @property
    def has_thresholds(self) -> bool:
        """False where the bar is to be better than the baseline."""
        return all(target.threshold is not None for target in self.targets)

    @property
    def model_name(self) -> str:
        """Name of the registered model."""
        return f"pump-{self.name.replace('_', '-')}"

    def about(self, target: str) -> Self:
        """The question about one of the targets alone; folds that are balanced are balanced by it.

        Raises:
            UnknownNameError: it is no target.
        """
        chosen = [each for each in self.targets if each.name == target]
        if not chosen:
            raise UnknownNameError(f"target of problem {self.name!r}", target, [each.name for each in self.targets])
        split = self.split
        if isinstance(split.test, Folds) and split.test.stratify is not None:
            split = split.model_copy(update={"test": split.test.model_copy(update={"stratify": target})})
        published = tuple(figure for figure in self.published if figure.target == target)
        changes = {"targets": tuple(chosen), "split": split, "published": published}
        return self.model_copy(update=changes | {"mode": self.mode if self.mode == target else None})

    def choose_features(self, sensors: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
        """What a model may learn from: columns of the data, then what is derived from them.

        Args:
            sensors: the sensor columns that the data bring.
            labels: their label columns.

        Raises:
            LeakError: a label or a target stands among the features.
            ConfigurationError: a feature that the problem asks for is not among the sensors.
        """
        features = self.features if self.features is not None else tuple(sensors)
        answers = {*labels, *(target.name for target in self.targets)}
        if leaked := [name for name in features if name in answers]:
            raise LeakError(
                f"problem {self.name!r}: {', '.join(leaked)} would be learnt from and asked for; take the label "
                "columns out of the features (in the problem's YAML) or out of the sensors (in the source's)"
            )
        if missing := [name for name in features if name not in sensors]:
            raise ConfigurationError(
                f"problem {self.name!r} asks for the sensors {', '.join(missing)}; the data have {', '.join(sensors)}"
            )
        if self.alternatives is not None:  # as long as nobody has chosen: all of them
            found = self.alternatives.columns(sensors)
            features = tuple(dict.fromkeys((*features, *(name for way in found.values() for name in way.values()))))
        known = list(features)
        for name, derived in self.derived.items():
            if name in (*sensors, *labels):
                raise ConfigurationError(
                    f"problem {self.name!r}: derived.{name} is the name of a column of the data; choose another"
                )
            for part in derived.parts:
                if part not in known:
                    raise ConfigurationError(
                        f"problem {self.name!r}: derived.{name}: {UnknownNameError('feature', part, known)}"
                    )
            known.append(name)
        if missing := [n for n in (*self.conditions.names, *self.conditions.additive) if n not in features]:
            raise ConfigurationError(
                f"problem {self.name!r}: the conditions {', '.join(missing)} are no features; expected some of "
                f"{', '.join(features)}"
            )
        if self.conditions.names and len(self.conditions.names) == len(features):
            raise ConfigurationError(
                f"problem {self.name!r}: all features are conditions, so nothing is left to compare; expected another "
                f"sensor beside {', '.join(features)}"
            )
        return tuple(known)

    def with_derived(self, sensors: Sequence[str], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Readings with the derived quantities as further columns.

        Args:
            sensors: what the columns become; the derived ones stand last, as `choose_features` gives them.
            values: of the sensors that are not derived, ``(readings, …)``.

        Returns:
            `values` itself where nothing is derived.
        """
        if len(sensors) == values.shape[1]:
            return values
        columns = dict(zip(sensors, values.T, strict=False))
        for name in sensors[values.shape[1] :]:
            columns[name] = self.derived[name].of(columns)
        return np.stack([columns[name] for name in sensors], axis=-1)


def load_problem(name: str | Path, settings: Settings | None = None) -> Problem:
    """The problem of a catalog name or of a YAML file, with the deployment's thresholds.

    Raises:
        UnknownNameError: neither a known name nor a file.
        ConfigurationError: the YAML breaks the schema; the message names each key.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in catalog.PROBLEMS:
            raise UnknownNameError("problem", str(name), catalog.PROBLEMS)
        path = PACKAGE / catalog.PROBLEMS[str(name)]
    content = _read_yaml(path)
    override = (settings or Settings.load()).targets_file
    if override is not None and content.get("name") in (replaced := _read_yaml(override)):
        called = content["name"]
        content["targets"] = replaced[called]
        return parse_problem(content, where=f"{path} with {override}", targets_at=f"{override}: {called}")
    return parse_problem(content, where=str(path))


def parse_problem(content: dict[str, Any], *, where: str, targets_at: str | None = None) -> Problem:
    """A problem from the content of its YAML, where ``predicts`` lists the columns and ``targets`` their thresholds.

    Args:
        content: of the YAML.
        where: what an error names.
        targets_at: what an error of the thresholds names, where they come from elsewhere.

    Raises:
        ConfigurationError: it breaks the schema, or sets a hyper-parameter that does not exist or lies out of bounds.
    """
    content = dict(content)
    predicts, thresholds = content.pop("predicts", []), content.pop("targets", "none")
    names = [entry.get("name") for entry in predicts]
    if thresholds != "none":
        if not isinstance(thresholds, dict) or sorted(thresholds) != sorted(names):
            raise ConfigurationError(
                f"{targets_at or f'{where}: targets'} is {thresholds!r}; expected 'none' or a threshold for each of "
                f"{', '.join(names)}"
            )
        predicts = [entry | {"threshold": thresholds[entry["name"]]} for entry in predicts]
    try:
        problem = Problem.model_validate(content | {"targets": predicts})
    except ValidationError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    if problem.hyper:
        from pump_ml import hyper  # families know what a problem is

        try:
            hyper.check(problem.hyper, catalog.FAMILIES)
        except PumpMLError as error:
            raise ConfigurationError(f"{where}: hyper: {error}") from error
    return problem


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} does not exist; expected a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected keys and values, got {type(content).__name__}")
    return content
