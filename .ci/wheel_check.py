"""Run by .ci/run against an installed wheel, from an empty folder: data files are there, the core is light."""

import sys
from importlib import import_module
from pathlib import Path

for name in ("airflow", "tensorflow", "keras"):
    sys.modules[name] = None  # importing it fails, as where it is not installed

CORE = (
    "catalog", "cli", "cli_compose", "cli_local", "cli_twin", "compose.backup", "compose.environment",
    "compose.status", "errors", "evaluation", "generation", "ledger", "machines.fleet", "machines.policy",
    "machines.preparation", "metrics", "models", "problems", "promotion", "schema", "scoreboard", "settings",
    "snapshots", "sources.files", "sources.simulated", "splits", "steps", "streaming", "twin.datasets", "windows",
)  # fmt: skip
SERVING = (
    "registry", "machines.answering", "machines.training", "models.pyfunc", "models.baseline", "models.xgb",
    "models.cnn1d", "models.cnn2d", "models.gru",
)  # fmt: skip
HEAVY = ("great_expectations", "mlflow", "sklearn", "xgboost")

for module in CORE:
    import_module(f"pump_ml.{module}")
if loaded := [name for name in HEAVY if name in sys.modules]:
    raise SystemExit(f"the core imports {', '.join(loaded)} at its top level; import inside the function that needs it")
for module in SERVING:
    import_module(f"pump_ml.{module}")

from pump_ml import catalog, problems, settings, steps  # noqa: E402 - after the blocks above
from pump_ml.machines import policy  # noqa: E402
from pump_ml.sources import mapping, plant  # noqa: E402

site = Path(sys.argv[1]).resolve()
if not settings.PACKAGE.is_relative_to(site):
    raise SystemExit(f"pump_ml came from {settings.PACKAGE}, not from the wheel in {site}")
suites = settings.Settings.load().suites
if not suites.is_relative_to(site):
    raise SystemExit(f"the suites came from {suites}, not from the wheel")
for name in catalog.PROBLEMS:
    problems.load_problem(name)
for name in mapping.shipped():
    mapping.load_mapping(name)
for name in plant.shipped():
    plant.load_plant(name)
policy.load_policy()
stored = steps.snapshot(steps.validate(steps.fetch("simulated", {"pumps": 7, "samples": 4, "seed": 1})["raw"]))
sys.stdout.write(
    f"the wheel's core works without Airflow and TensorFlow: {stored['rows']} rows in {stored['snapshot']}\n"
)
