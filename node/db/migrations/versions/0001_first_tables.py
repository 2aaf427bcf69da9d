"""The first tables: money, listings, keys, calls."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _row_id() -> sa.types.TypeEngine[int]:
    """SQLite only numbers rows of a plain INTEGER key, which has 64 bits there."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _create_buyer_channel() -> None:
    op.create_table(
        "buyer_channel",
        sa.Column("channel_id", sa.String(), nullable=False),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("payer", sa.String(), nullable=False),
        sa.Column("payer_authorizer", sa.String(), nullable=False),
        sa.Column("receiver", sa.String(), nullable=False),
        sa.Column("receiver_authorizer", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("withdraw_delay", sa.BigInteger(), nullable=False),
        sa.Column("salt", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("stop_reason", sa.String(), nullable=True),
        sa.Column("balance_atoms", sa.BigInteger(), nullable=False),
        sa.Column("charged_atoms", sa.BigInteger(), nullable=False),
        sa.Column("signed_atoms", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
        sa.Column("total_claimed_atoms", sa.BigInteger(), nullable=False),
        sa.Column("withdraw_requested_at", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("charged_atoms <= signed_atoms"),
        sa.PrimaryKeyConstraint("channel_id"),
    )
    op.create_index(
        "ix_buyer_channel_seller", "buyer_channel", ["chain_id", "receiver", "state"], unique=False
    )


def _create_call() -> None:
    op.create_table(
        "call",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("side", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("payer", sa.String(), nullable=True),
        sa.Column("scheme", sa.String(), nullable=True),
        sa.Column("amount_atoms", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("latency_us", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_call_side_at", "call", ["side", "at_ms"], unique=False)


def _create_call_rollup() -> None:
    op.create_table(
        "call_rollup",
        sa.Column("side", sa.String(), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("paid", sa.BigInteger(), nullable=False),
        sa.Column("amount_atoms", sa.BigInteger(), nullable=False),
        sa.Column("latency_us", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("side", "hour", "listing_id", "key_id"),
    )


def _create_chain_cursor() -> None:
    op.create_table(
        "chain_cursor",
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("block_hash", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("chain_id", "block_number"),
    )


def _create_chain_event() -> None:
    op.create_table(
        "chain_event",
        sa.Column("id", _row_id(), nullable=False),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("block_hash", sa.String(), nullable=False),
        sa.Column("tx_hash", sa.String(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("channel_id", sa.String(), nullable=True),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("orphaned", sa.Boolean(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "chain_id", "block_hash", "tx_hash", "log_index", name="uq_chain_event"
        ),
    )
    op.create_index(
        "ix_chain_event_block", "chain_event", ["chain_id", "block_number"], unique=False
    )
    op.create_index(op.f("ix_chain_event_channel_id"), "chain_event", ["channel_id"], unique=False)


def _create_chain_tx() -> None:
    op.create_table(
        "chain_tx",
        sa.Column("id", _row_id(), nullable=False),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("sender", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("ref", sa.String(), nullable=False),
        sa.Column("to", sa.String(), nullable=False),
        sa.Column("value_wei", sa.String(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("nonce", sa.Integer(), nullable=True),
        sa.Column("gas_limit", sa.Integer(), nullable=True),
        sa.Column("block_number", sa.BigInteger(), nullable=True),
        sa.Column("block_hash", sa.String(), nullable=True),
        sa.Column("tx_hash", sa.String(), nullable=True),
        sa.Column("gas_used", sa.Integer(), nullable=True),
        sa.Column("fee_wei", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("chain_id", "sender", "nonce", name="uq_chain_tx_nonce"),
        sa.UniqueConstraint("purpose", "ref", name="uq_chain_tx_ref"),
    )
    op.create_index("ix_chain_tx_state", "chain_tx", ["state"], unique=False)


def _create_chain_tx_attempt() -> None:
    op.create_table(
        "chain_tx_attempt",
        sa.Column("tx_hash", sa.String(), nullable=False),
        sa.Column("tx_id", sa.BigInteger(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("max_fee_wei", sa.BigInteger(), nullable=False),
        sa.Column("max_priority_fee_wei", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tx_hash"),
    )
    op.create_index(op.f("ix_chain_tx_attempt_tx_id"), "chain_tx_attempt", ["tx_id"], unique=False)


def _create_consumer_key() -> None:
    op.create_table(
        "consumer_key",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("secret_hash"),
    )


def _create_ledger_entry() -> None:
    op.create_table(
        "ledger_entry",
        sa.Column("id", _row_id(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("channel_id", sa.String(), nullable=True),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.Column("tx_hash", sa.String(), nullable=True),
        sa.Column("log_index", sa.Integer(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key", name="uq_ledger_key"),
    )
    for name, columns, condition in (
        ("ix_ledger_onchain", ["account", "at"], "tx_hash IS NOT NULL"),
        ("ix_ledger_tx", ["tx_hash"], "tx_hash IS NOT NULL"),
        ("ix_ledger_action", ["action", "at"], "action IS NOT NULL"),
    ):
        op.create_index(
            name,
            "ledger_entry",
            columns,
            unique=False,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )


def _create_listing() -> None:
    op.create_table(
        "listing",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("tags", sa.String(), nullable=False),
        sa.Column("base_url", sa.String(), nullable=False),
        sa.Column("price_atoms", sa.BigInteger(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("credential_kind", sa.String(), nullable=False),
        sa.Column("credential_name", sa.String(), nullable=False),
        sa.Column("credential_secret", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("price_atoms >= 0"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("origin", "slug", name="uq_listing_slug"),
    )


def _create_onchain_payment() -> None:
    op.create_table(
        "onchain_payment",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("payer", sa.String(), nullable=False),
        sa.Column("nonce", sa.String(), nullable=False),
        sa.Column("pay_to", sa.String(), nullable=False),
        sa.Column("value_atoms", sa.BigInteger(), nullable=False),
        sa.Column("charge_atoms", sa.BigInteger(), nullable=False),
        sa.Column("valid_after", sa.BigInteger(), nullable=False),
        sa.Column("valid_before", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("channel_id", sa.String(), nullable=True),
        sa.Column("deposit_salt", sa.String(), nullable=True),
        sa.Column("voucher_atoms", sa.BigInteger(), nullable=False),
        sa.Column("voucher_signature", sa.String(), nullable=True),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("owner", sa.BigInteger(), nullable=False),
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("tx_id", sa.BigInteger(), nullable=True),
        sa.Column("tx_hash", sa.String(), nullable=True),
        sa.Column("log_index", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("value_atoms >= 0 AND charge_atoms >= 0"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("chain_id", "token", "payer", "nonce", name="uq_authorization"),
    )
    op.create_index("ix_onchain_payment_state", "onchain_payment", ["state"], unique=False)


def _create_purchase() -> None:
    op.create_table(
        "purchase",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("scheme", sa.String(), nullable=False),
        sa.Column("amount_atoms", sa.BigInteger(), nullable=False),
        sa.Column("charged_atoms", sa.BigInteger(), nullable=False),
        sa.Column("deposit_atoms", sa.BigInteger(), nullable=False),
        sa.Column("channel_id", sa.String(), nullable=True),
        sa.Column("cumulative_atoms", sa.BigInteger(), nullable=False),
        sa.Column("payment_header", sa.Text(), nullable=False),
        sa.Column("tx_hash", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("call_id"),
        sa.UniqueConstraint("key_id", "idempotency_key", name="uq_purchase_idempotency"),
    )
    op.create_index("ix_purchase_state", "purchase", ["state"], unique=False)


def _create_route_price() -> None:
    op.create_table(
        "route_price",
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("price_atoms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("price_atoms >= 0"),
        sa.PrimaryKeyConstraint("listing_id", "method", "path"),
    )


def _create_seller_channel() -> None:
    op.create_table(
        "seller_channel",
        sa.Column("channel_id", sa.String(), nullable=False),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("payer", sa.String(), nullable=False),
        sa.Column("payer_authorizer", sa.String(), nullable=False),
        sa.Column("receiver", sa.String(), nullable=False),
        sa.Column("receiver_authorizer", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("withdraw_delay", sa.BigInteger(), nullable=False),
        sa.Column("salt", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("balance_atoms", sa.BigInteger(), nullable=False),
        sa.Column("total_claimed_atoms", sa.BigInteger(), nullable=False),
        sa.Column("withdraw_requested_at", sa.BigInteger(), nullable=False),
        sa.Column("withdraw_amount_atoms", sa.BigInteger(), nullable=False),
        sa.Column("refund_nonce", sa.BigInteger(), nullable=False),
        sa.Column("synced_at", sa.BigInteger(), nullable=False),
        sa.Column("charged_atoms", sa.BigInteger(), nullable=False),
        sa.Column("streaming_atoms", sa.BigInteger(), nullable=False),
        sa.Column("streaming_owner", sa.BigInteger(), nullable=False),
        sa.Column("signed_atoms", sa.BigInteger(), nullable=False),
        sa.Column("voucher_signature", sa.String(), nullable=False),
        sa.Column("last_request_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("0 <= balance_atoms AND 0 <= total_claimed_atoms"),
        sa.CheckConstraint("0 <= streaming_atoms AND streaming_atoms <= charged_atoms"),
        sa.CheckConstraint("charged_atoms <= signed_atoms"),
        sa.PrimaryKeyConstraint("channel_id"),
    )


def _create_stored_answer() -> None:
    op.create_table(
        "stored_answer",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index(
        "ix_stored_answer_streamed",
        "stored_answer",
        ["call_id"],
        unique=False,
        sqlite_where=sa.text("status = 101"),
        postgresql_where=sa.text("status = 101"),
    )
    by_age = sa.text("substr(key, 1, 8) <> 'channel:'")
    op.create_index(
        "ix_stored_answer_age",
        "stored_answer",
        ["created_at"],
        unique=False,
        sqlite_where=by_age,
        postgresql_where=by_age,
    )


TABLES = {
    "buyer_channel": _create_buyer_channel,
    "call": _create_call,
    "call_rollup": _create_call_rollup,
    "chain_cursor": _create_chain_cursor,
    "chain_event": _create_chain_event,
    "chain_tx": _create_chain_tx,
    "chain_tx_attempt": _create_chain_tx_attempt,
    "consumer_key": _create_consumer_key,
    "ledger_entry": _create_ledger_entry,
    "listing": _create_listing,
    "onchain_payment": _create_onchain_payment,
    "purchase": _create_purchase,
    "route_price": _create_route_price,
    "seller_channel": _create_seller_channel,
    "stored_answer": _create_stored_answer,
}


def upgrade() -> None:
    for create in TABLES.values():
        create()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
