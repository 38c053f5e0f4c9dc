"""Takes accepted messages through their scripts: each step becomes an event, and each event its webhooks."""

from __future__ import annotations

import asyncio
import time

import msgspec

from app.sandbox.config import SandboxConfig
from app.sandbox.ledger import About, Kind, Ledger
from app.sandbox.mailgun.payloads import event_payload
from app.sandbox.scripts import Failure, Posts, Script, Step, script_named
from app.sandbox.webhooks import Forgery, Posting, WebhookSender
from app.sandbox.world import Body, EventData, Message, Progress, SuppressionData, World

#: What forged webhooks claim happened.
_FORGED_STEP = Step("delivered")

_encode = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(EventData).decode


class Carrier:
    """The outside world's side of a send, from acceptance to the last event."""

    def __init__(self, config: SandboxConfig, ledger: Ledger, world: World, sender: WebhookSender) -> None:
        self._config = config
        self._ledger = ledger
        self._world = world
        self._sender = sender
        self._base_url = f"http://{config.host}:{config.port}"
        self._withheld: dict[str, list[Posting]] = {}
        self._stopped = False

    def accept(self, message: Message, body: Body, *, call: int) -> None:
        """Take the message on. From here on the outside world has it, whatever the caller is told."""
        self._ledger.append(Kind.ACCEPTED, about=message.about, call=call, accepted=True, data=message)
        if mail := self._world.mailbox.get(message.id):
            mail.body = body
        self._advance(self._world.unfinished[message.id])

    def resume(self) -> None:
        """After a restart: post the webhooks still owed, and finish the scripts that were under way."""
        if self._sender.is_on:
            self._post_owed()
        for progress in list(self._world.unfinished.values()):
            self._advance(progress)

    def stop(self) -> None:
        """Play no further step; the next start takes up from here."""
        self._stopped = True

    def _post_owed(self) -> None:
        for seq, posts in self._world.owed.values():
            entry = self._ledger.read(seq)
            about = About(entry.recipient, entry.message_id, entry.landed_delivery, entry.landed_attempt)
            for _ in range(posts):
                self._sender.post(_posting(_decode_event(entry.data), about))

    def _advance(self, progress: Progress) -> None:
        """Play the steps that are due at once, then wait for the next."""
        script = script_named(progress.message.script)
        while progress.steps_done < len(script.steps):
            step = script.steps[progress.steps_done]
            if step.after:
                wait = self._config.scaled(step.after)
                asyncio.get_running_loop().call_later(wait, self._play_then_advance, progress, script, step)
                return
            self._play(progress, script, step)
        self._world.finish(progress.message.id)

    def _play_then_advance(self, progress: Progress, script: Script, step: Step) -> None:
        if not self._stopped:
            self._play(progress, script, step)
            self._advance(progress)

    def _play(self, progress: Progress, script: Script, step: Step) -> None:
        message, is_last = progress.message, progress.steps_done + 1 == len(script.steps)
        event = self._event(message, step, attempt_no=max(1, progress.steps_done), posts=self._posts(script, step))
        self._ledger.append(Kind.EVENT, about=message.about, data=event)
        if step.suppresses:
            self._suppress(message, step.suppresses, step.failure)
        if event.posts:
            self._post(script.posts, message, event, is_last=is_last)

    def _event(self, message: Message, step: Step, *, attempt_no: int, posts: int) -> EventData:
        now = time.time()
        payload = event_payload(message, step, timestamp=now, attempt_no=attempt_no, base_url=self._base_url)
        return EventData(
            id=payload["id"],
            message=message.id,
            event=step.event,
            timestamp=now,
            posts=posts,
            severity=step.failure.severity if step.failure else None,
            reason=step.failure.reason if step.failure else None,
            code=step.failure.code if step.failure else None,
            payload=msgspec.Raw(_encode(payload)),
        )

    def _posts(self, script: Script, step: Step) -> int:
        if not self._sender.is_on or script.posts is Posts.NEVER or not step.posted:
            return 0
        return 3 if script.posts is Posts.THRICE else 1

    def _post(self, posts: Posts, message: Message, event: EventData, *, is_last: bool) -> None:
        posting = _posting(event, message.about)
        match posts:
            case Posts.THRICE:
                for _ in range(event.posts):
                    self._sender.post(_posting(event, message.about))
            case Posts.REVERSED:
                withheld = self._withheld.setdefault(message.id, [])
                withheld.insert(0, posting)
                if is_last:
                    self._sender.post(*self._withheld.pop(message.id))
            case Posts.WITH_FORGERIES if event.event == "accepted":
                self._sender.post(posting, *self._forgeries(message, posting))
            case _:
                self._sender.post(posting)

    def _forgeries(self, message: Message, genuine: Posting) -> list[Posting]:
        """One lie of each kind a receiver must catch; the replay follows hard on its original."""
        lies = []
        for forgery in (Forgery.REPLAYED, Forgery.BAD_SIGNATURE, Forgery.STALE):
            lie = _posting(self._event(message, _FORGED_STEP, attempt_no=1, posts=0), message.about)
            lie.forgery = forgery
            lie.replays = genuine if forgery is Forgery.REPLAYED else None
            lies.append(lie)
        return lies

    def _suppress(self, message: Message, name: str, failure: Failure | None) -> None:
        change = SuppressionData(
            list=name,
            address=message.recipient.lower(),
            code=str(failure.code) if failure else None,
            error=failure.message if failure else None,
        )
        self._ledger.append(Kind.SUPPRESSION, about=message.about, note=f"added to {name}", data=change)


def _posting(event: EventData, about: About) -> Posting:
    return Posting(event_id=event.id, event=event.event, message=event.message, about=about, payload=event.payload)
