"""The table of promotions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run_key", sa.String(400), nullable=False, unique=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model", sa.String(200), nullable=False, index=True),
        sa.Column("snapshot", sa.String(200), nullable=False),
        sa.Column("promoted", sa.Boolean, nullable=False),
        sa.Column("champion_before", sa.String(50)),
        sa.Column("champion_after", sa.String(50)),
        sa.Column("decision", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("promotions")
