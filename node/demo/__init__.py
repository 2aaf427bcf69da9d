"""`farebox demo`: a whole market on one machine, each part a process of its own.

`market` starts the parts, `traffic` buys, `accounts` reads what it came to, `report`
says it. Passphrases are made up on the spot and everything lives in a temporary
directory that is removed at the end.
"""
