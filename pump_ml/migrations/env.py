"""Alembic's entry: runs the ledger's migrations on the engine that `pump_ml.ledger.prepare` gives."""

from alembic import context

from pump_ml.ledger import Base

with context.config.attributes["engine"].begin() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
