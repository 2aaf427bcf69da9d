"""Long forms: millions of calls, minutes of time. Run by `make soak`."""
