"""The parts of a running sandbox, joined."""

from __future__ import annotations

from collections import Counter

from app.sandbox.carrier import Carrier
from app.sandbox.config import SandboxConfig
from app.sandbox.faults import Faults
from app.sandbox.ledger import Ledger
from app.sandbox.webhooks import WebhookSender
from app.sandbox.world import World


class Sandbox:
    """One provider with its ledger, its world and its faults."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.world = World(config.mailbox_limit)
        self.ledger = Ledger(config.ledger_path, self.world.apply)
        self.faults = Faults(config.seed)
        self.sender = WebhookSender(config, self.ledger)
        self.carrier = Carrier(config, self.ledger, self.world, self.sender)
        self.refused: Counter[str] = Counter()  # calls turned away so far, by scripted address

    async def start(self) -> None:
        await self.sender.start()
        self.carrier.resume()

    async def stop(self) -> None:
        self.carrier.stop()
        await self.sender.stop()
        self.ledger.close()
