"""One family and one seed of a benchmark, over all folds: learnt and judged in a process of its own.

So its peak memory and its time are its own, and what a library keeps to itself does not reach the next one.
"""

import hashlib
import json
import multiprocessing
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pump_ml import hyper
from pump_ml.errors import MemoryLimitError, PumpMLError, name_failure
from pump_ml.evaluation import judge, naive_answers, refuse_seen
from pump_ml.models import Family, fitted_until
from pump_ml.models.calibration import Calibration
from pump_ml.schema import ASSET, COMMISSIONING, KEYS, TIME
from pump_ml.settings import PACKAGE
from pump_ml.work import Curves, Work

Json = dict[str, Any]
NAIVE, LIMIT = "naive", "limit"
"""Rungs beside the families: a constant answer, and the best that anyone can reach."""


@dataclass(frozen=True)
class Trial:
    """What one process does.

    Args:
        rung: a family, `NAIVE` or `LIMIT`.
        seed: of the family; the splits have been made with it.
        snapshot: its key.
        definition: the problem, JSON.
        splits: key of each fold's split.
        preset: of `pump_ml.catalog.PRESETS`.
        reference: whether the readings that no model answers for are judged too, see `reference_answers`.
    """

    rung: str
    seed: int
    snapshot: str
    definition: Mapping[str, Any]
    splits: tuple[str, ...]
    preset: str
    reference: bool = False

    @property
    def learner(self) -> Any:
        """The family, with the hyper-parameters of preset and problem."""
        return hyper.make(self.rung, self.preset, self.definition["hyper"])

    @property
    def key(self) -> str:
        """Names the result: everything that it follows from, the code included."""
        family = {} if self.rung in (NAIVE, LIMIT) else asdict(self.learner)
        content = json.dumps(
            [self.rung, self.seed, family, self.definition, self.splits, self.reference, code()], sort_keys=True
        )
        return f"{self.snapshot}-{self.rung}-s{self.seed}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def works(self) -> list[Work]:
        """What each fold works on."""
        settled = {"snapshot": self.snapshot, "definition": self.definition, "preset": self.preset}
        return [Work(settled | {"split": key}) for key in self.splits]


@cache
def code() -> str:
    """Hash of this package's code and YAML.

    Unlike the commit it tells two states of a changed checkout apart, and a page of the documentation changes nothing.
    """
    digest = hashlib.sha256()
    for path in sorted(each for end in ("py", "yaml") for each in PACKAGE.rglob(f"*.{end}")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def in_process(trial: Trial, progress: Callable[[float], None]) -> Json:
    """Run a trial in a new process; see `run` for what it returns, and ``peak_mib``: its largest resident memory.

    Raises:
        PumpMLError: what the process raised on purpose.
        MemoryLimitError: it was killed.
        RuntimeError: it failed otherwise; the message has its traceback.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(trial, theirs), daemon=True)
    process.start()
    theirs.close()
    what = f"{trial.rung}, seed {trial.seed}"
    try:
        while True:
            kind, content = ours.recv()
            if kind == "progress":
                progress(content)
            elif kind == "result":
                return dict(content)
            elif kind == "refused":
                raise PumpMLError(f"{what}: {content}")
            else:
                raise RuntimeError(f"{what} failed:\n{content}")
    except EOFError:
        process.join()
        raise MemoryLimitError(
            f"{what}: its process ended without a word, exit code {process.exitcode} (-9: killed, often for want of "
            "memory). Give it more memory or take fewer assets; the same command goes on with what is missing"
        ) from None
    finally:
        process.terminate()
        process.join()
        ours.close()


def _child(trial: Trial, pipe: Connection) -> None:
    try:
        result = run(trial, lambda share: pipe.send(("progress", share)))
        pipe.send(("result", result | {"peak_mib": peak_mib()}))
    except Exception as error:  # noqa: BLE001 - the parent raises it again
        named = name_failure(error, "trial") or error
        if isinstance(named, PumpMLError):
            pipe.send(("refused", f"{type(named).__name__}: {named}"))
        else:
            pipe.send(("failed", traceback.format_exc()))
    finally:
        pipe.close()


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB.

    On Linux by the kernel's own mark of this program: ``ru_maxrss`` begins with that of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        marks = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return round(int(marks["VmHWM"].split()[0]) / 1024, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def run(trial: Trial, progress: Callable[[float], None]) -> Json:
    """Learn and judge fold by fold.

    Returns:
        ``seconds`` of all fits, ``folds`` (``rows`` of each asset that was judged, and the scorecard, ``card``), and
        ``pooled``: the scorecard of all folds' answers together. The limit has no scorecards: ``scores`` holds for
        each fold, by target and asset, how many windows and their mean score.

    Raises:
        LeakError: a model was fitted on what it is judged by.
    """
    works = trial.works()
    shares = [partial(_share, progress, fold, len(works)) for fold in range(len(works))]
    if trial.rung == LIMIT:
        return {"scores": [_limit(work, share) for work, share in zip(works, shares, strict=True)]}
    seconds, folds, answers, truths = 0.0, [], [], []
    for work, share in zip(works, shares, strict=True):
        truth = work.truth()
        if trial.reference:
            new, as_new = reference_answers(work)
            truth = pd.concat([truth, new], ignore_index=True)
        if trial.rung == NAIVE:
            answered, calibration = naive_answers(work.windows("train").labels, truth, work.problem), Calibration()
        else:
            answered, calibration, took = learn_and_answer(work, trial.learner, trial.seed, share)
            seconds += took
            if trial.reference:
                answered = pd.concat([answered, as_new[answered.columns]], ignore_index=True)
        card = judge(trial.rung, answered, truth, work.problem, calibration)
        folds.append({"rows": _rows(truth), "card": card.to_json()})
        answers.append(answered)
        truths.append(truth)
        share(1.0)
    together = judge(trial.rung, pd.concat(answers), pd.concat(truths), works[0].problem)
    return {"seconds": round(seconds, 1), "folds": folds, "pooled": together.to_json()}


def _share(progress: Callable[[float], None], fold: int, folds: int, share: float) -> None:
    progress((fold + share) / folds)


def learn_and_answer(
    work: Work, family: Family, seed: int, progress: Callable[[float], None]
) -> tuple[pd.DataFrame, Calibration, float]:
    """Fit and calibrate on the training and validation part, and answer the test part, whose labels nothing sees.

    Returns:
        The answers, what they are calibrated with, and the seconds of the fit.

    Raises:
        LeakError: the model was fitted on what is in the test part.
    """
    learn, tune = work.learning(family.inputs)
    curves = Curves(family.name, lambda _, share: progress(share))
    started = time.monotonic()
    predictor = work.fit(family, learn, tune, seed=seed, watch=curves.watch)
    seconds = time.monotonic() - started
    if work.split.times:
        predictor.fitted_until = fitted_until(learn, tune)
    predictor.calibrate(tune)
    asked = work.judged(family.inputs)
    refuse_seen(predictor, asked)
    bare = replace(asked, labels=asked.labels[[]])
    return predictor.table(bare), predictor.calibration, seconds


def reference_answers(work: Work) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truth and answers for the readings that no model is asked about.

    Those are what test assets are compared with and, where all windows are judged, what came before an asset's first
    window. The answer is the naive one among the training assets' readings of that kind, within the range of their
    labels: an asset that has just been put up is as the others were then.
    """
    names = [target.name for target in work.problem.targets]
    truths, answered = [], []
    for known, asked in zip(_unanswered(work, "train"), _unanswered(work, "test"), strict=True):
        if asked.empty:
            continue
        answers = naive_answers(known[names], asked, work.problem)
        for target in work.problem.targets:
            if target.kind == "regression":
                low, high = known[target.name].min(), known[target.name].max()
                answers = answers.assign(**{f"{target.name}_low": low, f"{target.name}_high": high})
            else:
                shares = known[target.name].astype(str).value_counts(normalize=True)
                answers = answers.assign(
                    **{f"{target.name}_p_{name}": shares.get(name, 0.0) for name in target.classes}
                )
        truths.append(asked[[*KEYS, *names]])
        answered.append(answers)
    return pd.concat(truths, ignore_index=True), pd.concat(answered, ignore_index=True)


def _unanswered(work: Work, part: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The records of a part's assets, and what came between them and an asset's first window."""
    rows = work.rows(part)
    records, others = rows[rows[COMMISSIONING]], rows[~rows[COMMISSIONING]]
    if work.problem.windows.judged == "last":
        return records, others[:0]
    first = work.windows(part).rows.groupby(ASSET)[TIME].min()
    return records, others[others[TIME] < others[ASSET].map(first)]


def _rows(truth: pd.DataFrame) -> dict[str, int]:
    return {str(asset): int(count) for asset, count in truth[ASSET].value_counts().sort_index().items()}


def _limit(work: Work, progress: Callable[[float], None]) -> Json:
    """Rows and mean score of each asset, by target; empty where there is no limit."""
    scores = work.limit_scores(progress)
    found: Json = {}
    for asset, of_asset in scores.items():
        for target, values in of_asset.items():
            found.setdefault(target, {})[asset] = [len(values), float(np.mean(values))]
    return found
