"""Pictures of a scorecard and of a fit, as matplotlib figures."""

import os
from collections.abc import Iterator, Mapping, Sequence

# Before the import: no display is needed.
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pump_ml.evaluation import inside
from pump_ml.problems import Problem, Target
from pump_ml.schema import KEYS

BLUE, ORANGE = "#1f5f8b", "#d9822b"


def of_answers(answers: pd.DataFrame, truth: pd.DataFrame, problem: Problem) -> Iterator[tuple[str, Figure]]:
    """File names and figures: confusion matrices, predicted against true, error by life left, coverage by mode.

    Args:
        answers: what a family answered, see `pump_ml.models.Predictor.predict`.
        truth: the same rows with the labels.
        problem: targets.
    """
    rows = truth.merge(answers, on=list(KEYS), suffixes=("", "_answer"))
    life = next((t for t in problem.targets if t.kind == "regression" and t.name.startswith("rul")), None)
    for target in problem.targets:
        true, answer = rows[target.name], rows[f"{target.name}_answer"]
        if target.kind == "classes":
            yield f"confusion_{target.name}.png", confusion(true.astype(str), answer.astype(str), target)
        else:
            yield f"predicted_{target.name}.png", predicted_against_true(true, answer, target)
            if life is not None:
                yield f"error_by_life_{target.name}.png", error_by_life(true, answer, rows[life.name], target, life)
    sure = [target for target in problem.targets if f"{target.name}_low" in rows]
    if sure and problem.mode:
        covered = pd.DataFrame({target.name: inside(rows, target) for target in sure}).groupby(rows[problem.mode])
        yield "coverage_by_mode.png", coverage_by_mode(covered.mean(), covered.size(), problem.interval)


def confusion(true: pd.Series, answer: pd.Series, target: Target) -> Figure:
    """Confusion matrix: rows are true classes, columns are answers, numbers are counts."""
    classes = list(target.classes)
    counts = pd.crosstab(
        pd.Categorical(true, categories=classes), pd.Categorical(answer, categories=classes), dropna=False
    ).to_numpy()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.6 * len(classes)
    figure = Figure(figsize=(size + 1.0, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    for row in range(len(classes)):
        for column in range(len(classes)):
            if counts[row, column]:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title=f"{target.name}: {len(true)} rows")
    return figure


def predicted_against_true(true: pd.Series, answer: pd.Series, target: Target) -> Figure:
    """One point a row; on the line the answer is right."""
    unit = f" / {target.unit}" if target.unit else ""
    figure = Figure(figsize=(5.0, 5.0), layout="constrained")
    axes = figure.subplots()
    low, high = float(min(true.min(), answer.min())), float(max(true.max(), answer.max()))
    axes.plot([low, high], [low, high], color=ORANGE, linewidth=1.0)
    axes.scatter(true, answer, s=6, alpha=0.5, color=BLUE, edgecolors="none")
    axes.set(xlabel=f"true{unit}", ylabel=f"predicted{unit}", title=target.name)
    return figure


def error_by_life(true: pd.Series, answer: pd.Series, left: pd.Series, target: Target, life: Target) -> Figure:
    """Median and 10 to 90 % range of the error over ten equal bands of life left."""
    error = (answer - true).to_numpy()
    band = pd.cut(left, 10)
    grouped = pd.Series(error).groupby(band.to_numpy(), observed=True)
    middle = [interval.mid for interval in grouped.groups]  # type: ignore[attr-defined] # the bands of pd.cut
    low, median, high = (grouped.quantile(q).to_numpy() for q in (0.1, 0.5, 0.9))
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0.0, color="grey", linewidth=0.8)
    axes.fill_between(middle, low, high, color=BLUE, alpha=0.25, label="10 to 90 %")
    axes.plot(middle, median, color=BLUE, marker="o", markersize=3, label="median")
    axes.invert_xaxis()
    axes.set(xlabel=f"life left ({life.name})", ylabel=f"error of {target.name}")
    axes.legend(frameon=False)
    return figure


def coverage_by_mode(shares: pd.DataFrame, sizes: pd.Series, level: float) -> Figure:
    """Share of true values inside of the intervals for each fault mode, beside the share that was promised.

    Args:
        shares: a row a mode, a column a target.
        sizes: rows of each mode.
        level: of the intervals.
    """
    figure = Figure(figsize=(6.0, 1.2 + 0.35 * len(shares)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(level, color="grey", linewidth=0.8)
    for name, color in zip(shares, (BLUE, ORANGE, "grey", "black"), strict=False):
        axes.scatter(shares[name], range(len(shares)), color=color, s=24, label=name)
    axes.set_yticks(range(len(shares)), [f"{mode} ({sizes[mode]})" for mode in shares.index])
    axes.set(
        xlim=(min(0.5, float(shares.min().min())) - 0.02, 1.02),
        xlabel=f"share inside of the {100 * level:g} % interval",
    )
    axes.legend(frameon=False, loc="lower left")
    return figure


def importance(of_targets: Mapping[str, Mapping[str, float]]) -> Figure:
    """Bars for each target: by how much a sensor moves an answer on average, what matters most on top.

    Args:
        of_targets: mean absolute contribution of each sensor, by target; see `pump_ml.explanation.importance`.
    """
    most = max(len(of_sensors) for of_sensors in of_targets.values())
    figure = Figure(figsize=(5.0 * len(of_targets), 1.2 + 0.25 * most), layout="constrained")
    for axes, (target, of_sensors) in zip(
        figure.subplots(1, len(of_targets), squeeze=False).flat, of_targets.items(), strict=True
    ):
        axes.barh(list(of_sensors), list(of_sensors.values()), color=BLUE)
        axes.invert_yaxis()
        axes.set(xlabel="mean absolute contribution", title=target)
    return figure


def learning_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure | None:
    """Losses over steps, training and validation side by side; None when there are none."""
    names = sorted({name.split("/", 1)[1] for name in curves if name.startswith(("train/", "validation/"))})
    if not names:
        return None
    figure = Figure(figsize=(4.0 * min(len(names), 3), 3.0 * -(-len(names) // 3)), layout="constrained")
    axes = figure.subplots(-(-len(names) // 3), min(len(names), 3), squeeze=False)
    for place, name in zip(axes.flat, names, strict=False):
        for part, color in (("train", BLUE), ("validation", ORANGE)):
            points = curves.get(f"{part}/{name}", [])
            place.plot([step for step, _ in points], [value for _, value in points], color=color, label=part)
        place.set(title=name, xlabel="step", yscale="log")
    axes.flat[0].legend(frameon=False)
    for place in list(axes.flat)[len(names) :]:
        place.set_visible(False)
    return figure
