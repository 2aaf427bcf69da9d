"""Plans: what a seller offers by the month, and what subscribers hold of it."""
