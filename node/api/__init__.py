"""The JSON API of the private listener, under `/api`."""
