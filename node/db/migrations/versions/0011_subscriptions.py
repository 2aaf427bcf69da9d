"""Tables of what this node subscribed to at other nodes."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _create_subscriptions()
    _create_orders()
    _create_requests()
    op.create_table(
        "bought_change",
        sa.Column("id", _ROW_ID, nullable=False),
        _text("subscription_id"),
        _number("at"),
        _text("kind"),
        _long("text"),
        _number("atoms"),
        _text("by"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_bought_change_subscription", "bought_change", ["subscription_id", "id"])


def downgrade() -> None:
    for name in ("bought_change", "bought_request", "bought_order", "bought_subscription"):
        op.drop_table(name)


def _create_subscriptions() -> None:
    numbers = ("used_calls", "used_stream_seconds", "per_minute_now", "resets_at", "next_at")
    later = ("next_price_atoms", "synced_at", "noticed_for", "ended_at", "created_at", "version")
    op.create_table(
        "bought_subscription",
        *(_text(name) for name in ("id", "listing_id", "seller_id", "state", "beyond")),
        sa.Column("open_for", sa.String(), nullable=True),
        *(_long(name) for name in ("base_url", "plan", "next_plan", "sync_failed")),
        *(_long(name) for name in ("secret_sealed", "new_secret_sealed")),
        sa.Column("renews", sa.Boolean(), nullable=False),
        *(_number(name) for name in ("agreed_atoms", "paid_until", "period_start", "period_end")),
        sa.Column("period_calls", sa.BigInteger(), nullable=True),
        sa.Column("period_stream_seconds", sa.BigInteger(), nullable=True),
        *(_number(name) for name in ("period_price_atoms", *numbers, *later)),
        _text("created_by"),
        sa.CheckConstraint("agreed_atoms >= 0", name="bought_subscription_agreed"),
        sa.CheckConstraint("period_end >= period_start", name="bought_subscription_lasts"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("open_for"),
    )
    op.create_index(
        "ix_bought_subscription_listing", "bought_subscription", ["listing_id", "created_at"]
    )
    op.create_index("ix_bought_subscription_version", "bought_subscription", ["version"])


def _create_orders() -> None:
    texts = ("id", "subscription_id", "slot", "kind", "plan_id", "path", "state")
    numbers = ("most_atoms", "charged_atoms", "next_try_at", "created_at", "done_at")
    op.create_table(
        "bought_order",
        *(_text(name) for name in (*texts, "call_id", "tx_hash", "error")),
        *(_long(name) for name in ("body", "detail")),
        *(_number(name) for name in numbers),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.CheckConstraint("most_atoms >= 0 AND charged_atoms >= 0", name="bought_order_amounts"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("subscription_id", "slot", name="uq_bought_order_slot"),
    )
    op.create_index("ix_bought_order_state", "bought_order", ["state"])


def _create_requests() -> None:
    texts = ("id", "subscription_id", "seller_id", "kind", "meter", "state", "asked_by")
    op.create_table(
        "bought_request",
        *(_text(name) for name in texts),
        sa.Column("cap", sa.BigInteger(), nullable=True),
        *(_number(name) for name in ("until", "asked_at", "answered_at")),
        *(_long(name) for name in ("text", "answer")),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_bought_request_subscription", "bought_request", ["subscription_id", "asked_at"]
    )


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False)


def _long(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)
