"""The page of benchmarks, docs/benchmarks.md: scores from the documents in docs/benchmarks/, words from the protocols.

Caveats and figures from elsewhere follow the protocols as they are now, so they can be mended without new scores.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pump_ml import metrics
from pump_ml.problems import Published
from pump_ml.protocols import load_protocol, names

Json = Mapping[str, Any]
HEAD = """# Benchmarks

Fixed protocols (`pump_ml/conf/benchmarks.yaml`), run by `pump-ml benchmark NAME`, which also writes this page. Within a
run models are chosen on training and validation assets, and the test assets give the scores. Where settings were chosen
on assets that are judged here, the section says so. Each value is the median over the seeds, with the range in
brackets. A ratio is the family's score over the baseline's or the limit's, over all seeds together, with the 95 %
interval of 1000 paired resamplings of the test assets. `naive` answers always the same, `limit` is the best that anyone
can reach as the [twin](twin.md#the-limit) estimates it. Seconds are those of learning, median over the seeds; MiB are
the largest resident memory of the process that learnt and answered.
"""
NONE_YET = "\nNo benchmark has been run by its protocol yet.\n"


@dataclass(frozen=True)
class Table:
    """Cells of text.

    Args:
        title: what it is about.
        columns: its head.
        rows: a cell a column.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def of_folder(folder: Path) -> str:
    """The page of the documents in a folder, by name."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return render(documents, folder.name)


def render(documents: Sequence[Json], folder: str) -> str:
    """The page, Markdown.

    Args:
        documents: of `pump_ml.benchmark.run`.
        folder: where they lie, relative to the page.
    """
    return HEAD + ("".join(_section(document, folder) for document in documents) or NONE_YET)


def tables(document: Json) -> list[Table]:
    """A document's tables: one a target, and behind it coverage by mode, scores by fold and figures from elsewhere."""
    found = []
    published, before = _elsewhere(document)
    for question in document["questions"]:
        for target in question["definition"]["targets"]:
            found.append(_scores(document, question, target))
            found += _by_mode(question, target)
            found += _by_fold(question, target)
            found += _figures("published figures", published, target)
            found += _figures("where this project started", before, target)
    return found


def _section(document: Json, folder: str) -> str:
    asked, machine, name = document["protocol"], document["machine"], document["name"]
    facts = [
        f"snapshot `{document['snapshot']}`, {document['readings']} readings",
        f"preset `{asked['preset']}`",
        f"seeds {', '.join(map(str, asked['seeds']))}",
        f"commit `{document['git_sha'][:12]}`",
        f"{machine['cores']} cores ({machine['system']}), Python {machine['python']}",
        f"all values: [{name}.json]({folder}/{name}.json)",
    ]
    caveat = load_protocol(name).caveat if name in names() else ""
    told = [asked["description"], *([f"**Caveat:** {caveat}"] if caveat else [])]
    parts = [f"\n## {name}\n" + "\n\n".join(told) + "\n", "; ".join(facts) + ".\n"]
    return "\n".join([*parts, *(_markdown(table) for table in tables(document))])


def _markdown(table: Table) -> str:
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"**{table.title}**\n\n{body}\n"


def _scores(document: Json, question: Json, target: Json) -> Table:
    """A row a rung, then the goal."""
    name, metric = target["name"], target["metric"]
    certainty = "ece" if target["kind"] == "classes" else "coverage"
    more = list(target["more_metrics"])
    rows = []
    for rung, content in question["rungs"].items():
        if not (found := content["targets"].get(name)):
            continue
        seeds = [seed["values"][name] for seed in content["seeds"]]
        rows.append((
            rung,
            f"{found['median']:.4g}" + (f" ({found['low']:.4g} to {found['high']:.4g})" if len(seeds) > 1 else ""),
            *(_middle(seeds, each) for each in more),
            _ratio(found.get("over_baseline")),
            _ratio(found.get("over_limit")),
            _middle(seeds, certainty),
            _number(content["seconds"], ".1f"),
            _number(content["peak_mib"], ".0f"),
        ))  # fmt: skip
    blank = ("",) * (len(more) + 5)
    if (goal := document["protocol"]["goals"].get(name)) is not None:
        rows.append(("goal", f"{goal:g}", *blank))
    better = metrics.get(metric).better
    title = (
        f"{document['name']}: {name}, {metric} ({better} is better{', ' + target['unit'] if target['unit'] else ''})"
    )
    says = (
        "calibration error" if certainty == "ece" else f"inside {100 * question['definition']['interval']:g} % interval"
    )
    columns = ("", metric, *more, "over baseline", "over limit", says, "seconds", "MiB")
    kept = [place for place in range(len(columns)) if place < 2 or any(row[place] for row in rows)]
    cut = tuple(tuple(row[place] for place in kept) for row in rows)
    return Table(title, tuple(columns[place] for place in kept), cut)


def _by_mode(question: Json, target: Json) -> list[Table]:
    """Coverage of the intervals by true fault mode, median over the seeds."""
    of_rungs = {
        rung: [seed["coverage_by_mode"].get(target["name"], {}) for seed in content["seeds"]]
        for rung, content in question["rungs"].items()
    }
    modes = sorted({mode for seeds in of_rungs.values() for seed in seeds for mode in seed})
    if not modes:
        return []
    rows = tuple((rung, *(_middle(seeds, mode) for mode in modes)) for rung, seeds in of_rungs.items() if any(seeds))
    level = f"{100 * question['definition']['interval']:g} %"
    return [Table(f"{target['name']}: inside the {level} interval, by fault mode", ("", *modes), rows)]


def _by_fold(question: Json, target: Json) -> list[Table]:
    """The target's metric in each fold, median over the seeds."""
    of_rungs = {rung: [seed["folds"] for seed in content["seeds"]] for rung, content in question["rungs"].items()}
    of_rungs = {rung: seeds for rung, seeds in of_rungs.items() if len(seeds[0]) > 1}
    if not of_rungs:
        return []
    folds = next(iter(of_rungs.values()))[0]
    heads = (fold.get("asset", f"fold {place + 1} ({fold['assets']} assets)") for place, fold in enumerate(folds))
    name, metric = target["name"], target["metric"]
    rows = tuple(
        (rung, *(_middle([seed[place]["values"][name] for seed in seeds], metric) for place in range(len(folds))))
        for rung, seeds in of_rungs.items()
    )
    return [Table(f"{name}: {metric} by fold", ("", *heads), rows)]


def _elsewhere(document: Json) -> tuple[list[Published], Sequence[Published]]:
    """Published figures, and those that were reached before; of a protocol that does not ship as the document has them.

    What ships may have learnt of more figures since the document was written.
    """
    if document["name"] not in names():
        figures = (figure for question in document["questions"] for figure in question["published"])
        return [Published.model_validate(figure) for figure in figures], ()
    protocol = load_protocol(document["name"])
    return [figure for question in protocol.questions() for figure in question.published], protocol.before


def _figures(what: str, figures: Sequence[Published], target: Json) -> list[Table]:
    rows = tuple((each.model, f"{each.value:g}", each.source) for each in figures if each.target == target["name"])
    return [Table(f"{target['name']}: {what}", ("model", target["metric"], "source"), rows)] if rows else []


def _middle(seeds: Sequence[Json], key: str) -> str:
    """Median over the seeds that have a number of this name; empty where none has."""
    values = [seed[key] for seed in seeds if seed.get(key) is not None]
    return f"{median(values):.3g}" if values else ""


def _ratio(found: Json | None) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
