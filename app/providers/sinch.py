"""Sinch: the SMS REST API's batches, delivery reports and inbound messages as pure functions.

Sources: Sinch's SMS API reference and its Python SDK. What shaped this file:

- A batch goes to one recipient, so that its id names one message, and carries our reference: ``client_reference`` comes
  back in every report, and batches and reports are found by it.
- Webhooks are signed only where Sinch has switched that on for the service plan; elsewhere they bring a user name and a
  password, which Sinch keeps beside the plan's own callback URL. A URL of ours would be called without them.
- Sinch comes again after a 5xx, for almost two days, and never after a 4xx.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Literal
from urllib.parse import urlencode

from app.domain.keywords import inbound_evidence, keyword_of
from app.domain.models import Channel, Evidence, Outcome, OutcomeKind
from app.domain.sms import e164
from app.errors import WebhookRefused
from app.providers import sms
from app.providers.base import (
    AttemptRef,
    Capabilities,
    Lookup,
    LookupVerdict,
    Provider,
    ProviderRequest,
    ProviderResponse,
    SendContext,
    SmsMessage,
    WebhookRequest,
    absent,
)
from app.providers.reading import moment, retry_after, text
from app.providers.sms import ACCEPTED, CONTENT, DELIVERED, GAVE_UP, OTHER, REPUTATION, SOFT, Verdict

VALIDITY_MAX: Final = timedelta(days=3)
LOOKUP_RETENTION_SECONDS: Final = 3 * 86400.0  # reports are kept for longer, but how long is not documented
CLOCK_SKEW: Final = timedelta(minutes=5)

WEBHOOK_MAX_AGE_SECONDS: Final = (
    48 * 3600.0
)  # the last retry comes 46 h after the event, perhaps as it was first signed
WEBHOOK_AHEAD_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class SinchAccount:
    """One service plan and who it sends as. Raises ValueError for what could not work.

    webhook_secret: signs the webhooks; ``previous_webhook_secret`` is accepted too, while it is being rotated out.
    webhook_username, webhook_password: what unsigned webhooks bring. Either these or the secret must be there.
    base_url: in place of the region's host; for the sandbox.
    lookup_settle_seconds: after this long, a batch that is not listed was never made. None: absence proves nothing.
    """

    service_plan_id: str
    api_token: str = field(repr=False)
    sender: str
    region: Literal["us", "eu", "au", "br", "ca"] = "us"
    webhook_secret: str | None = field(default=None, repr=False)
    previous_webhook_secret: str | None = field(default=None, repr=False)
    webhook_username: str | None = None
    webhook_password: str | None = field(default=None, repr=False)
    base_url: str | None = None
    lookup_settle_seconds: float | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.service_plan_id):  # it becomes part of every URL
            raise ValueError("service_plan_id must be letters, digits, hyphens and underscores")
        if not _TOKEN.fullmatch(self.api_token):
            raise ValueError("api_token must be printable and without blanks")
        if not sms.SENDER.fullmatch(self.sender):
            raise ValueError(sms.SENDER_RULE)
        if bool(self.webhook_username) != bool(self.webhook_password):
            raise ValueError("webhook_username and webhook_password belong together")
        if bool(self.webhook_secret) == bool(self.webhook_username):
            raise ValueError("either webhook_secret or webhook_username and webhook_password must be set")
        sms.check_account(base_url=self.base_url, lookup_settle_seconds=self.lookup_settle_seconds)

    @property
    def url(self) -> str:
        """The service plan's part of the API."""
        origin = self.base_url or f"https://{self.region}.sms.api.sinch.com"
        return f"{origin}/xms/v1/{self.service_plan_id}"


class Sinch(Provider[SmsMessage]):
    """One Sinch service plan behind the Provider protocol."""

    name: ClassVar[str] = "sinch"

    def __init__(self, account: SinchAccount) -> None:
        self.account = account
        self.capabilities = Capabilities(
            channel=Channel.SMS,
            confirms_delivery=True,
            can_look_up=True,
            accepts_client_id=True,
            lookup_settle_seconds=account.lookup_settle_seconds,
            lookup_retention_seconds=LOOKUP_RETENTION_SECONDS,
        )
        self._lookup_headers = {"Authorization": f"Bearer {account.api_token}"}
        self._send_headers = {**self._lookup_headers, "Content-Type": "application/json"}

    # -- sending -----------------------------------------------------------------------------------------------------

    def build(self, message: SmsMessage, context: SendContext) -> ProviderRequest:
        """The send request. Raises InvalidFields for what must never leave."""
        sms.refuse_unsendable(message)
        batch = {
            "from": self.account.sender,
            "to": [message.to],
            "body": message.text,
            "type": "mt_text",
            "delivery_report": "per_recipient",
            "client_reference": message.reference,
            "expire_at": _iso(min(max(message.expires_at, context.now), context.now + VALIDITY_MAX)),
        }
        if context.webhook_url is not None and self.account.webhook_secret:
            batch["callback_url"] = context.webhook_url
        return ProviderRequest("POST", f"{self.account.url}/batches", self._send_headers, json.dumps(batch).encode())

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer to a send means. Only an answer with a batch's id counts as accepted."""
        payload = sms.json_object(response.body)
        batch_id = text(payload.get("id"), 64)
        if 200 <= response.status < 300 and _ID.fullmatch(batch_id):
            return Outcome(OutcomeKind.ACCEPTED, "queued", response.status, provider_message_id=batch_id)
        code, said = text(payload.get("code"), 60), sms.words(payload.get("text"))
        kind = _refusal(response.status, code, said)
        return Outcome(
            kind,
            sms.words(": ".join(filter(None, (code, said)))) or f"HTTP {response.status}",
            response.status,
            retry_after_seconds=retry_after(response.headers, now) if kind is OutcomeKind.RATE_LIMITED else None,
        )

    # -- webhooks ----------------------------------------------------------------------------------------------------

    def verify(self, request: WebhookRequest, now: datetime, key: bytes | None = None) -> None:
        """Refuses what is not signed by Sinch or, without a secret, does not bring the password."""
        if self.account.webhook_secret:
            self._verify_signature(request, now)
            return
        expected = b64encode(f"{self.account.webhook_username}:{self.account.webhook_password}".encode()).decode()
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic" or not sms.is_one_of(given.strip(), [expected]):
            raise sms.forged("the user name and password are not those agreed on")

    def _verify_signature(self, request: WebhookRequest, now: datetime) -> None:
        header = "x-sinch-webhook-signature"
        signature, nonce, timestamp, algorithm = (
            request.headers.get(f"{header}{part}", "") for part in ("", "-nonce", "-timestamp", "-algorithm")
        )
        if algorithm.lower() not in ("", "hmacsha256"):
            raise sms.forged("signed by an algorithm that is not known")
        if not nonce or not timestamp:
            raise sms.forged("no signature with a nonce and a timestamp")
        signed = b".".join((request.body, nonce.encode("utf-8", "replace"), timestamp.encode("utf-8", "replace")))
        secrets = filter(None, (self.account.webhook_secret, self.account.previous_webhook_secret))
        if not sms.is_one_of(signature, [_signature(secret, signed) for secret in secrets]):
            raise sms.forged("the signature is not Sinch's")
        sms.refuse_stale(
            moment(timestamp), now, age_max_seconds=WEBHOOK_MAX_AGE_SECONDS, ahead_max_seconds=WEBHOOK_AHEAD_SECONDS
        )

    def parse(self, request: WebhookRequest) -> Sequence[Evidence]:
        """The facts in a delivery report, or in a message that somebody sent to us."""
        payload = sms.json_object(request.body)
        kind = text(payload.get("type"), 60)
        if kind.startswith("recipient_delivery_report"):
            return (_report(payload, request.received_at),)
        if kind.startswith("delivery_report"):
            reports = sms.objects(payload.get("statuses"))
            return tuple(_report({**payload, **report}, request.received_at) for report in reports)
        if kind.startswith("mo_"):
            return (_inbound(payload, request.received_at),)
        if not kind:
            raise sms.malformed("no type")
        key = f"{kind}:{hashlib.sha256(request.body).hexdigest()[:32]}"
        return (Evidence(OTHER.kind, key, request.received_at, data={"type": kind}),)

    # -- looking up --------------------------------------------------------------------------------------------------

    def build_lookup(self, attempt: AttemptRef, now: datetime) -> ProviderRequest:
        """Asks for the report where the batch is known, else for the batch, both by our reference."""
        return self._list("batches" if attempt.provider_message_id is None else "delivery_reports", attempt)

    def interpret_lookup(self, attempt: AttemptRef, response: ProviderResponse, now: datetime) -> Lookup:
        """What one page says: a batch shows that it was sent, and is followed by its report."""
        payload = sms.json_object(response.body)
        listed = _listed(payload) if response.status == 200 else None
        if listed is None:
            words = sms.words(payload.get("text"))
            return Lookup(LookupVerdict.UNAVAILABLE, detail=f"HTTP {response.status} {words}".strip())
        ours = [item for item in listed if item.get("client_reference") == attempt.reference]
        if listed and not ours:
            return Lookup(LookupVerdict.UNAVAILABLE, detail="an answer about other messages")
        if not ours:
            return absent(attempt, self.capabilities, now)
        evidence = tuple(_readable(ours, now))
        if not evidence:
            return Lookup(LookupVerdict.UNAVAILABLE, detail="an answer that cannot be read")
        more = None if "delivery_reports" in payload else self._list("delivery_reports", attempt)
        return Lookup(LookupVerdict.FOUND, evidence, next_request=more)

    def _list(self, what: str, attempt: AttemptRef) -> ProviderRequest:
        """Without a start the last day only would be looked through."""
        query = {"client_reference": attempt.reference, "start_date": _iso(attempt.opened_at - CLOCK_SKEW)}
        return ProviderRequest("GET", f"{self.account.url}/{what}?{urlencode(query)}", self._lookup_headers)


def _listed(payload: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Every item of an answer; None for one that is not understood to its end, which must not pass for an empty one."""
    items: list[Any] = []
    for key in ("batches", "delivery_reports"):
        part = payload.get(key, [])
        if not isinstance(part, list):
            return None
        items += part
    counted = sms.code(payload.get("count"))
    if not items and counted != 0 and ("count" in payload or not payload.keys() & {"batches", "delivery_reports"}):
        return None
    return items if all(isinstance(item, dict) for item in items) else None


_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOKEN: Final = re.compile(r"[!-~]+")


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _signature(secret: str, signed: bytes) -> str:
    return b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()


# -- answers to a send -------------------------------------------------------------------------------------------------

_ABOUT_THE_RECIPIENT: Final = re.compile(r"\brecipient|['\"`]to['\"`\[.]|\bto\[[0-9]", re.I)


def _refusal(status: int, code: str, words: str) -> OutcomeKind:
    """The outcome of an answer without an id.

    The address is blamed only where the words name it: the format of the sender is refused by the same code.
    """
    if status == 400 and code == "syntax_invalid_parameter_format" and _ABOUT_THE_RECIPIENT.search(words):
        return OutcomeKind.RECIPIENT_INVALID
    if status == 403 and code.startswith("unknown_"):  # a group or campaign that the request names
        return OutcomeKind.REJECTED
    return sms.kind_of_status(status)


# -- reports and messages ----------------------------------------------------------------------------------------------

_STATUSES: Final[Mapping[str, Verdict]] = {
    "CREATED": ACCEPTED,  # ours: of a batch that is listed
    "QUEUED": ACCEPTED,
    "DISPATCHED": ACCEPTED,
    "UNKNOWN": ACCEPTED,  # the network has it and will never say what became of it
    "DELIVERED": DELIVERED,
    "ABORTED": GAVE_UP,
    "CANCELLED": GAVE_UP,
    "DELETED": SOFT,
    "EXPIRED": SOFT,
    "FAILED": SOFT,
    "REJECTED": SOFT,
}
#: What Sinch's own codes say beyond the status; the others are the networks' and have no one meaning.
_CODES: Final[Mapping[int, tuple[Verdict, str]]] = {
    402: (SOFT, "no route to the number"),
    403: (GAVE_UP, "internal error"),
    404: (GAVE_UP, "temporary failure"),
    405: (CONTENT, "a parameter of the text has no value"),
    406: (GAVE_UP, "expired before it could be sent on"),
    407: (GAVE_UP, "cancelled"),
    408: (CONTENT, "rejected by Sinch"),
    410: (REPUTATION, "no default sender for the number"),
    411: (CONTENT, "too many parts"),
    412: (REPUTATION, "the account is not provisioned for the region"),
}
_FINAL: Final = frozenset({"ABORTED", "CANCELLED", "DELETED", "EXPIRED", "FAILED", "REJECTED"})


def _report(report: Mapping[str, Any], otherwise: datetime) -> Evidence:
    """A report about one recipient in our words; ``otherwise``: its time, where the report has none."""
    batch_id, status = text(report.get("batch_id"), 64), text(report.get("status"), 40).upper()
    if not _ID.fullmatch(batch_id) or not status:
        raise sms.malformed("no batch_id with a status")
    code = sms.code(report.get("code"))
    verdict, meaning = _STATUSES.get(status, OTHER), ""
    if status in _FINAL and code is not None:
        verdict, meaning = _CODES.get(code, (verdict, ""))
    delivery_id, attempt_no = sms.correlation(report.get("client_reference"))
    return Evidence(
        kind=verdict.kind,
        event_key=f"{batch_id}:{status}:{'' if code is None else code}",
        occurred_at=moment(report.get("at")) or otherwise,
        delivery_id=delivery_id,
        attempt_no=attempt_no,
        provider_message_id=batch_id,
        address=e164(text(_recipient(report), 60)),
        bounce_class=verdict.bounce_class,
        suppress_reason=verdict.suppress_reason,
        data=sms.told(status=status, code=code, meaning=meaning, operator=text(report.get("operator"), 60)),
    )


def _recipient(report: Mapping[str, Any]) -> Any:
    """A report about one recipient names it; one about a batch lists them, and ours have one."""
    recipients = report.get("recipients")
    return recipients[0] if isinstance(recipients, list) and recipients else report.get("recipient")


def _readable(listed: Sequence[Mapping[str, Any]], now: datetime) -> Iterator[Evidence]:
    """Reports, and batches as if they were reports."""
    for item in listed:
        batch = {"batch_id": item.get("id"), "status": "CREATED", "at": item.get("created_at")}
        with suppress(WebhookRefused):
            yield _report(item if "batch_id" in item else {**batch, "client_reference": item["client_reference"]}, now)


def _inbound(message: Mapping[str, Any], received_at: datetime) -> Evidence:
    message_id = text(message.get("id"), 64)
    if not message_id:
        raise sms.malformed("a message without an id")
    return inbound_evidence(
        message_id=message_id,
        sender=text(message.get("from"), 60),
        receiver=text(message.get("to"), 60),
        keyword=keyword_of(text(message.get("body"), 2000)) if message.get("type") == "mo_text" else None,
        occurred_at=moment(message.get("received_at")) or received_at,
    )
