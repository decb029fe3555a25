"""Boosted trees grow on a GPU where there is one; what they answer does not depend on it being there."""

import json
from pathlib import Path

import pandas as pd
import pytest
import xgboost
from test_baseline import PROBLEM, SEEN, UNSEEN, rig

from pump_ml.models import load_predictor, xgb
from pump_ml.models.xgb import Xgb, XgbPredictor


def fitted() -> XgbPredictor:
    made = Xgb(rounds=10, patience=5, jobs=1).fit(rig(SEEN, 2), rig(UNSEEN, 3), PROBLEM, seed=0, watch=lambda *_: None)
    assert isinstance(made, XgbPredictor)
    return made


def grown_on(booster: xgboost.Booster) -> str:
    return str(json.loads(booster.save_config())["learner"]["generic_param"]["device"])


def test_a_device_is_used_where_its_driver_is_and_the_library_was_built_for_it(tmp_path: Path) -> None:
    assert xgb._device(tmp_path / "absent") == "cpu"
    driver = tmp_path / "nvidiactl"
    driver.touch()
    assert xgb._device(driver) == ("cuda" if xgboost.build_info()["USE_CUDA"] else "cpu")
    if not Path("/dev/nvidiactl").exists():
        assert xgb._device() == "cpu"


@pytest.mark.skipif(
    not xgboost.build_info()["USE_CUDA"] or xgb.NVIDIA.exists(), reason="needs a build for CUDA, and no device"
)
def test_a_driver_without_a_device_that_may_be_used_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = rig(UNSEEN, 4)
    before = fitted()
    monkeypatch.setattr(xgb, "_device", lambda: "cuda")
    with pytest.warns(UserWarning, match="No visible GPU is found|Device is changed from GPU to CPU"):
        after = fitted()
    pd.testing.assert_frame_equal(after.table(asked), before.table(asked), check_exact=True)
    after.save(tmp_path)
    loaded = load_predictor(tmp_path)
    assert isinstance(loaded, XgbPredictor)
    pd.testing.assert_frame_equal(loaded.table(asked), before.table(asked), check_exact=True)
    for predictor in (before, after, loaded):
        assert {grown_on(booster) for booster in predictor.boosters.values()} == {"cpu"}
