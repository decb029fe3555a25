"""A fit that was killed goes on from its last epoch, and ends as if nothing had happened."""

import json
import logging
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Trained, empty_moto, windows_of
from upath import UPath

from pump_ml import files, registry, steps
from pump_ml.models.checkpoint import Checkpoint
from pump_ml.models.gru import Gru
from pump_ml.problems import Problem
from pump_ml.schema import Telemetry
from pump_ml.settings import PACKAGE, Settings

ARRAYS = {"weights0": np.arange(6.0).reshape(2, 3), "best0": np.zeros(3, dtype=np.float32)}
STATE = {"epoch": 4, "points": [[0, {"loss": 0.5}]]}


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UPath:
    if request.param == "folder":
        return UPath(tmp_path / "checkpoints" / "run" / "gru.npz")
    address = request.getfixturevalue("moto")
    empty_moto(address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    root = UPath("s3://data", endpoint_url=address, use_listings_cache=False)
    root.fs.mkdir("data")
    return root / "checkpoints" / "run" / "gru.npz"


def test_a_checkpoint_comes_back_as_it_was_saved_last(place: UPath) -> None:
    checkpoint = Checkpoint(place, "of this")
    assert checkpoint.load() is None
    checkpoint.save({}, {"epoch": 3})
    checkpoint.save(ARRAYS, STATE)
    found = Checkpoint(place, "of this").load()
    assert found is not None
    arrays, state = found
    assert state == STATE
    assert set(arrays) == set(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], values)
        assert arrays[name].dtype == values.dtype
    checkpoint.retire()
    checkpoint.retire()
    assert checkpoint.load() is None
    assert files.exists(place), "nothing is deleted: nobody who trains may delete in a bucket"


def test_what_never_kept_anything_has_nothing_to_retire(place: UPath) -> None:
    Checkpoint(place, "of this").retire()
    assert not files.exists(place)


def test_a_checkpoint_of_something_else_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = UPath(tmp_path / "gru.npz")
    Checkpoint(place, "of this").save(ARRAYS, STATE)
    with caplog.at_level(logging.WARNING):
        assert Checkpoint(place, "of that").load() is None
    assert "is of another training" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no archive", None], ids=["empty", "text", "half"])
def test_a_file_that_is_no_checkpoint_is_not_used(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = UPath(tmp_path / "gru.npz")
    checkpoint = Checkpoint(place, "of this")
    checkpoint.save(ARRAYS, STATE)
    Path(place).write_bytes(Path(place).read_bytes()[:200] if content is None else content)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load() is None
    assert "cannot be read" in caplog.text


def test_a_store_that_takes_nothing_costs_the_checkpoint_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    checkpoint = Checkpoint(UPath(tmp_path / "file" / "gru.npz"), "of this")
    with caplog.at_level(logging.WARNING):
        checkpoint.save(ARRAYS, STATE)
    assert "was not kept" in caplog.text
    assert "the training goes on" in caplog.text


class Killed(Exception):  # noqa: N818 - no error, but a signal
    pass


@pytest.mark.parametrize(
    "given",
    [{"patience": 2}, {"patience": 20}, {"patience": 20, "ema_momentum": 0.99}],
    ids=["stops early", "learns to the end", "keeps mean weights"],
)
def test_a_fit_that_went_on_is_the_one_that_was_never_stopped(
    given: dict[str, Any], fleet: Telemetry, diagnosis: Problem, tmp_path: Path
) -> None:
    family = Gru(units=8, dense=8, epochs=9, rate=0.05, **given)
    train, validation = (windows_of(fleet, diagnosis, part) for part in (slice(0, 16), slice(16, 24)))
    checkpoint = Checkpoint(UPath(tmp_path / "gru.npz"), "of this")

    def fit(kept: Checkpoint | None, die_after: int | None = None) -> tuple[Any, list[tuple[int, dict[str, float]]]]:
        reports: list[tuple[int, dict[str, float]]] = []

        def watch(epoch: int, values: Any) -> None:
            reports.append((epoch, dict(values)))
            if epoch == die_after:
                raise Killed

        return family.fit(train, validation, diagnosis, seed=7, watch=watch, checkpoint=kept), reports

    whole, expected = fit(None)
    epochs = len(expected) - 1  # the last report is that of the end
    for die_after in (1, epochs - 1):  # in the middle, and after the last epoch
        with pytest.raises(Killed):
            fit(checkpoint, die_after)
    again, reports = fit(checkpoint)
    assert [epoch for epoch, _ in reports] == [epoch for epoch, _ in expected]
    for (_, one), (_, other) in zip(reports, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    for target in diagnosis.targets:
        one, other = (predictor.answer(validation)[target.name] for predictor in (again, whole))
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


PROGRAM = """
import os, signal
from pump_ml import steps

def progress(what, share):
    print(what, share, flush=True)
    if share >= {until}:
        os.kill(os.getpid(), signal.SIGKILL)

steps.train(steps.read_plan({run_key!r}), "gru", progress=progress)
"""


def train_in_another_process(run_key: str, until: float) -> tuple[int, list[float]]:
    """Train the GRU; returns how the process ended and the progress that it told."""
    done = subprocess.run(  # noqa: S603 - this file's program
        [sys.executable, "-c", textwrap.dedent(PROGRAM.format(run_key=run_key, until=until))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("train gru")]
    assert told, done.stderr
    return done.returncode, told


def test_a_killed_task_goes_on_from_its_last_epoch_in_its_own_run(crowned: Trained) -> None:
    for run_key in ("test/killed", "test/whole"):
        steps.plan(crowned.stored["snapshot"], "diagnosis", run_key, families=("gru",), preset="quick")
    plan = steps.read_plan("test/killed")
    ended, before = train_in_another_process("test/killed", 0.5)
    assert ended == -signal.SIGKILL
    folder = Settings.load().data / "checkpoints"
    assert [path.name for path in Path(folder).rglob("*.npz")] == ["gru.npz"]

    seen: list[float] = []
    again = steps.train(plan, "gru", progress=lambda _, share: seen.append(share))
    whole = steps.train(steps.read_plan("test/whole"), "gru")
    assert before[-1] == pytest.approx(0.5, abs=0.1)
    assert seen[: len(before)] == pytest.approx(before)  # told again, not learnt again
    client = registry.connect()
    runs = client.search_runs([plan["experiment"]], filter_string=f"tags.`{registry.KEY}` = 'test/killed/gru'")
    assert [(run.info.run_id, run.info.status) for run in runs] == [(again["run"], "FINISHED")]
    curves = [client.get_metric_history(made["run"], "validation/loss") for made in (again, whole)]
    mine, theirs = ([point.step for point in curve] for curve in curves)
    assert mine == theirs == list(range(len(mine)))  # each epoch once
    assert again["validation"] == pytest.approx(whole["validation"], rel=0.02)
    left = [path for path in Path(folder).rglob("*.npz") if path.stat().st_size > 2000]
    assert left == [], "next to nothing takes a checkpoint's place once the version is registered"


KILLED_AFTER = """
import os, signal
from pump_ml import registry, steps

register = registry.register

def registered_and_killed(*arguments):
    register(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

registry.register = registered_and_killed
steps.train(steps.read_plan({run_key!r}), {family!r})
"""


def states(folder: Path) -> dict[str, bool]:
    """The checkpoints below a folder, and whether somebody could go on from each."""
    found = {}
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as content:
            found[path.name] = json.loads(content["state"].tobytes()) != {"fingerprint": ""}
    return found


def test_checkpoints_that_a_kill_after_the_registration_left_are_retired_by_the_next_try(
    crowned: Trained, tmp_path: Path
) -> None:
    content = yaml.safe_load((PACKAGE / "conf" / "problems" / "diagnosis.yaml").read_text())
    content["split"]["rotate"] = True
    (tmp_path / "turns.yaml").write_text(yaml.safe_dump(content | {"name": "turns"}))
    plan = steps.plan(
        crowned.stored["snapshot"], str(tmp_path / "turns.yaml"), "test/left", families=("cnn1d",), preset="quick",
        hyper={"cnn1d": {"epochs": 1}},
    )  # fmt: skip
    folder = Path(Settings.load().data / "checkpoints")
    done = subprocess.run(  # noqa: S603 - this file's program
        [sys.executable, "-c", KILLED_AFTER.format(run_key="test/left", family="cnn1d")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    members = [f"cnn1d-{number}.npz" for number in range(1, 5)]
    assert states(folder) == dict.fromkeys(members, True)
    of_another = Checkpoint(UPath(next(folder.iterdir()) / "cnn1d_wide.npz"), "of another")
    of_another.save(ARRAYS, STATE)
    assert steps.train(plan, "cnn1d")["version"] == "1", "the version that the killed try registered"
    assert states(folder) == dict.fromkeys(members, False) | {"cnn1d_wide.npz": True}
