"""Which block the mirror of a seller's channel shows."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    block = sa.Column("synced_block", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("seller_channel", block)


def downgrade() -> None:
    op.drop_column("seller_channel", "synced_block")
