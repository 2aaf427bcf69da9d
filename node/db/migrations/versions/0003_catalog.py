"""Tables of drafts, samples, health, stars, peers and search."""

import sqlalchemy as sa
from alembic import op

from node.db.migrations.search_index import create_index, drop_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _publishing()
    _market()
    create_index()


def downgrade() -> None:
    drop_index()
    for table in ("star", "catalog_tag", "catalog_entry", "remote_listing", "peer"):
        op.drop_table(table)
    op.drop_index("ix_listing_updated_at", "listing")
    op.drop_table("listing_health")
    op.drop_table("sample")
    op.drop_table("listing_draft")
    op.drop_column("route_price", "price_unit")
    op.drop_column("listing", "price_unit")
    op.drop_column("listing", "health_path")


def _publishing() -> None:
    health_path = sa.Column("health_path", sa.String(), nullable=False, server_default="")
    op.add_column("listing", health_path)
    for table in ("listing", "route_price"):
        unit = sa.Column("price_unit", sa.String(), nullable=False, server_default="call")
        op.add_column(table, unit)
    op.create_table(
        "listing_draft",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("base_url", sa.String(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("health_path", sa.String(), nullable=False),
        sa.Column("credential_kind", sa.String(), nullable=False),
        sa.Column("credential_name", sa.String(), nullable=False),
        sa.Column("credential_secret", sa.Text(), nullable=False),
        sa.Column("spec_text", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("problems", sa.Text(), nullable=False),
        sa.Column("upstream_status", sa.Integer(), nullable=False),
        sa.Column("upstream_note", sa.Text(), nullable=False),
        sa.Column("started_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "sample",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("template", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("request_headers", sa.Text(), nullable=False),
        sa.Column("request_type", sa.String(), nullable=False),
        sa.Column("request_body", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("latency_us", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("listing_id", "method", "target", name="uq_sample_request"),
    )
    op.create_table(
        "listing_health",
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.Column("checked_at", sa.BigInteger(), nullable=False),
        sa.Column("up", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("latency_us", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("listing_id"),
    )


def _market() -> None:
    op.create_index("ix_listing_updated_at", "listing", ["updated_at"])
    op.create_table(
        "peer",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=True),
        sa.Column("synced_at", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("resources", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("skipped_why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("url"),
    )
    op.create_table(
        "remote_listing",
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.Column("peer_id", sa.String(), nullable=True),
        sa.Column("base_url", sa.String(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("network", sa.String(), nullable=False),
        sa.Column("schemes", sa.String(), nullable=False),
        sa.Column("pay_to", sa.String(), nullable=False),
        sa.Column("seller_demo", sa.Boolean(), nullable=False),
        sa.Column("named_here", sa.Boolean(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("listing_id"),
        sa.UniqueConstraint("base_url"),
    )
    op.create_index("ix_remote_listing_peer_id", "remote_listing", ["peer_id"])
    op.create_table(
        "catalog_entry",
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("price_from_atoms", sa.BigInteger(), nullable=False),
        sa.Column("price_to_atoms", sa.BigInteger(), nullable=False),
        sa.Column("price_unit", sa.String(), nullable=False),
        sa.Column("routes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("price_from_atoms >= 0"),
        sa.PrimaryKeyConstraint("listing_id"),
    )
    op.create_index("ix_catalog_entry_name_key", "catalog_entry", ["name_key"])
    op.create_table(
        "catalog_tag",
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("tag", "listing_id"),
    )
    op.create_index("ix_catalog_tag_listing_id", "catalog_tag", ["listing_id"])
    op.create_table(
        "star",
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("listing_id", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "listing_id"),
    )
    op.create_index("ix_star_listing_id", "star", ["listing_id"])
