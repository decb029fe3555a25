"""The ledger: what was decided about champions, in SQL, append-only. The only module that knows SQL."""

from datetime import UTC, datetime
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, Boolean, DateTime, Engine, Integer, String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from pump_ml.settings import PACKAGE, Settings


class Base(DeclarativeBase):
    """All tables of the ledger."""


class Promotion(Base):
    """One decision about a model's champion: the comparison, and who stood before and after."""

    __tablename__ = "promotions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_key: Mapped[str] = mapped_column(String(400), unique=True)
    decided_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    model: Mapped[str] = mapped_column(String(200), index=True)
    snapshot: Mapped[str] = mapped_column(String(200))
    promoted: Mapped[bool] = mapped_column(Boolean)
    champion_before: Mapped[str | None] = mapped_column(String(50))
    champion_after: Mapped[str | None] = mapped_column(String(50))
    decision: Mapped[dict[str, Any]] = mapped_column(JSON)


def prepare(settings: Settings | None = None) -> None:
    """Bring the ledger's tables up to date; the embedded database is made when it is not there."""
    settings = settings or Settings.load()
    if settings.ledger_url is None:
        settings.home.mkdir(parents=True, exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(PACKAGE / "migrations"))
    config.attributes["url"] = settings.ledger
    command.upgrade(config, "head")


def engine(settings: Settings | None = None) -> Engine:
    """Connections to the ledger; each is closed after its use, since a step makes one or two."""
    return create_engine((settings or Settings.load()).ledger, poolclass=NullPool)


def find(run_key: str, settings: Settings | None = None) -> Promotion | None:
    """The decision that a training run took, or None when it took none yet."""
    with Session(engine(settings), expire_on_commit=False) as session:
        return session.scalar(select(Promotion).where(Promotion.run_key == run_key))


def record(
    run_key: str,
    *,
    model: str,
    snapshot: str,
    promoted: bool,
    champion_before: str | None,
    champion_after: str | None,
    decision: dict[str, Any],
    settings: Settings | None = None,
) -> None:
    """Write a training run's decision; a second write for the same run changes nothing."""
    with Session(engine(settings)) as session, session.begin():
        if session.scalar(select(Promotion).where(Promotion.run_key == run_key)) is None:
            session.add(
                Promotion(
                    run_key=run_key,
                    decided_at=datetime.now(UTC),
                    model=model,
                    snapshot=snapshot,
                    promoted=promoted,
                    champion_before=champion_before,
                    champion_after=champion_after,
                    decision=decision,
                )
            )
