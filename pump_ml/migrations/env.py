"""Alembic's entry: runs the ledger's migrations on the address that `pump_ml.ledger.prepare` gives."""

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from pump_ml.ledger import Base

engine = create_engine(context.config.attributes["url"], poolclass=NullPool)
with engine.begin() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
