"""The table of the machines' models."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "models",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("machine_name", sa.String(200), nullable=False),
        sa.Column("model_type", sa.String(20), nullable=False),
        sa.Column("bucket_address", sa.Text, nullable=False),
        sa.Column("data_start_date", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data_end_date", sa.DateTime(timezone=True), nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("mlflow_run", sa.String(50), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_key", sa.String(400), nullable=False, unique=True),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("model_version", sa.String(50), nullable=False),
        sa.Column("promoted", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("ix_models_newest", "models", ["machine_name", "model_type", "created_at"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("models")
