"""The tables at the end of a run: who met which target, who is champion, what to do next; what became of a fleet."""

import math
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pump_ml import benchmark_page
from pump_ml.local import command
from pump_ml.machines import fleet

NUMERIC = ("value", "threshold", "limit", "seconds")
MOST_MACHINES = 50
"""Of more machines only the median is shown, and of those that failed so many."""
LOG_WIDTH = 140
BOUND = {"higher": "≥", "lower": "≤"}


def show(report: Mapping[str, Any]) -> None:
    """Print a training report on standard output."""
    Console().print(render(report), crop=False)


def show_tables(document: Mapping[str, Any]) -> None:
    """Print a benchmark's tables on standard output."""
    for content in benchmark_page.tables(document):
        table = Table(title=Text(content.title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for place, column in enumerate(content.columns):
            table.add_column(column, justify="right" if place else "left")
        for row in content.rows:
            table.add_row(*map(Text, row))
        Console().print(table, crop=False)


def show_machines(outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Print what became of a fleet's machines on standard output; see `pump_ml.machines.fleet.summary`."""
    for table in _machines(outcomes):
        Console().print(table, crop=False)


def machine_lines(outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same as lines of plain text, for a log."""
    written = StringIO()
    for table in _machines(outcomes):
        Console(file=written, width=LOG_WIDTH).print(table)
    return [line.rstrip() for line in written.getvalue().splitlines() if line.strip()]


def _machines(outcomes: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """A table a kind: a row a machine, where there are few, and the median; then the machines that failed, and why."""
    found = fleet.summary(outcomes)
    for kind, counted in found["kinds"].items():
        title = f"{kind}: {fleet.told(counted)}; {counted['champions']} became champion"
        if not counted["trained"]:
            yield Text(title)
            continue
        table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("machine", no_wrap=True)
        for metric in counted["median"]:
            table.add_column(metric.replace("_per_", "/").replace("_", " "), justify="right")
        table.add_column("champion")
        trained = [each for each in outcomes if each["kind"] == kind and each.get("metrics")]
        for each in trained if len(trained) <= MOST_MACHINES else ():
            values = [_number(each["metrics"].get(metric)) for metric in counted["median"]]
            table.add_row(Text(each["machine"]), *values, "yes" if each["champion"] else "no")
        table.add_section()
        table.add_row("median", *map(_number, counted["median"].values()), "")
        yield table
    if failed := [each for each in outcomes if each["outcome"] == fleet.FAILED]:
        table = Table(title=f"{len(failed)} failed", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for column in ("machine", "kind", "reason"):
            table.add_column(column, no_wrap=column != "reason")
        for each in failed[:MOST_MACHINES]:
            table.add_row(Text(each["machine"]), each["kind"], Text(each["reason"]))
        yield table


def render(report: Mapping[str, Any]) -> RenderableType:
    """A training report as something that rich prints.

    Args:
        report: ``problem``, ``snapshot``, ``rows_judged``, ``scorecards`` (``family``, ``version``, ``seconds``,
            ``eligible``, ``targets`` of ``name, metric, value, threshold, better, passed`` and maybe ``limit``, the
            best value that anyone can reach, and ``interval``, its ``coverage`` and ``width``), ``decision``
            (``promoted``, ``reason``), ``champion`` (``name``, ``version``, ``family``, or None), ``data_docs``,
            and maybe ``interval`` (the intervals' level), ``compare`` (an address) and ``published`` (``model``,
            ``target``, ``value``, ``source``).
    """
    return Group(_table(report), *_intervals(report), *_published(report), *_verdict(report), Text(), *_next(report))


def _table(report: Mapping[str, Any]) -> Table:
    title = f"{report['problem']}: {report['rows_judged']} rows judged, snapshot {report['snapshot']}"
    # Two blanks between columns, not three: so it fits a terminal of 80.
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    limited = any(target.get("limit") is not None for card in report["scorecards"] for target in card["targets"])
    columns = ("family", "target", "value", "threshold", *(["limit"] if limited else []), "verdict", "seconds")
    for column in columns:
        table.add_column(
            column, justify="right" if column in NUMERIC else "left", no_wrap=column in ("family", "target")
        )
    for card in report["scorecards"]:
        # the family stands once, in front of its targets, and what it is below its name
        left = [Text(f"{card['family']} v{card['version']}", style="bold"), _standing(card, report["champion"])]
        right = [f"{card['seconds']:.1f}"]
        for head, target, seconds in zip_longest(left, card["targets"], right):
            table.add_row(head, *(_target(target, limited=limited) if target else ()), *([seconds] if target else ()))
        table.add_section()
    return table


def _intervals(report: Mapping[str, Any]) -> list[RenderableType]:
    """A row a family: half the mean width of each target's intervals, and the share of the rows that lie inside."""
    names = dict.fromkeys(t["name"] for card in report["scorecards"] for t in card["targets"] if t.get("interval"))
    if not names:
        return []
    title = Text(f"{100 * report['interval']:g} % intervals")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("family", *names):
        table.add_column(column)
    for card in report["scorecards"]:
        found = {target["name"]: target.get("interval") for target in card["targets"]}
        table.add_row(f"{card['family']} v{card['version']}", *(_interval(found.get(name)) for name in names))
    return [table]


def _interval(found: Mapping[str, float] | None) -> str:
    return f"± {found['width'] / 2:.3g}, {100 * found['coverage']:.0f} % inside" if found else "none"


def _published(report: Mapping[str, Any]) -> list[RenderableType]:
    """Figures from elsewhere for the same targets, if the problem names some."""
    figures = report.get("published")
    if not figures:
        return []
    table = Table(title=Text("published figures"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "target", "value", "source"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for figure in figures:
        table.add_row(figure["model"], figure["target"], _number(figure["value"]), figure["source"])
    return [table]


def _standing(card: Mapping[str, Any], champion: Mapping[str, Any] | None) -> Text:
    if champion and (champion["family"], champion["version"]) == (card["family"], card["version"]):
        return Text("champion", style="bold green")
    return Text() if card["eligible"] else Text("not eligible", style="dim")


def _target(target: Mapping[str, Any], *, limited: bool) -> Sequence[Text]:
    if target["threshold"] is None:
        threshold, verdict = Text("none", style="dim"), Text("-", style="dim")
    else:
        threshold = Text(f"{BOUND[target['better']]} {target['threshold']:g}")
        verdict = Text("pass", style="green") if target["passed"] else Text("FAIL", style="bold red")
    limit = [Text(_number(target.get("limit")))] if limited else []
    return Text(f"{target['name']} {target['metric']}"), Text(_number(target["value"])), threshold, *limit, verdict


def _number(value: float | None) -> str:
    return "none" if value is None or math.isnan(value) else f"{value:.4g}"


def _verdict(report: Mapping[str, Any]) -> list[Text]:
    decision, champion = report["decision"], report["champion"]
    word = (
        Text("promoted: ", style="bold green") if decision["promoted"] else Text("not promoted: ", style="bold yellow")
    )
    holder = f"{champion['name']} version {champion['version']} ({champion['family']})" if champion else "none yet"
    return [word.append(decision["reason"], style="default not bold"), Text("champion: ", style="bold").append(holder)]


def _next(report: Mapping[str, Any]) -> list[Text]:
    if report.get("compare"):
        lines = {"MLflow": str(report["compare"])}
    else:
        lines = {
            command("ui"): "compare the runs in MLflow, look at the DAGs in Airflow",
            command("run"): "train again",
        }
    if report["champion"]:
        lines["Python"] = f'mlflow.pyfunc.load_model("models:/{report["champion"]["name"]}@champion")'
    if report.get("data_docs"):
        lines["data docs"] = str(report["data_docs"])
    width = max(10, *(len(name) + 1 for name in lines))
    # a path or a line of code is for copying: no wrapping
    return [
        Text("next", style="bold"),
        *(Text(f"  {name:{width}}{text}", no_wrap=True, overflow="ignore") for name, text in lines.items()),
    ]
