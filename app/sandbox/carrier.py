"""Takes accepted messages through their scripts: each step becomes an event, and each event its webhooks."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from app.sandbox.config import SandboxConfig
from app.sandbox.ledger import About, Kind, Ledger
from app.sandbox.protocol import Forgery, Happening, Posting, Protocol
from app.sandbox.scripting import Failure, Posts, Script, Step
from app.sandbox.webhooks import WebhookSender
from app.sandbox.world import FIRST_PROVIDER, Body, EventData, Message, Progress, SuppressionData, World

#: What forged webhooks claim happened.
_FORGED_STEP: Final = Step("delivered")

_encode = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(EventData).decode


class Carrier:
    """The outside world's side of a send, from acceptance to the last event."""

    def __init__(
        self,
        config: SandboxConfig,
        ledger: Ledger,
        world: World,
        sender: WebhookSender,
        protocols: Mapping[str, Protocol],
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._world = world
        self._sender = sender
        self._protocols = protocols
        self._withheld: dict[str, list[Posting]] = {}
        self._stopped = False

    def accept(self, message: Message, body: Body, *, call: int | None) -> None:
        """Take the message on. From here on the outside world has it, whatever the caller is told."""
        self._ledger.append(Kind.ACCEPTED, about=message.about, call=call, accepted=True, data=message)
        if mail := self._world.mailbox.get(message.id):
            mail.body = body
        self._protocols[message.provider].taken(message)
        self._advance(self._world.unfinished[message.id])

    def play(self, message: Message, step: Step) -> None:
        """Let one more thing happen to a message than its script says, such as an answer that a person asked for."""
        protocol = self._protocols[message.provider]
        told = self._event(protocol, message, step, attempt_no=1, posts=Posts.NORMAL)
        event = msgspec.structs.replace(told, scripted=False)
        self._ledger.append(Kind.EVENT, about=message.about, data=event)
        self._list(message, step)
        if event.posts:
            self._sender.post(self._posting(event, message.about))

    def resume(self) -> None:
        """After a restart: post the webhooks still owed, and finish the scripts that were under way."""
        self._post_owed()
        for progress in list(self._world.unfinished.values()):
            self._advance(progress)

    def stop(self) -> None:
        """Play no further step; the next start takes up from here."""
        self._stopped = True

    def _post_owed(self) -> None:
        for seq, posts in self._world.owed.values():
            entry = self._ledger.read(seq)
            event, provider = _decode_event(entry.data), entry.provider or FIRST_PROVIDER
            if provider not in self._protocols or not self._url(provider, event.callback):
                continue
            about = About(provider, entry.recipient, entry.message_id, entry.landed_delivery, entry.landed_attempt)
            for _ in range(posts):
                self._sender.post(self._posting(event, about))

    def _advance(self, progress: Progress) -> None:
        """Play the steps that are due at once, then wait for the next."""
        protocol = self._protocols.get(progress.message.provider)
        script = protocol.script_named(progress.message.script) if protocol else None
        while protocol and script and progress.steps_done < len(script.steps):
            step = script.steps[progress.steps_done]
            if step.after:
                wait = self._config.scaled(step.after)
                asyncio.get_running_loop().call_later(wait, self._play_then_advance, protocol, progress, script, step)
                return
            self._play(protocol, progress, script, step)
        self._world.finish(progress.message.id)

    def _play_then_advance(self, protocol: Protocol, progress: Progress, script: Script, step: Step) -> None:
        if not self._stopped:
            self._play(protocol, progress, script, step)
            self._advance(progress)

    def _play(self, protocol: Protocol, progress: Progress, script: Script, step: Step) -> None:
        message = progress.message
        is_last, is_first_posted = progress.steps_done + 1 == len(script.steps), progress.posted == 0
        event = self._event(protocol, message, step, attempt_no=max(1, progress.steps_done), posts=script.posts)
        self._ledger.append(Kind.EVENT, about=message.about, data=event)
        self._list(message, step)
        self._post(protocol, script.posts, message, event, is_last=is_last, is_first=is_first_posted)

    def _event(self, protocol: Protocol, message: Message, step: Step, *, attempt_no: int, posts: Posts) -> EventData:
        happening = Happening(secrets.token_urlsafe(16), time.time(), attempt_no, self._config.base_url)
        payload = protocol.payload(message, step, happening)
        callback = protocol.callback(message, step)
        is_posted = payload is not None and protocol.is_posted(message, step) and self._url(protocol.name, callback)
        return EventData(
            id=happening.event_id,
            message=message.id,
            event=step.event,
            timestamp=happening.timestamp,
            posts=_posts(posts) if is_posted else 0,
            severity=step.failure.severity if step.failure else None,
            reason=step.failure.reason if step.failure else None,
            code=step.failure.code if step.failure else None,
            callback=callback,
            payload=msgspec.Raw(_encode(payload)),
        )

    def _url(self, provider: str, callback: str | None) -> str | None:
        """Where an event goes; None when nowhere."""
        return (callback or self._config.webhook_url_of(provider)) if self._config.webhooks else None

    def _posting(self, event: EventData, about: About) -> Posting:
        provider = about.provider or FIRST_PROVIDER
        return Posting(
            provider=provider,
            event_id=event.id,
            event=event.event,
            message=event.message,
            about=about,
            payload=event.payload,
            url=self._url(provider, event.callback) or "",
        )

    def _post(
        self, protocol: Protocol, posts: Posts, message: Message, event: EventData, *, is_last: bool, is_first: bool
    ) -> None:
        if posts is Posts.REVERSED:
            self._withhold(message, event, is_last=is_last)
        elif posts is Posts.WITH_FORGERIES and event.posts and is_first:
            posting = self._posting(event, message.about)
            self._sender.post(posting, *self._forgeries(protocol, message, posting))
        else:
            for _ in range(event.posts):
                self._sender.post(self._posting(event, message.about))

    def _withhold(self, message: Message, event: EventData, *, is_last: bool) -> None:
        """Keep webhooks back until the last event, and post them in reverse."""
        withheld = self._withheld.setdefault(message.id, [])
        if event.posts:
            withheld.insert(0, self._posting(event, message.about))
        if is_last:
            del self._withheld[message.id]
            if withheld:
                self._sender.post(*withheld)

    def _forgeries(self, protocol: Protocol, message: Message, genuine: Posting) -> list[Posting]:
        """One lie of each kind a receiver must catch; a replay follows hard on its original."""
        lies = []
        for forgery in protocol.forgeries:
            event = self._event(protocol, message, _FORGED_STEP, attempt_no=1, posts=Posts.NEVER)
            if bytes(event.payload) == b"null":
                continue
            lie = self._posting(event, message.about)
            lie.forgery = forgery
            lie.replays = genuine if forgery is Forgery.REPLAYED else None
            lies.append(lie)
        return lies

    def _list(self, message: Message, step: Step) -> None:
        """Put the recipient on a suppression list, or take it off one, as the step says."""
        if step.suppresses:
            self._suppress(message, step.suppresses, step.failure)
        if step.relieves:
            change = SuppressionData(list=step.relieves, address=message.recipient.lower(), removed=True)
            self._ledger.append(
                Kind.SUPPRESSION, about=message.about, note=f"removed from {step.relieves}", data=change
            )

    def _suppress(self, message: Message, name: str, failure: Failure | None) -> None:
        change = SuppressionData(
            list=name,
            address=message.recipient.lower(),
            code=str(failure.code) if failure else None,
            error=failure.message if failure else None,
        )
        self._ledger.append(Kind.SUPPRESSION, about=message.about, note=f"added to {name}", data=change)


def _posts(posts: Posts) -> int:
    """How many webhooks one event owes."""
    return {Posts.NEVER: 0, Posts.THRICE: 3}.get(posts, 1)
