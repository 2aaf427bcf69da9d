"""What the operator must hear of: rules, incidents, and the channels that carry them."""
