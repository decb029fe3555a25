"""What keeps the models of single machines in order."""

from typing import Literal

from pump_ml.steps.common import Json, log, step


@step
def reconcile_machines(check: Literal["nothing", "presence", "content"] = "content") -> Json:
    """Finish the publications of machines' models that died half way, and report what does not agree.

    Args:
        check: what is held against each other afterwards: ``nothing``; the ``presence`` of files, rows and versions; or
            the files' ``content`` too, for which each of them is read.

    Returns:
        What `pump_ml.machines.reconciling.reconcile` returns.
    """
    from pump_ml.machines.reconciling import reconcile

    report = reconcile(check=check)
    if report.get("agree") is False:
        log.warning("files, rows and versions of the machines' models do not agree: %s", report)
    return report
