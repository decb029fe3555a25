"""The ledger: one decision a training run, in a database that migrations make."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import OperationalError

from pump_ml import ledger
from pump_ml.settings import Settings


def record(run_key: str, after: str = "1") -> None:
    ledger.record(
        run_key,
        model="pump-diagnosis",
        snapshot="v2-1",
        promoted=True,
        champion_before=None,
        champion_after=after,
        decision={"reason": "first", "errors": {"xgb": 0.5}},
    )


def rows(home: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(home / "ledger.db")) as database:
        return database.execute("select run_key, champion_after from promotions order by id").fetchall()


def test_a_decision_is_found_by_its_training_run() -> None:
    ledger.prepare()
    assert ledger.find("t/1") is None
    record("t/1")
    found = ledger.find("t/1")
    assert found is not None
    assert (found.model, found.promoted, found.champion_before, found.champion_after) == (
        "pump-diagnosis", True, None, "1",
    )  # fmt: skip
    assert found.decision == {"reason": "first", "errors": {"xgb": 0.5}}
    assert ledger.find("t/2") is None


def test_a_second_write_for_the_same_run_changes_nothing(home: Path) -> None:
    ledger.prepare()
    record("t/1")
    record("t/1", after="2")
    record("t/2", after="3")
    assert rows(home) == [("t/1", "1"), ("t/2", "3")]


def test_preparing_again_keeps_what_is_there(home: Path) -> None:
    ledger.prepare()
    record("t/1")
    ledger.prepare()
    assert rows(home) == [("t/1", "1")]


def test_the_migrations_make_the_tables_that_the_code_declares() -> None:
    ledger.prepare()
    engine = ledger.engine(Settings.load())
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), ledger.Base.metadata) == []


def test_a_ledger_that_was_not_prepared_is_not_made_by_the_way(home: Path) -> None:
    home.mkdir()
    with pytest.raises(OperationalError, match="no such table"):
        ledger.find("t/1")
