"""A dataset: plan_shards -> make_shard -> fetch -> validate -> snapshot."""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pump_ml import catalog
from pump_ml.errors import ConfigurationError, ContractError, UnknownNameError
from pump_ml.settings import PACKAGE, Settings
from pump_ml.steps.common import Json, Progress, log, log_progress, step

if TYPE_CHECKING:
    import pandas as pd

    from pump_ml.sources import Source


@step
def plan_shards(source: str, options: Mapping[str, Any]) -> list[Json]:
    """Parts of a source that several workers may make before `fetch`, which makes what is missing itself.

    Args:
        source: a name of `pump_ml.catalog.SOURCES`.
        options: what that source takes.

    Returns:
        Arguments of `make_shard` for each; none for a source that is read whole.

    Raises:
        ConfigurationError: the source does not take such options.
    """
    from pump_ml.sources import Sharded

    made = _source(source, options)
    shards = made.shards if isinstance(made, Sharded) else 0
    return [{"source": source, "options": dict(options), "shard": shard} for shard in range(shards)]


@step
def make_shard(source: str, options: Mapping[str, Any], shard: int, progress: Progress | None = None) -> Json:
    """Make one part of a source; one that is there stays as it is.

    Returns:
        ``shard`` and its ``rows``.

    Raises:
        ConfigurationError: the source does not take such options, is read whole, or has no such shard.
    """
    from pump_ml.sources import Sharded

    made = _source(source, options, progress)
    if not isinstance(made, Sharded):
        raise ConfigurationError(f"source {source!r} has no shards; expected one that is made in parts: simulated")
    return {"shard": shard, "rows": made.make(shard)}


@step
def fetch(source: str, options: Mapping[str, Any], progress: Progress | None = None) -> Json:
    """Read or make readings and store them as they came.

    Args:
        source: a name of `pump_ml.catalog.SOURCES`.
        options: what that source takes, such as ``{"pumps": 560, "seed": 7}`` or ``{"mapping": …, "path": …}``.
        progress: gets the share that is done.

    Returns:
        ``raw`` (key) and ``rows``.

    Raises:
        ConfigurationError: the source does not take such an option.
        SourceError: it cannot be read.
    """
    from pump_ml import snapshots

    telemetry = _source(source, options, progress).fetch()
    key = snapshots.store(Settings.load().data, "raw", telemetry)
    log.info("stored %d raw readings as %s", len(telemetry.readings), key)
    return {"raw": key, "rows": len(telemetry.readings)}


def _source(source: str, options: Mapping[str, Any], progress: Progress | None = None) -> "Source":
    """A source with its options; errors as `fetch` says."""
    made = catalog.load("source", catalog.SOURCES, source)
    known = made.__init__.__kwdefaults__ or {}
    accepted = [name for name in made.__init__.__annotations__ if name not in ("return", "progress")]
    if strange := sorted(set(options) - set(accepted)):
        raise UnknownNameError(f"option of source {source!r}", strange[0], accepted)
    if missing := [name for name in accepted if name not in options and name not in known]:
        raise ConfigurationError(
            f"source {source!r} needs {', '.join(missing)}; given: {', '.join(options) or 'nothing'}"
        )
    report = progress or log_progress()
    extra = {"progress": lambda share: report(f"fetch {source}", share)} if "progress" in known else {}
    found: Source = made(**options, **extra)
    return found


@step
def validate(raw: str) -> Json:
    """Hold raw readings against their suite; rows that break a rule go to quarantine with the rules they broke.

    Returns:
        ``raw``, ``validation`` (key of the report and of the quarantined rows), ``rows``, ``quarantined`` and ``docs``
        (address of the Data Docs).

    Raises:
        ContractError: the readings break the contract; nothing can be made of them, and the quarantine holds why.
    """
    from pump_ml import files, snapshots
    from pump_ml.validation import validate as hold_against

    settings = Settings.load()
    telemetry = snapshots.load(settings.data, "raw", raw).telemetry
    code = [PACKAGE / name for name in ("suites.py", "validation.py", "expectation_types.py")]
    rules = [*sorted(settings.suites.glob("*.json")), *code]
    key = f"{raw}-{hashlib.sha256(b''.join(path.read_bytes() for path in rules)).hexdigest()[:8]}"
    docs, folder = settings.docs / key, settings.data / "quarantine" / key
    with tempfile.TemporaryDirectory() as built:
        # The key stands for the readings and the rules, so another try would build the same pages.
        pages = None if files.exists(docs / "index.html") else Path(built)
        try:
            result = hold_against(telemetry, suites=settings.suites, docs=pages)
        except ContractError as error:
            if error.quarantined is not None and len(error.quarantined):
                _quarantine(folder, error.quarantined, "contract_broken.json")
            files.write_once(folder / "contract_broken.json", {"raw": raw, "error": str(error), "report": error.report})
            files.publish(Path(built), docs, last="index.html")
            raise
        files.publish(Path(built), docs, last="index.html")
    if len(result.quarantined):
        _quarantine(folder, result.quarantined, "report.json")
        log.warning("%d of %d rows are in quarantine: %s", len(result.quarantined), len(telemetry.readings), folder)
    files.write_once(folder / "report.json", result.report)
    return {
        "raw": raw,
        "validation": key,
        "rows": len(telemetry.readings),
        "quarantined": len(result.quarantined),
        "docs": (docs / "index.html").as_uri(),
    }


def _quarantine(folder: Any, rows: "pd.DataFrame", report: str) -> None:
    """Store the rows, unless the report says that an earlier try finished: it is written after them."""
    from pump_ml import files

    if not files.exists(folder / report):
        files.write_parquet(folder / "readings.parquet", rows)


@step
def snapshot(validated: Mapping[str, Any]) -> Json:
    """Store the readings that met their suite as an immutable snapshot.

    Args:
        validated: what `validate` returned.

    Returns:
        ``snapshot`` (key), ``rows``, ``quarantined`` and ``docs``.
    """
    from pump_ml import files, snapshots
    from pump_ml.schema import TIME, Telemetry

    root = Settings.load().data
    raw = snapshots.load(root, "raw", validated["raw"])
    telemetry = raw.telemetry
    good = telemetry.readings
    if validated["quarantined"]:
        rows = files.read_parquet(root / "quarantine" / validated["validation"] / "readings.parquet", ["row"])
        good = good.drop(index=good.index[rows["row"].to_numpy()]).reset_index(drop=True)
    if good[TIME].dtype.kind == "f":  # cycles of which some were missing; those rows are in quarantine now
        good = good.astype({TIME: "int64"})
    kept = Telemetry(good, telemetry.sensors, telemetry.labels, telemetry.suite, telemetry.origin)
    key = snapshots.store(
        root,
        "snapshots",
        kept,
        waveforms=raw.manifest.get("waveforms"),
        raw=validated["raw"],
        validation=validated["validation"],
        quarantined=validated["quarantined"],
    )
    return {"snapshot": key, "rows": len(good), "quarantined": validated["quarantined"], "docs": validated["docs"]}
