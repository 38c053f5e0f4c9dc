"""A protocol whose events go through an SNS topic, to a subscriber that has to confirm first."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from litestar import get
from litestar.types import ASGIApp, ControllerRouterHandler

from app.sandbox.aws.sigv4 import SignedRequest, check
from app.sandbox.aws.sns import Topic
from app.sandbox.calls import Call
from app.sandbox.faults import Mode
from app.sandbox.httpapi import AnyRequest, HttpProtocol, answer, as_text, is_same
from app.sandbox.ledger import About, Kind
from app.sandbox.protocol import Forgery, Outgoing, Posting
from app.sandbox.runtime import Sandbox
from app.sandbox.world import SubscriptionData

#: Waits before an endpoint that has not confirmed is asked again: the first, which then doubles, and the longest. Where
#: SNS asks but three times, the sandbox does not give up on an API that is still starting.
CONFIRM_SECONDS: Final = 1.0
CONFIRM_SECONDS_MAX: Final = 30.0
CONFIRM_SECONDS_MIN: Final = 0.05  # whatever the speed

_CONFIRMED: Final = (
    '<ConfirmSubscriptionResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><ConfirmSubscriptionResult>'
    "<SubscriptionArn>{arn}:{token}</SubscriptionArn></ConfirmSubscriptionResult></ConfirmSubscriptionResponse>"
)
_INVALID: Final = (
    '<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>'
    "<Code>InvalidParameter</Code><Message>Invalid token</Message></Error></ErrorResponse>"
)


class Publisher(HttpProtocol):
    """One account of an Amazon service. Its events reach a subscriber that has confirmed; until then they are kept.

    settings: have ``access_key_id``, ``secret_access_key``, ``region`` and ``topic_arn``.
    """

    forgeries = (Forgery.BAD_SIGNATURE, Forgery.STALE, Forgery.FOREIGN)
    retry_seconds = (20, 20, 20)

    def __init__(self, sandbox: Sandbox, settings: Any) -> None:
        super().__init__(sandbox, settings)
        self.topic = Topic(settings.topic_arn, f"{sandbox.config.base_url}/sns/{self.name}")
        self.token = secrets.token_hex(64)
        self._asking: asyncio.Task[None] | None = None

    def handlers(self) -> Sequence[ControllerRouterHandler]:
        """The service's API, and the topic's own two addresses, which no credentials and no fault stand before."""
        path = f"/sns/{self.name}"

        @get(f"{path}/{{name:str}}")
        async def certificate(request: AnyRequest, name: str) -> ASGIApp:
            self._let_in(request)
            if name != self.topic.certificate_name:
                return answer(request, as_text("Not found", 404))
            pem = self.topic.certificate.decode()
            return answer(request, as_text(pem, media_type="application/x-pem-file"))

        @get(f"{path}/")
        async def confirm(request: AnyRequest) -> ASGIApp:
            self._let_in(request)
            return self._confirm(request)

        return [*super().handlers(), certificate, confirm]

    def _let_in(self, request: AnyRequest) -> None:
        seq = self.sandbox.door.record(self.name, request.method, request.url.path)
        request.scope["state"].update(call=Call(self.name, seq, Mode.OK), protocol=self)

    def _confirm(self, request: AnyRequest) -> ASGIApp:
        """ConfirmSubscription, by whoever knows the token."""
        params = request.query_params
        if params.get("Action") != "ConfirmSubscription" or params.get("TopicArn") != self.topic.arn:
            return answer(request, as_text(_INVALID, 400, "text/xml"))
        if not is_same(params.get("Token", ""), self.token):
            return answer(request, as_text(_INVALID, 400, "text/xml"), note="wrong token")
        self._confirmed()
        subscription = _CONFIRMED.format(arn=self.topic.arn, token=uuid4())
        return answer(request, as_text(subscription, media_type="text/xml"))

    async def check_signature(self, request: AnyRequest, service: str) -> None:
        """Raises ``Unsigned`` unless the account's key signed the request for this service."""
        signed = SignedRequest(
            method=request.method,
            raw_path=request.scope["raw_path"].decode("ascii").partition("?")[0],
            query=request.scope["query_string"].decode("ascii"),
            headers=dict(request.headers),
            body=await request.body(),
        )
        settings = self.settings
        key_id, secret = settings.access_key_id, settings.secret_access_key
        check(signed, key_id=key_id, secret=secret, region=settings.region, service=service, now=datetime.now(UTC))

    # The subscription -----------------------------------------------------------------------------------------------

    @property
    def _endpoint(self) -> str | None:
        return self.sandbox.config.webhook_url_of(self.name)

    @property
    def _is_confirmed(self) -> bool:
        return self._endpoint in self.sandbox.world.account(self.name).confirmed

    async def start(self) -> None:
        """Ask the subscriber to confirm, unless it did before a restart."""
        if self._endpoint and not self._is_confirmed:
            self._asking = asyncio.create_task(self._ask(self._endpoint))

    async def stop(self) -> None:
        if self._asking:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking

    async def _ask(self, endpoint: str) -> None:
        await asyncio.to_thread(lambda: self.topic.certificate)  # making a key takes a while
        wait = CONFIRM_SECONDS
        told: tuple[int | None, str | None] | None = None
        while not self._is_confirmed:
            found = await self.sandbox.sender.send(
                endpoint, self.topic.confirmation(self.token), self.webhook_timeout_seconds
            )
            if found != told:
                told = found
                self._record(endpoint, confirmed=self._is_confirmed, status=found[0], note=found[1] or "asked")
            await asyncio.sleep(max(CONFIRM_SECONDS_MIN, self.sandbox.config.scaled(wait)))
            wait = min(2 * wait, CONFIRM_SECONDS_MAX)

    def _confirmed(self) -> None:
        """The subscriber has confirmed: everything kept for it goes out."""
        endpoint = self._endpoint
        if endpoint is None or self._is_confirmed:
            return
        self._record(endpoint, confirmed=True, status=None, note="confirmed")
        self.sandbox.sender.resume(self.name)
        self.subscribed(endpoint)

    def subscribed(self, endpoint: str) -> None:
        """For services that say something to a new subscriber."""

    def _record(self, endpoint: str, *, confirmed: bool, status: int | None, note: str) -> None:
        self.sandbox.ledger.append(
            Kind.SUBSCRIPTION,
            about=About(provider=self.name),
            status=status,
            note=note,
            data=SubscriptionData(url=endpoint, confirmed=confirmed),
        )

    # Events ---------------------------------------------------------------------------------------------------------

    def may_post(self, posting: Posting) -> bool:
        return posting.url in self.sandbox.world.account(self.name).confirmed

    def is_settled(self, status: int | None) -> bool:
        """SNS takes every answer below 500 for a delivery."""
        return status is not None and status < 500

    def outgoing(self, postings: Sequence[Posting]) -> Outgoing:
        [posting] = postings
        text = bytes(posting.payload).decode()
        return self.topic.notification(text, event_id=posting.event_id, forgery=posting.forgery)
