"""Who may do what: users, sessions, tokens, roles, and the trail of every change."""
