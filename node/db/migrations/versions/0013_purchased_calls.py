"""What was asked for by a purchase: its call may be journaled by nothing else."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, type_ in (("method", sa.String()), ("path", sa.Text()), ("route", sa.String())):
        op.add_column("purchase", sa.Column(name, type_, nullable=False, server_default=""))


def downgrade() -> None:
    for name in ("route", "path", "method"):
        op.drop_column("purchase", name)
