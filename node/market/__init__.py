"""What the operator does with APIs: publish, record samples, sync, search, try."""
