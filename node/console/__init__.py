"""The console: pages for the operator, on the private listener."""
