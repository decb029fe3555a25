"""Hyper-parameters of a family: its own, the preset's, the problem's, those that a run sets, and the tuned ones."""

from collections.abc import Collection, Mapping
from typing import Any

import yaml

from pump_ml import catalog
from pump_ml.errors import ConfigurationError, UnknownNameError
from pump_ml.models.space import Choice, Range
from pump_ml.settings import PACKAGE


def make(family: str, preset: str, *given: Mapping[str, Mapping[str, Any]]) -> Any:
    """A family, which is a dataclass, with the preset's hyper-parameters, and these instead of some of them.

    Args:
        family: a name of `pump_ml.catalog.FAMILIES`.
        preset: a name of `pump_ml.catalog.PRESETS`.
        given: family -> name -> value: the problem's, the run's, the tuned ones. The later ones win.
    """
    values: dict[str, Any] = {}
    for each in (_presets()[preset], *given):
        values |= each.get(family, {})
    return _family(family)(**values)


def _presets() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load((PACKAGE / "conf" / "presets.yaml").read_text(encoding="utf-8")))


def calibrates_by_turns(preset: str) -> bool:
    """Whether a preset takes the time for turns where a problem's split says ``rotate: calibrate``.

    Args:
        preset: a name of `pump_ml.catalog.PRESETS`.
    """
    return bool(_presets()[preset].get("turns", True))


def check(hyper: Any, families: Collection[str]) -> None:
    """Raise for hyper-parameters that cannot be meant, before anything is trained with them.

    Args:
        hyper: what a run sets, or a problem: family -> name -> value.
        families: the ones that take part.

    Raises:
        UnknownNameError: a family or a hyper-parameter does not exist.
        ConfigurationError: a family does not take part, or a value is of another type or out of its bounds.
    """
    for family, values in _mapping("hyper", hyper, {"xgb": {"depth": 6}}).items():
        if family not in catalog.FAMILIES:
            raise UnknownNameError("family", family, catalog.FAMILIES)
        if family not in families:
            raise ConfigurationError(
                f"hyper-parameters of {family} are set, which takes no part; expected some of {', '.join(families)}: "
                f"take {family} among the families, or leave its hyper-parameters out"
            )
        space = _family(family).space
        for name, value in _mapping(f"hyper-parameters of {family}", values, {"depth": 6}).items():
            if name not in space:
                raise UnknownNameError(f"hyper-parameter of {family}", name, space)
            if value not in space[name]:
                raise ConfigurationError(
                    f"{family}.{name} = {value!r}; expected {space[name]}, such as {getattr(_family(family), name)!r}"
                )


def tuned_space(family: str, fixed: Collection[str]) -> dict[str, Range | Choice]:
    """What tuning tries: the space of a family but for what a run sets itself.

    Raises:
        ConfigurationError: nothing is left to try.
    """
    space = {n: each for n, each in _family(family).space.items() if each.tuned and n not in fixed}
    if not space:
        raise ConfigurationError(
            f"{family} is to be tuned, but all that tuning tries is set: {', '.join(fixed)}; set fewer, or take "
            "trials = 0"
        )
    return space


def _family(name: str) -> Any:
    return catalog.load("family", catalog.FAMILIES, name)


def _mapping(what: str, given: Any, example: dict[str, Any]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{what}: {given!r}; expected names and what they are to be, such as {example}")
    return given
