"""Run by Alembic inside the transaction that `node.db.migrations` opened."""

from alembic import context

from node.db.migrations import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata(),
)
context.run_migrations()
