"""Everything about backups that a running node holds, built once. Nothing runs yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from backups.folder import sweep
from finance.chain.rpc import Rpc
from finance.errors import WalletError
from finance.selling.claims import Claims
from finance.store import Store
from finance.wallet.signer import Keys
from node.accounts.audit import SYSTEM
from node.alerts.errors import AlertsError
from node.alerts.mail import Attachment, Letter, Mailer
from node.alerts.mailbox import MailState
from node.alerts.rules import Alarm
from node.preferences import read_preference
from node.settings import Settings
from node.vault import records
from node.vault.choices import BackupChoices, first_start
from node.vault.copies import Copies, Parcel, Post
from node.vault.desk import RestoreDesk
from node.vault.restore import Staged, sweep_staged
from node.vault.restored import AfterRestore
from node.vault.service import Surroundings, Vault
from node.vault.upkeep import Upkeep


@dataclass(slots=True)
class PendingRestore:
    """A data directory that takes this one's place when the node has ended. `ask` ends it."""

    staged: Staged | None = None
    ask: Callable[[], None] = field(default=lambda: None)

    def take(self, staged: Staged) -> None:
        """Have it swapped in, and the node end for that."""
        self.staged = staged
        self.ask()


@dataclass(frozen=True, slots=True)
class VaultParts:
    """The services: `vault` writes, `upkeep` looks after, `after` knows of a restore."""

    vault: Vault
    upkeep: Upkeep
    after: AfterRestore
    pending: PendingRestore
    desk: RestoreDesk

    async def stop(self) -> None:
        """End what is being done."""
        await self.desk.stop()
        await self.vault.stop()

    def prepare(self, now: int) -> None:
        """At the start of a node: note the first one, clear away what was half done (blocking).
        Only for whoever holds the data directory."""
        first_start(self.vault.engine, SYSTEM, now)
        records.interrupted(self.vault.engine, now)
        sweep_staged(self.vault.around.settings.data_dir)
        self.desk.clear()
        sweep(self.vault.folder(read_preference(self.vault.engine, BackupChoices)))


def build_vault(
    settings: Settings, keys: Keys, store: Store, rpc: Rpc, claims: Claims, alarm: Alarm
) -> VaultParts:
    """The backups of one node."""
    engine = store.engine
    vault = Vault(Surroundings(settings, engine, keys, rpc, claims, alarm))
    pending = PendingRestore()
    copies = Copies(engine, keys.unseal, mail_post(Mailer(engine, keys.unseal)))
    return VaultParts(
        vault,
        Upkeep(vault, copies),
        AfterRestore(store, keys.wallet.address, settings.chain.chain_id, rpc.nonce, alarm),
        pending,
        RestoreDesk(settings, pending.take),
    )


def mail_post(mailer: Mailer) -> Post:
    """Backups as attachments, to the recipients of Settings > Email."""

    async def post(parcel: Parcel) -> str:
        file = Attachment(parcel.name, parcel.content)
        try:
            state = await mailer.send(Letter(parcel.subject, parcel.text, attachments=(file,)))
        except (AlertsError, WalletError) as error:
            return str(error)
        kept = state is MailState.KEPT
        return "There is no mail server yet: set one in Settings > Email." if kept else ""

    return post
