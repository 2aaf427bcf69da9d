"""Tables of plans, subscriptions and invoices."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _create_plans()
    _create_subscriptions()
    _create_periods()
    _create_requests()
    _create_invoices()


def downgrade() -> None:
    tables = ("invoice", "subscription_request", "subscription_period", "subscription", "plan")
    for name in tables:
        op.drop_table(name)


def _create_plans() -> None:
    op.create_table(
        "plan",
        _text("id"),
        _text("listing_id"),
        _text("name"),
        sa.Column("description", sa.Text(), nullable=False),
        _number("price_atoms"),
        _number("calls", null=True),
        _number("stream_seconds", null=True),
        _number("per_minute", null=True),
        _text("beyond"),
        sa.Column("grace_days", sa.Integer(), nullable=False),
        _number("created_at"),
        _number("changed_at"),
        _number("retired_at", null=True),
        sa.CheckConstraint("price_atoms >= 0", name="plan_price"),
        sa.CheckConstraint("grace_days >= 0 AND grace_days <= 14", name="plan_grace"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_plan_listing_id", "plan", ["listing_id"])


def _create_subscriptions() -> None:
    op.create_table(
        "subscription",
        _text("id"),
        _text("listing_id"),
        _text("key_hash"),
        _text("payer"),
        _text("name"),
        _text("email"),
        _text("free_for", null=True),
        _text("next_plan_id", null=True),
        sa.Column("next_plan_after", sa.Integer(), nullable=False),
        _number("created_at"),
        _number("cancelled_at", null=True),
        _text("ended_by"),
        sa.Column("end_reason", sa.Text(), nullable=False),
        _number("served_until", null=True),
        _number("changed_at"),
        _number("changes"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key_hash"),
        sa.UniqueConstraint("free_for"),
    )
    op.create_index("ix_subscription_listing_id", "subscription", ["listing_id"])
    op.create_index("ix_subscription_payer", "subscription", ["payer"])
    op.create_index("ix_subscription_changed", "subscription", ["changed_at"])


def _create_periods() -> None:
    op.create_table(
        "subscription_period",
        _text("subscription_id"),
        sa.Column("number", sa.Integer(), nullable=False),
        _text("kind"),
        _text("plan_id"),
        _text("plan_name"),
        _number("starts_at"),
        _number("ends_at"),
        _number("calls", null=True),
        _number("stream_seconds", null=True),
        _number("price_atoms"),
        _number("month_price_atoms"),
        _number("month_calls", null=True),
        _number("month_stream_seconds", null=True),
        _number("per_minute", null=True),
        _text("beyond"),
        sa.Column("grace_days", sa.Integer(), nullable=False),
        _text("payment_id", null=True),
        _number("ordered_at"),
        sa.UniqueConstraint("payment_id", name="uq_subscription_period_payment"),
        sa.CheckConstraint("ends_at > starts_at", name="subscription_period_lasts"),
        sa.CheckConstraint(
            "price_atoms >= 0 AND (price_atoms = 0 OR payment_id IS NOT NULL)",
            name="subscription_period_paid",
        ),
        sa.PrimaryKeyConstraint("subscription_id", "number"),
    )


def _create_requests() -> None:
    op.create_table(
        "subscription_request",
        sa.Column("id", _ROW_ID, nullable=False),
        _text("subscription_id"),
        _text("kind"),
        _text("meter", null=True),
        _number("cap", null=True),
        _number("until", null=True),
        sa.Column("text", sa.Text(), nullable=False),
        _number("asked_at"),
        _text("state"),
        sa.Column("answer", sa.Text(), nullable=False),
        _text("answered_by"),
        _number("answered_at", null=True),
        _number("override_id", null=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_subscription_request_subscription_id", "subscription_request", ["subscription_id"]
    )
    op.create_index("ix_subscription_request_state", "subscription_request", ["state", "asked_at"])


def _create_invoices() -> None:
    op.create_table(
        "invoice",
        sa.Column("id", _ROW_ID, nullable=False),
        _text("side"),
        _text("number"),
        _number("sequence", null=True),
        _text("payment_id", null=True),
        _text("subscription_id"),
        _text("listing_id"),
        _text("listing_name"),
        _text("plan_name"),
        _text("seller"),
        _text("buyer"),
        _text("buyer_name"),
        _text("buyer_email"),
        _number("period_start"),
        _number("period_end"),
        sa.Column("lines", sa.Text(), nullable=False),
        _number("amount_atoms"),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        _text("tx_hash"),
        _number("paid_at"),
        sa.UniqueConstraint("side", "seller", "number", name="uq_invoice_number"),
        sa.UniqueConstraint("payment_id", name="uq_invoice_payment"),
        sa.UniqueConstraint("sequence", name="uq_invoice_sequence"),
        sa.CheckConstraint("amount_atoms >= 0", name="invoice_amount"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_invoice_subscription_id", "invoice", ["subscription_id"])
    op.create_index("ix_invoice_paid", "invoice", ["side", "paid_at"])


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=null)


def _number(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=null)
