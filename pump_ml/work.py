"""What the steps of a training run work on: data, split and problem by the plan's keys, and what a fit reports."""

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml import figures, files, hyper, registry, snapshots, splits, ways
from pump_ml.errors import ConfigurationError, DataError
from pump_ml.models import Family, Predictor, Recording, Watch, committee
from pump_ml.models.checkpoint import Checkpoint
from pump_ml.problems import Problem
from pump_ml.schema import ASSET, COMMISSIONING, RUN, Waveforms
from pump_ml.settings import Settings
from pump_ml.splits import Split
from pump_ml.windows import Windows, make_windows

log = logging.getLogger(__name__)

MOST_PUMPS = 112
"""The limit is estimated from so many test pumps at most, evenly chosen: minutes, and an interval of some per cent."""


class Work:
    """What every step of a training run needs, read by the plan's keys."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.plan = plan
        self.settings = Settings.load()

    @cached_property
    def problem(self) -> Problem:
        """The question; where it has alternatives, with those that the assets which are not judged choose."""
        asked = Problem.model_validate(self.plan["definition"])
        return ways.choose(asked, self.rows("train", "validation"), self._sensors) if asked.alternatives else asked

    @property
    def _sensors(self) -> list[str]:
        return [sensor.name for sensor in self.snapshot.telemetry.sensors]

    @cached_property
    def snapshot(self) -> snapshots.Snapshot:
        """The readings and their manifest."""
        return snapshots.load(self.settings.data, "snapshots", self.plan["snapshot"])

    @cached_property
    def split(self) -> Split:
        """What each part holds."""
        return Split.from_json(files.read_json(self.settings.data / "splits" / f"{self.plan['split']}.json"))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The columns a model may learn from."""
        return self.problem.choose_features(self._sensors, self.snapshot.telemetry.labels)

    def unfit(self, predictor: Predictor) -> str | None:
        """Why a model of an earlier run cannot be asked about this problem and these readings; None when it can."""
        channels = predictor.recording.names if predictor.recording else ()
        there = {*self.snapshot.telemetry.readings, *channels}
        if missing := [column for column in predictor.columns if column not in there]:
            return f"the data lack {', '.join(missing)}"
        if predictor.recording and not (self.recording and self.recording.like(predictor.recording)):
            return f"it looks at waveforms of {predictor.recording}, and the data have {self.recording or 'none'}"
        ours, theirs = ([(t.name, t.kind, t.classes) for t in p.targets] for p in (self.problem, predictor.problem))
        if ours != theirs:
            return f"it answers {', '.join(name for name, *_ in theirs)}"
        if self.problem.windows != predictor.problem.windows:
            return "its windows are cut otherwise"
        wanted, known = ((p.reference, p.conditions) for p in (self.problem, predictor.problem))
        if wanted != known:
            return "it compares with the commissioning record otherwise"
        return None

    def rows(self, *parts: str) -> pd.DataFrame:
        """Readings of the parts, those of several in the order of the snapshot."""
        readings = self.snapshot.telemetry.readings
        chosen = [self.split.rows(readings, part) for part in parts]
        return chosen[0] if len(chosen) == 1 else pd.concat(chosen).sort_index()

    @property
    def recording(self) -> Recording | None:
        """How the snapshot's waveforms were taken; None where it has none."""
        return recording_of(self.snapshot)

    @cached_property
    def taken(self) -> Waveforms | None:
        """When the snapshot's usable waveforms were taken; None where it has none."""
        return snapshots.load_waveforms(self.settings.data, self.snapshot, values=False)

    @cached_property
    def waveforms(self) -> Waveforms | None:
        """The snapshot's waveforms."""
        return snapshots.load_waveforms(self.settings.data, self.snapshot)

    def windows(self, parts: str | tuple[str, ...], inputs: str = "readings") -> Windows:
        """Windows to learn from or to tune on.

        Args:
            parts: of the split, one or several.
            inputs: what the family learns from, see `pump_ml.models.Family`.
        """
        named = (parts,) if isinstance(parts, str) else parts
        waveforms = self.waveforms if inputs == "waveform" else self.taken
        return make_windows(self.rows(*named), self.problem, self.features, waveforms=waveforms)

    @cached_property
    def rotations(self) -> list[tuple[str, ...]]:
        """The assets that each model of a committee sets aside; none where one model is learnt."""
        policy = self.problem.split
        if policy.rotate == "calibrate" and not hyper.calibrates_by_turns(self.plan["preset"]):
            return []
        return splits.rotations(self.split, self.snapshot.telemetry.readings, policy)

    def learning(self, inputs: str = "readings") -> tuple[Windows, Windows]:
        """The windows that are learnt from, and those that say how well; the same where assets take turns.

        Args:
            inputs: see `windows`.
        """
        if not self.rotations:
            return self.windows("train", inputs), self.windows("validation", inputs)
        both = self.windows(("train", "validation"), inputs)
        return both, both

    def fit(
        self,
        family: Family,
        learn: Windows,
        tune: Windows,
        *,
        seed: int,
        watch: Watch,
        checkpoint: Checkpoint | None = None,
    ) -> Predictor:
        """Fit one model, or a committee where assets take turns; where they do to calibrate, its first model.

        Args:
            family: with its hyper-parameters.
            learn: of `learning`.
            tune: of `learning`.
            seed: of the family.
            watch: see `pump_ml.models.Watch`.
            checkpoint: see `pump_ml.models.Family.fit`.
        """
        if self.rotations:
            found = committee.fit(
                family, learn, self.rotations, self.problem, seed=seed, watch=watch, checkpoint=checkpoint
            )
            return found.first() if self.problem.split.rotate == "calibrate" else found
        return family.fit(learn, tune, self.problem, seed=seed, watch=watch, checkpoint=checkpoint)

    def judged(self, inputs: str = "readings") -> Windows:
        """The windows of the test part that are judged; see `windows` for `inputs`."""
        waveforms = self.waveforms if inputs == "waveform" else self.taken
        which = self.problem.windows.judged
        return make_windows(self.rows("test"), self.problem, self.features, which=which, waveforms=waveforms)

    def truth(self) -> pd.DataFrame:
        """Keys and labels of the test rows that are judged."""
        windows = self.judged()
        return windows.rows.join(windows.labels)

    def ask(self, model: Any, readings: pd.DataFrame) -> pd.DataFrame:
        """Answers of a registered model to raw readings, for the rows that are judged."""
        predictor = registry.predictor_of(model)
        judged = self.problem.windows.judged
        if judged == "last" and self.taken is None:
            answers: pd.DataFrame = model.predict(readings[list(predictor.columns)])
            return answers
        waveforms = self.waveforms if predictor.recording else self.taken
        return predictor.table(
            make_windows(readings, predictor.problem, predictor.sensors, which=judged, waveforms=waveforms)
        )

    def example(self) -> pd.DataFrame:
        """Readings of one training asset: its commissioning record and its first other run, a window of each."""
        rows = self.rows("train")
        rows = rows[rows[ASSET] == self.split.train[0]]
        apart = rows[COMMISSIONING] & (self.problem.reference is not None)
        first = rows.loc[~apart, RUN].iloc[0]
        chosen: pd.DataFrame = (
            rows[apart | (rows[RUN] == first)].groupby(RUN, sort=False).tail(self.problem.windows.length)
        )
        return chosen

    def limit(self, progress: Callable[[float], None]) -> dict[str, float]:
        """The best score that anyone can reach on the test assets, by target; see `limit_scores`."""
        of_assets = self.limit_scores(progress).values()
        names = next(iter(of_assets), {})
        return {name: round(float(np.concatenate([of[name] for of in of_assets]).mean()), 4) for name in names}

    def limit_scores(self, progress: Callable[[float], None]) -> dict[str, dict[str, NDArray[np.float64]]]:
        """What the best answers that anyone can give would score, by test asset and target, as the twin estimates it.

        Empty where the twin did not make the data, for windows of another kind than those its limit is about
        (`pump_ml.twin.limit`), for a split by time, as it is about whole assets that nobody knows, and where no test
        asset was watched long enough for one.
        """
        from pump_ml import generation
        from pump_ml.twin import limit
        from pump_ml.twin.datasets import SAMPLE

        fleet = generation.fleet_of(self.snapshot.telemetry.origin)
        if fleet is None or self.split.times:
            return {}
        windows, judged = self.problem.windows, {"v2": "last", "v3": "all"}[fleet.dataset]
        if (windows.length, windows.judged, self.problem.reference) != (SAMPLE, judged, "commissioning"):
            return {}
        tested = set(self.split.test)
        numbers = [number for number in range(fleet.pumps) if fleet.asset_id(number) in tested]
        try:
            found = limit.scores(fleet, numbers[:: -(-len(numbers) // MOST_PUMPS)], progress)
        except ConfigurationError as error:
            log.info("%s", error)
            return {}
        asked = [t.name for t in self.problem.targets if limit.METRICS.get(t.name) == t.metric]
        return {
            fleet.asset_id(number): {name: of_pump[name] for name in asked if name in of_pump}
            for number, of_pump in found.items()
        }

    def log_lineage(self, part: str, run: str | None = None) -> None:
        """Note in MLflow that a run read this part of the snapshot."""
        registry.log_dataset(
            self.rows(part), key=self.plan["snapshot"], content_hash=self.snapshot.content_hash,
            source=str(self.settings.data / "snapshots" / self.plan["snapshot"]), context=part, run=run,
        )  # fmt: skip


def recording_of(snapshot: snapshots.Snapshot) -> Recording | None:
    """How a snapshot's waveforms were taken; None where it has none."""
    told = snapshot.manifest.get("waveforms")
    return told and Recording.from_json({name: told[name] for name in ("channels", "rate_hz", "samples")})


def readings_for(predictor: Predictor, key: str) -> pd.DataFrame:
    """All readings of a snapshot, with its waveforms in their cells for a model that looks at them.

    Raises:
        DataError: the model looks at other waveforms than the snapshot has.
        SnapshotError: see `pump_ml.snapshots.load`.
    """
    root = Settings.load().data
    snapshot = snapshots.load(root, "snapshots", key)
    readings = snapshot.telemetry.readings
    if predictor.recording is None:
        return readings
    recording, waveforms = recording_of(snapshot), snapshots.load_waveforms(root, snapshot)
    if recording is None or waveforms is None or not recording.like(predictor.recording):
        raise DataError(
            f"the model looks at waveforms of {predictor.recording}, and snapshot {key!r} has {recording or 'none'}; "
            "take a snapshot with such waveforms"
        )
    return waveforms.in_cells(readings)


class Curves:
    """Collects what a family reports while it learns, for learning curves, and passes its progress on.

    Args:
        what: what is being done, for the progress.
        progress: gets the share that is done.
    """

    def __init__(self, what: str, progress: Callable[[str, float], None]) -> None:
        self.what, self.progress = what, progress
        self.points: list[tuple[str, float, int]] = []

    def watch(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step; see `pump_ml.models.Watch`."""
        for name, value in values.items():
            if name == "progress":
                self.progress(self.what, value)
            else:
                self.points.append((name, value, step))

    def figure(self) -> Any:
        """Learning curves, or None where the family reports none."""
        curves: dict[str, list[tuple[int, float]]] = {}
        for name, value, step in self.points:
            curves.setdefault(name, []).append((step, value))
        return figures.learning_curves(curves)
