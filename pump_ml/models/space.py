"""What a hyper-parameter may be: the bounds of what a run may set, and what tuning tries."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where both bounds are whole.

    Args:
        low: the smallest.
        high: the largest.
        log: what counts is the order of magnitude.
        tuned: False for what tuning leaves alone, such as how long a family learns.
    """

    low: float
    high: float
    log: bool = False
    tuned: bool = True

    @property
    def whole(self) -> bool:
        """Whether it has whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Choice:
    """One of a few values.

    Args:
        options: the values.
        tuned: False for what tuning leaves alone.
    """

    options: tuple[str | float, ...]
    tuned: bool = True

    def __contains__(self, value: object) -> bool:
        # A whole number stands for the same number with a point, as in a range.
        kinds = ((type(option), int) if isinstance(option, float) else (type(option),) for option in self.options)
        return any(type(value) in of and value == option for of, option in zip(kinds, self.options, strict=True))

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.options))}"
