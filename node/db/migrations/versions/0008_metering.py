"""Tables of the meters of keys, their quotas and overrides; what a key may do."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_KEY_COLUMNS = ("owner_email", "integrator", "scopes", "per_minute", "version")


def upgrade() -> None:
    _create_usage()
    _create_overrides()
    for column in (
        _text("owner_email", default=""),
        sa.Column("integrator", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("scopes", sa.Text(), nullable=False, server_default=""),
        sa.Column("per_minute", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default="0"),
    ):
        op.add_column("consumer_key", column)
    op.create_index("ix_consumer_key_version", "consumer_key", ["version"])


def downgrade() -> None:
    op.drop_index("ix_consumer_key_version", "consumer_key")
    for name in _KEY_COLUMNS:
        op.drop_column("consumer_key", name)
    for name in ("quota_notice", "quota_override", "rate_hits", "quota_lease", "quota_usage"):
        op.drop_table(name)


def _create_usage() -> None:
    op.create_table(
        "quota_usage",
        _text("subject"),
        _text("meter"),
        _number("window_start"),
        _number("used"),
        sa.CheckConstraint("used >= 0", name="quota_usage_not_negative"),
        sa.PrimaryKeyConstraint("subject", "meter", "window_start"),
    )
    op.create_index("ix_quota_usage_window", "quota_usage", ["window_start", "meter"])
    op.create_table(
        "quota_lease",
        _text("subject"),
        _text("meter"),
        _number("window_start"),
        _number("owner"),
        _number("allowed"),
        _number("used"),
        sa.PrimaryKeyConstraint("subject", "meter", "window_start", "owner"),
    )
    op.create_table(
        "rate_hits",
        _text("subject"),
        _number("slot"),
        _number("hits"),
        sa.PrimaryKeyConstraint("subject", "slot"),
    )
    op.create_table(
        "quota_notice",
        _text("subject"),
        _text("meter"),
        _number("window_start"),
        _text("rule"),
        _number("at"),
        sa.PrimaryKeyConstraint("subject", "meter", "window_start", "rule"),
    )


def _create_overrides() -> None:
    op.create_table(
        "quota_override",
        sa.Column("id", _ROW_ID, nullable=False),
        _text("subject"),
        _text("meter"),
        sa.Column("cap", sa.BigInteger(), nullable=True),
        _number("starts_at"),
        _number("ends_at"),
        sa.Column("reason", sa.Text(), nullable=False),
        _text("granted_by"),
        _number("granted_at"),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        _text("ended_by"),
        sa.CheckConstraint("ends_at >= starts_at", name="quota_override_lasts"),
        sa.CheckConstraint("cap IS NULL OR cap >= 0", name="quota_override_cap"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_quota_override_subject", "quota_override", ["subject"])


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, server_default=default)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)
