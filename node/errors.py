"""Why a node cannot start or a command cannot do its work, as sentences for the operator.

    NodeError
    ├── SettingsInvalid      a setting that cannot be read
    ├── NotInitialised       there is no wallet in the data directory yet
    ├── PassphraseMissing    no passphrase was given
    ├── DataDirUnusable      the data directory cannot be written
    ├── AlreadyRunning       another node holds the data directory
    ├── DatabaseTooNew       a newer version of Farebox wrote the database
    ├── PortTaken            something else listens there
    ├── WrongChain           the RPC serves another chain than the settings name
    └── NodeNotRunning       the command needs a running node

`exit_code` is what the `farebox` command ends with: 3 configuration, 4 this machine,
5 the chain. (1 is "done, and the answer is no", 2 is a command line that cannot be read.)
"""

from __future__ import annotations


class NodeError(Exception):
    """Base of every error this package raises on purpose; its text says what to do."""

    code = "node_error"
    exit_code = 4


class SettingsInvalid(NodeError):
    code = "settings_invalid"
    exit_code = 3


class NotInitialised(NodeError):
    code = "not_initialised"
    exit_code = 3


class PassphraseMissing(NodeError):
    code = "passphrase_missing"
    exit_code = 3


class DataDirUnusable(NodeError):
    code = "data_dir_unusable"


class AlreadyRunning(NodeError):
    code = "already_running"


class DatabaseTooNew(NodeError):
    code = "database_too_new"


class PortTaken(NodeError):
    code = "port_taken"


class WrongChain(NodeError):
    code = "wrong_chain"
    exit_code = 5


class NodeNotRunning(NodeError):
    code = "node_not_running"
