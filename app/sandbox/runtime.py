"""The parts of a running sandbox, joined."""

from __future__ import annotations

from collections.abc import Mapping

from app.sandbox.calls import Door
from app.sandbox.carrier import Carrier
from app.sandbox.config import SandboxConfig
from app.sandbox.faults import Faults
from app.sandbox.ledger import About, Kind, Ledger
from app.sandbox.protocol import Protocol
from app.sandbox.tls import Authority
from app.sandbox.webhooks import WebhookSender
from app.sandbox.world import SuppressionData, World


class Sandbox:
    """Every provider with one ledger, one world and one set of faults."""

    def __init__(self, config: SandboxConfig, protocols: Mapping[str, type[Protocol]]) -> None:
        self.config = config
        self.world = World(config.mailbox_limit)
        self.ledger = Ledger(config.ledger_path, self.world.apply)
        self.faults = Faults(config.seed)
        self.protocols: Mapping[str, Protocol] = {
            name: kind(self, config.protocols.get(name) or kind.settings_type()) for name, kind in protocols.items()
        }
        self.sender = WebhookSender(config, self.ledger, self.protocols)
        self.carrier = Carrier(config, self.ledger, self.world, self.sender, self.protocols)
        self.authority = Authority(config.tls_directory, config.host)
        self.door = Door(self.ledger, self.world, self.faults, self.carrier)

    def unsuppress(self, provider: str, name: str, recipient: str) -> None:
        """Take a recipient off one of a provider's suppression lists."""
        change = SuppressionData(list=name, address=recipient.lower(), removed=True)
        about = About(provider=provider, recipient=recipient)
        self.ledger.append(Kind.SUPPRESSION, about=about, note=f"removed from {name}", data=change)

    async def start(self) -> None:
        await self.sender.start()
        for protocol in self.protocols.values():
            await protocol.start()
        self.carrier.resume()

    async def stop(self) -> None:
        self.carrier.stop()
        for protocol in self.protocols.values():
            await protocol.stop()
        await self.sender.stop()
        self.ledger.close()
