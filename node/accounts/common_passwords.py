"""Passwords, and beginnings of passwords, that everybody tries first."""

from __future__ import annotations

from typing import Final

_WORDS: Final = """
1234567890123 123456789012 1234567890ab 12345qwertyui 123qweasdzxc 1q2w3e4r5t6y 1qaz2wsx3edc
a1b2c3d4e5f6 abc123abc123 abcd1234abcd abcdefghijkl abcdefghijklm administrator adminadmin
adminadminadmin adminpassword asdfghjkl asdfghjklzxc asdfasdfasdf basketball changeit
changeme changemenow changemeplease correcthorse correcthorsebatterystaple defaultpassword
dragondragon farebox fareboxadmin fareboxfarebox fareboxpassword football footballfootball
google iloveyou iloveyouiloveyou letmein letmeinletmein letmeinplease loveyouforever
masterpassword monkeymonkey mypassword mysecretpassword newpassword p@ssw0rd p@ssword passw0rd
pass passpass passpasspass password password123 passwordpassword passwort princess
q1w2e3r4t5y6 qazwsxedcrfv qwerasdfzxcv qwerty qwerty123 qwertyqwerty qwertyuiop qwertyuiopas
qwertyuiopasdf rootroot rootrootroot secret secretpassword secretsecret starwars sunshine
superman superuser temporary testpassword testtest testtesttest thisismypassword
trustno1trustno1 unknown welcome welcomehome welcomewelcome whatever zaq12wsxcde3 zxcvbnm
zxcvbnmasdfg
"""

COMMON: Final = frozenset(_WORDS.split())
