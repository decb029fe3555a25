"""Protocols of benchmarks: which data, which question, how folds become one score. Fixed, so scores can be compared."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from pump_ml import catalog
from pump_ml.errors import ConfigurationError, UnknownNameError
from pump_ml.problems import Problem, Published, load_problem
from pump_ml.settings import PACKAGE
from pump_ml.sources.strict import Strict
from pump_ml.split_policy import ByTime

SHIPPED = PACKAGE / "conf" / "benchmarks.yaml"


class Protocol(Strict):
    """One entry of ``conf/benchmarks.yaml``.

    Args:
        description: one line for the page.
        caveat: what the scores do not show, for the page.
        source: a name of `pump_ml.catalog.SOURCES`.
        options: what that source takes; the path of files is given when the benchmark is run.
        problem: a name of `pump_ml.catalog.PROBLEMS`, or the path of a YAML.
        each_target: every target is a question of its own, with models and folds of its own.
        over: how the scores of folds become one: all answers judged together, or the mean of the folds' scores.
        reference: the readings that assets are compared with, and those before an asset's first whole window, are
            judged too. No model answers for them; the answer is what the training assets' labels were there.
        preset: a name of `pump_ml.catalog.PRESETS`.
        families: names of `pump_ml.catalog.FAMILIES`; none: all that can learn from the data.
        seeds: of families and splits; the page shows the median.
        goals: what the project wants each target's metric to be.
        before: figures that were reached before there was this protocol, for the page.
    """

    description: str
    caveat: str = ""
    source: Literal["simulated", "files"]
    options: dict[str, Any] = Field(default_factory=dict)
    problem: str
    each_target: bool = False
    over: Literal["pooled", "mean"] = "pooled"
    reference: bool = False
    preset: str = "standard"
    families: tuple[str, ...] = ()
    seeds: tuple[int, ...] = Field((7, 8, 9), min_length=1)
    goals: dict[str, float] = Field(default_factory=dict)
    before: tuple[Published, ...] = ()

    @field_validator("preset")
    @classmethod
    def _preset_exists(cls, preset: str) -> str:
        if preset not in catalog.PRESETS:
            raise ValueError(UnknownNameError("preset", preset, catalog.PRESETS))
        return preset

    @field_validator("families")
    @classmethod
    def _families_exist(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        for family in families:
            if family not in catalog.FAMILIES:
                raise ValueError(UnknownNameError("family", family, catalog.FAMILIES))
        return tuple(dict.fromkeys(families))

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if min(seeds) < 0:
            raise ValueError(f"seed {min(seeds)}; expected whole numbers of 0 or more")
        return tuple(dict.fromkeys(seeds))

    def questions(self) -> tuple[Problem, ...]:
        """The problem, or what it asks of each target alone.

        Raises:
            UnknownNameError: there is no such problem, or a goal or an earlier figure is of no target.
            ConfigurationError: records are to be judged that a split by time has in every part.
        """
        problem = load_problem(self.problem)
        if self.reference and isinstance(problem.split.test, ByTime):
            raise ConfigurationError(
                f"reference: true judges what problem {self.problem!r} compares assets with, and its split by time has "
                "that in every part; leave reference out, or split by asset"
            )
        names = [target.name for target in problem.targets]
        for what, named in (("goal", self.goals), ("figure", [figure.target for figure in self.before])):
            for name in named:
                if name not in names:
                    raise UnknownNameError(f"target of a {what}", name, names)
        return tuple(problem.about(name) for name in names) if self.each_target else (problem,)

    def changed(self, **given: Any) -> "Protocol":
        """The protocol with other values; None changes nothing.

        Raises:
            ConfigurationError: a value cannot be used.
        """
        return _parse(
            self.model_dump() | {key: value for key, value in given.items() if value is not None}, "benchmark"
        )


def names(path: Path = SHIPPED) -> tuple[str, ...]:
    """The benchmarks that there are."""
    return tuple(yaml.safe_load(path.read_text(encoding="utf-8")))


def load_protocol(name: str, path: Path = SHIPPED) -> Protocol:
    """The protocol of that name.

    Raises:
        UnknownNameError: there is none.
        ConfigurationError: its entry breaks the schema; the message names each key.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if name not in content:
        raise UnknownNameError("benchmark", name, content)
    return _parse(content[name], f"{path.name}: {name}")


def _parse(content: Any, where: str) -> Protocol:
    try:
        return Protocol.model_validate(content)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, f['loc']))}: {f['msg'].removeprefix('Value error, ')}" for f in error.errors())
        raise ConfigurationError(f"{where}: {'; '.join(faults)}") from error
