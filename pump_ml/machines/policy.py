"""How the models of single machines are made, as ``conf/machines.yaml`` or a deployment's own file says it."""

from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pump_ml.errors import ConfigurationError
from pump_ml.settings import PACKAGE

SHIPPED = PACKAGE / "conf" / "machines.yaml"
Share = Annotated[float, Field(gt=0, lt=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preparation(_Frozen):
    """How raw rows become stretches without holes.

    Args:
        gap_s: a longer pause between two readings ends a stretch.
        fill_s: a missing cell takes the last value of its stretch, if that is not older.
        least_share: a sensor with a smaller share of usable cells is left out.
    """

    gap_s: float = Field(60.0, gt=0)
    fill_s: float = Field(60.0, ge=0)
    least_share: float = Field(0.5, ge=0, le=1)


class HealthPart(_Frozen):
    """A part of the health score: its weight in the whole, and those of its sensors in it."""

    weight: float = Field(gt=0)
    sensors: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)


class Health(_Frozen):
    """The formula of the health score; weights of the parts, and of the sensors in each part, add up to 1.

    Args:
        parts: by name.
        near_zero: sensors that are better the nearer to zero, whatever their sign.
        percentiles: of the training part, between which a sensor is scaled to 0 to 1.
    """

    parts: dict[str, HealthPart] = Field(min_length=1)
    near_zero: tuple[str, ...] = ()
    percentiles: tuple[float, float] = (1.0, 99.0)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        sums = {"health": sum(part.weight for part in self.parts.values())}
        sums |= {name: sum(part.sensors.values()) for name, part in self.parts.items()}
        for name, total in sums.items():
            if abs(total - 1.0) > 1e-9:
                raise ValueError(f"{name}: the weights add up to {total:g}, expected 1")
        if strange := [name for name in self.near_zero if name not in self.sensors]:
            raise ValueError(f"near_zero has {', '.join(strange)}; expected some of {', '.join(self.sensors)}")
        low, high = self.percentiles
        if not 0.0 <= low < high <= 100.0:
            raise ValueError(f"percentiles {low:g} and {high:g}; expected two from 0 to 100, the lower first")
        return self

    @property
    def sensors(self) -> tuple[str, ...]:
        """All that the score is made of."""
        return tuple(dict.fromkeys(name for part in self.parts.values() for name in part.sensors))

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each sensor in the score; they add up to 1."""
        total = dict.fromkeys(self.sensors, 0.0)
        for part in self.parts.values():
            for name, weight in part.sensors.items():
                total[name] += part.weight * weight
        return total


class Forecast(_Frozen):
    """The GRU health forecast.

    Args:
        sequence_length: readings in a window.
        horizon: readings from a window's last to the one whose score is asked for.
        test: share of the readings, the latest, that is judged.
        validation: share before it that stops the learning.
        windows: most that are learnt from; evenly spaced ones where there are more.
        epochs: most epochs.
        patience: epochs without a better validation loss before it stops; the rate halves after half of them.
        batch: windows in a batch.
        rate: learning rate of Adam.
    """

    sequence_length: int = Field(60, ge=2)
    horizon: int = Field(60, ge=1)
    test: Share = 0.2
    validation: Share = 0.1
    windows: int = Field(20_000, ge=64)
    epochs: int = Field(12, ge=1)
    patience: int = Field(3, ge=1)
    batch: int = Field(256, ge=1)
    rate: float = Field(0.003, gt=0)

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.test + self.validation >= 1.0:
            raise ValueError(
                f"test {self.test:g} and validation {self.validation:g} leave nothing to learn from; expected less "
                "than 1 together"
            )
        return self


class Alarm(_Frozen):
    """The XGBoost pre-failure alarm.

    Args:
        lead_min: a row is positive so many minutes before a trip.
        fall: of the engine speed between two consecutive rows, as a share of the first, that is a trip.
        least_rpm: no fall begins below it.
        test: share of the readings, the latest, that is judged.
        folds: blocks of time before it, each answered by trees that learnt from the others; that sets the threshold.
        least_trips: fewer before the test part are no failures to learn from.
        positive_weight: of all rows before a trip together, over that of all others.
        every_s: seconds between two answers.
        rounds: trees.
        depth: of a tree.
        rate: learning rate.
        missed_trip: cost of a trip without an alarm before it.
        false_alarm: cost of an alarm without a trip after it.
        on_for_s: so long the probability has to be above the threshold before an alarm begins.
        off_below: share of the threshold below which it ends.
    """

    lead_min: float = Field(30.0, gt=0)
    fall: Share = 0.7
    least_rpm: float = Field(100.0, ge=0)
    test: Share = 0.2
    folds: int = Field(6, ge=2)
    least_trips: int = Field(2, ge=2)
    positive_weight: float = Field(0.1, gt=0)
    every_s: float = Field(30.0, gt=0)
    rounds: int = Field(150, ge=1)
    depth: int = Field(3, ge=1, le=12)
    rate: float = Field(0.05, gt=0, le=1)
    missed_trip: float = Field(10.0, gt=0)
    false_alarm: float = Field(10.0, gt=0)
    on_for_s: float = Field(420.0, ge=0)
    off_below: float = Field(0.5, gt=0, le=1)


class Policy(_Frozen):
    """All of it."""

    preparation: Preparation = Preparation()
    health: Health
    forecast: Forecast = Forecast()
    alarm: Alarm = Alarm()


def load_policy(path: str | Path | None = None) -> Policy:
    """The shipped policy, or the one of a YAML file.

    Raises:
        ConfigurationError: there is no such file, or it breaks the schema; the message names each key.
    """
    file = Path(path) if path is not None else SHIPPED
    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Policy.model_validate(content)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{file} does not exist; expected a YAML file such as {SHIPPED}") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigurationError(f"{file}: {error}") from error
