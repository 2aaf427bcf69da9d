"""Tables of what the operator does with money, and of the limits to what is signed."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _row_id() -> sa.types.TypeEngine[int]:
    """SQLite only numbers rows of a plain INTEGER key, which has 64 bits there."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _create_spend_counter() -> None:
    op.create_table(
        "spend_counter",
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("window", sa.String(), nullable=False),
        sa.Column("spent_atoms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("spent_atoms >= 0"),
        sa.PrimaryKeyConstraint("scope", "subject", "window"),
    )


def _create_spend_limit() -> None:
    op.create_table(
        "spend_limit",
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("limit_atoms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "subject"),
    )


def upgrade() -> None:
    _create_spend_counter()
    _create_spend_limit()
    op.create_table(
        "withdrawal",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("amount", sa.String(), nullable=False),
        sa.Column("actor_id", sa.String(), nullable=False),
        sa.Column("actor_name", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("told", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_withdrawal_created", "withdrawal", ["created_at"])
    op.create_table(
        "arrival",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("amount", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("tx_hash", sa.String(), nullable=True),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_arrival_at", "arrival", ["at"])
    op.create_table(
        "eth_sighting",
        sa.Column("wallet", sa.String(), nullable=False),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("balance_wei", sa.String(), nullable=False),
        sa.Column("nonce", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("wallet", "chain_id"),
    )
    op.create_table(
        "closing",
        sa.Column("channel_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("before", sa.String(), nullable=False),
        sa.Column("unspent_atoms", sa.BigInteger(), nullable=False),
        sa.Column("finalize_after", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("attempt >= 1"),
        sa.PrimaryKeyConstraint("channel_id"),
    )
    op.create_table(
        "reconciliation",
        sa.Column("id", _row_id(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("actor_name", sa.String(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("checked", sa.BigInteger(), nullable=False),
        sa.Column("differences", sa.Text(), nullable=False),
        sa.Column("open_items", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    # History looks up what a ledger row's transaction was for, and who was on the other side.
    op.create_index("ix_chain_tx_hash", "chain_tx", ["tx_hash"])
    op.create_index("ix_chain_event_tx", "chain_event", ["tx_hash", "log_index"])
    # A start looks up the newest deposit of a channel among all calls ever bought.
    deposits = sa.text("deposit_atoms > 0")
    op.create_index(
        "ix_purchase_deposit",
        "purchase",
        ["channel_id", "created_at"],
        sqlite_where=deposits,
        postgresql_where=deposits,
    )


def downgrade() -> None:
    op.drop_index("ix_purchase_deposit", "purchase")
    op.drop_index("ix_chain_event_tx", "chain_event")
    op.drop_index("ix_chain_tx_hash", "chain_tx")
    for table in ("reconciliation", "closing", "eth_sighting", "arrival", "withdrawal"):
        op.drop_table(table)
    for table in ("spend_limit", "spend_counter"):
        op.drop_table(table)
