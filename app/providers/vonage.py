"""Vonage: the SMS API with its delivery receipts and inbound messages as pure functions.

Sources: Vonage's SMS API pages, its table of delivery error codes and its Python SDK. What shaped this file:

- The API answers 200 to what it refuses: each message of the answer has a status of its own, and a long text has one
  message a segment. Segments of which some were taken can neither be called sent nor be sent again.
- Receipts and inbound messages come by GET, as a form or as JSON, as the account is set up, and are signed over all
  parameters together with the time. What is not signed is not believed.
- Nothing can be looked up: what no receipt tells stays unknown.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, Literal

from yarl import URL

from app.domain.keywords import inbound_evidence, keyword_of
from app.domain.models import Channel, Evidence, Outcome, OutcomeKind
from app.domain.sms import e164, encoding_of
from app.providers import sms
from app.providers.base import (
    SENDER_REFUSED,
    Capabilities,
    Provider,
    ProviderRequest,
    ProviderResponse,
    SendContext,
    SmsMessage,
    WebhookRequest,
)
from app.providers.reading import moment, retry_after, text
from app.providers.sms import ACCEPTED, CONTENT, DELIVERED, GAVE_UP, HARD, OPTED_OUT, OTHER, REPUTATION, SOFT, Verdict

HOST: Final = "https://rest.nexmo.com"

CALLBACK_CHARS_MAX: Final = 100
VALIDITY_MS: Final = (20_000, 604_800_000)

WEBHOOK_MAX_AGE_SECONDS: Final = 26 * 3600.0  # retries come for a day, perhaps as they were first signed
WEBHOOK_AHEAD_SECONDS: Final = 300.0

SignatureMethod = Literal["md5", "sha1", "sha256", "sha512"]


@dataclass(frozen=True, slots=True)
class VonageAccount:
    """One account and who it sends as. Raises ValueError for what could not work.

    api_secret: without it, requests are signed with ``signature_secret`` in its place.
    signature_secret, signature_method: sign the webhooks, by HMAC; ``previous_signature_secret`` is accepted too, while
        it is being rotated out.
    base_url: in place of ``https://rest.nexmo.com``; for the sandbox.
    """

    api_key: str
    sender: str
    signature_secret: str = field(repr=False)
    signature_method: SignatureMethod = "sha256"
    api_secret: str | None = field(default=None, repr=False)
    previous_signature_secret: str | None = field(default=None, repr=False)
    base_url: str | None = None

    def __post_init__(self) -> None:
        if not self.api_key or self.api_secret == "":
            raise ValueError("api_key and api_secret must not be empty")
        if not self.signature_secret:
            raise ValueError("signature_secret must not be empty")
        if not sms.SENDER.fullmatch(self.sender):
            raise ValueError(sms.SENDER_RULE)
        sms.check_account(base_url=self.base_url)


class Vonage(Provider[SmsMessage]):
    """One Vonage account behind the Provider protocol."""

    name: ClassVar[str] = "vonage"

    def __init__(self, account: VonageAccount) -> None:
        self.account = account
        self.capabilities = Capabilities(
            channel=Channel.SMS, confirms_delivery=True, can_look_up=False, accepts_client_id=True
        )
        self._url = f"{account.base_url or HOST}/sms/json"

    # -- sending -----------------------------------------------------------------------------------------------------

    def build(self, message: SmsMessage, context: SendContext) -> ProviderRequest:
        """The send request. Raises InvalidFields for what must never leave.

        A callback's URL that is longer than Vonage takes is left out: then the account's own one is called.
        """
        sms.refuse_unsendable(message)
        left_ms = int((message.expires_at - context.now).total_seconds() * 1000)
        fields = {
            "api_key": self.account.api_key,
            "from": self.account.sender.removeprefix("+"),
            "to": message.to.removeprefix("+"),
            "text": message.text,
            "type": "text" if encoding_of(message.text) == "gsm7" else "unicode",
            "client-ref": message.reference,
            "status-report-req": "true",
            "ttl": str(min(max(left_ms, VALIDITY_MS[0]), VALIDITY_MS[1])),
        }
        if context.webhook_url is not None and len(context.webhook_url) <= CALLBACK_CHARS_MAX:
            fields["callback"] = context.webhook_url
        if self.account.api_secret is None:
            fields["timestamp"] = str(int(context.now.timestamp()))
            fields["sig"] = _signature(self.account.signature_secret, self.account.signature_method, fields)
        else:
            fields["api_secret"] = self.account.api_secret
        body = URL.build(query=fields).raw_query_string.encode()
        return ProviderRequest("POST", self._url, {"Content-Type": sms.FORM}, body)

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer to a send means: all segments taken, none of them, or nobody can say."""
        messages = sms.objects(sms.json_object(response.body).get("messages"))
        statuses = [sms.code(message.get("status")) for message in messages]
        reason = None
        if not 200 <= response.status < 300 or not statuses or None in statuses:
            kind, said = sms.kind_of_status(response.status), f"HTTP {response.status}"
        elif 0 not in statuses:
            kind, said = _REFUSALS.get(statuses[0] or 0, OutcomeKind.REJECTED), _said(messages[0])
            reason = SENDER_REFUSED if statuses[0] in (STATUS_SENDER, STATUS_TRIAL) else None
        elif any(statuses):
            refused = next(message for message, status in zip(messages, statuses, strict=True) if status)
            kind, said = (
                OutcomeKind.UNKNOWN,
                f"only {statuses.count(0)} of {len(statuses)} segments taken, {_said(refused)}",
            )
        else:
            message_id = text(messages[0].get("message-id"), 64)
            if _ID.fullmatch(message_id):
                return Outcome(OutcomeKind.ACCEPTED, "queued", response.status, provider_message_id=message_id)
            kind, said = OutcomeKind.UNKNOWN, "taken without a message-id"
        wait = retry_after(response.headers, now) if kind is OutcomeKind.RATE_LIMITED else None
        return Outcome(kind, said, response.status, retry_after_seconds=wait, reason=reason)

    # -- webhooks ----------------------------------------------------------------------------------------------------

    def verify(self, request: WebhookRequest, now: datetime, key: bytes | None = None) -> None:
        """Refuses what Vonage did not sign, by GET, as a form or as JSON."""
        params = dict(_params(request))
        given = text(params.pop("sig", ""), 200).lower()
        if not given:
            raise sms.forged("no sig")
        secrets = filter(None, (self.account.signature_secret, self.account.previous_signature_secret))
        method = self.account.signature_method
        if not sms.is_one_of(given, [_signature(secret, method, params) for secret in secrets]):
            raise sms.forged("the sig is not Vonage's")
        sms.refuse_stale(
            moment(params.get("timestamp")),
            now,
            age_max_seconds=WEBHOOK_MAX_AGE_SECONDS,
            ahead_max_seconds=WEBHOOK_AHEAD_SECONDS,
        )

    def parse(self, request: WebhookRequest) -> Sequence[Evidence]:
        """The fact in a delivery receipt, or in a message that somebody sent to us."""
        params = _params(request)
        message_id = text(params.get("messageId") or params.get("message-id"), 64)
        if not _ID.fullmatch(message_id):
            raise sms.malformed("no messageId")
        occurred_at = moment(params.get("message-timestamp")) or request.received_at
        if params.get("status"):
            return (_receipt(message_id, params, occurred_at),)
        if "text" in params or "type" in params:
            return (_inbound(message_id, params, occurred_at),)
        raise sms.malformed("neither a status nor a text")


_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _params(request: WebhookRequest) -> Mapping[str, Any]:
    """The parameters, wherever the account has them put: those that are read are those that were signed.

    Raises WebhookRefused for what has no signature by Vonage's rules.
    """
    if not request.body:
        return dict(sms.query_pairs(request.url))
    if sms.media_type(request) == sms.FORM:
        return dict(sms.form_pairs(request.body))
    params = sms.json_object(request.body)
    if any(isinstance(value, (dict, list)) for value in params.values()):
        raise sms.malformed("a parameter that is no value")
    return params


def _signature(secret: str, method: SignatureMethod, params: Mapping[str, Any]) -> str:
    """HMAC over ``&name=value`` in the order of names, what would part them within a value replaced."""
    mac = hmac.new(secret.encode(), digestmod=getattr(hashlib, method))
    for name in sorted(params):
        value = params[name]
        if isinstance(value, str):
            value = value.replace("&", "_").replace("=", "_")
        mac.update(f"&{name}={value}".encode("utf-8", "surrogatepass"))
    return mac.hexdigest()


# -- answers to a send -------------------------------------------------------------------------------------------------

#: The sender may not be used where the message goes (a name, in North America): others still get theirs.
STATUS_SENDER: Final = 15
STATUS_TRIAL: Final = 29  # a trial account, and the number is not on its list
#: What each status means, of messages that were all refused.
_REFUSALS: Final[Mapping[int, OutcomeKind]] = {
    1: OutcomeKind.RATE_LIMITED,
    2: OutcomeKind.REJECTED,  # a parameter is missing
    3: OutcomeKind.REJECTED,  # a parameter is invalid
    4: OutcomeKind.UNAUTHORIZED,  # credentials
    5: OutcomeKind.TRANSIENT,  # internal error
    6: OutcomeKind.RECIPIENT_INVALID,  # the number belongs to no network
    7: OutcomeKind.RECIPIENT_INVALID,  # the number is barred
    8: OutcomeKind.UNAUTHORIZED,  # the account is barred
    9: OutcomeKind.UNAUTHORIZED,  # no credit
    14: OutcomeKind.UNAUTHORIZED,  # signature
    STATUS_SENDER: OutcomeKind.UNAUTHORIZED,
    22: OutcomeKind.REJECTED,  # network code
    STATUS_TRIAL: OutcomeKind.UNAUTHORIZED,
}


def _said(message: Mapping[str, Any]) -> str:
    return f"{text(message.get('status'), 10)}: {sms.words(message.get('error-text')) or 'no words'}"


# -- receipts and messages ---------------------------------------------------------------------------------------------

_STATUSES: Final[Mapping[str, Verdict]] = {
    "accepted": ACCEPTED,
    "buffered": ACCEPTED,
    "unknown": ACCEPTED,  # the network has it and does not say what became of it
    "delivered": DELIVERED,
    "expired": SOFT,
    "failed": SOFT,
    "rejected": SOFT,
}
#: What the error code of a message that did not come through says beyond its status.
_CODES: Final[Mapping[int, tuple[Verdict, str]]] = {
    1: (SOFT, "unknown"),
    2: (SOFT, "absent for now"),
    3: (HARD, "absent for good"),
    4: (HARD, "barred by the user"),
    5: (SOFT, "lost between carriers"),
    6: (REPUTATION, "rejected as spam"),
    7: (SOFT, "handset busy"),
    8: (GAVE_UP, "network error"),
    9: (OPTED_OUT, "the recipient asked not to be sent to"),
    10: (CONTENT, "invalid message"),
    11: (GAVE_UP, "no route"),
    12: (SOFT, "destination unreachable"),
    13: (CONTENT, "not for the recipient's age"),
    14: (SOFT, "blocked by the carrier"),
    15: (SOFT, "no prepaid credit"),
    99: (GAVE_UP, "general error"),
}
_FINAL: Final = frozenset({"expired", "failed", "rejected"})


def _receipt(message_id: str, params: Mapping[str, Any], occurred_at: datetime) -> Evidence:
    """A delivery receipt in our words; there is one for each segment, all with our reference."""
    status, code = text(params.get("status"), 40).lower(), sms.code(params.get("err-code"))
    verdict, meaning = _STATUSES.get(status, OTHER), ""
    if status in _FINAL and code is not None:
        verdict, meaning = _CODES.get(code, (verdict, ""))
    delivery_id, attempt_no = sms.correlation(params.get("client-ref"))
    return Evidence(
        kind=verdict.kind,
        event_key=f"{message_id}:{status}:{'' if code is None else code}",
        occurred_at=occurred_at,
        delivery_id=delivery_id,
        attempt_no=attempt_no,
        provider_message_id=message_id,
        address=e164(text(params.get("msisdn"), 60)),
        bounce_class=verdict.bounce_class,
        suppress_reason=verdict.suppress_reason,
        data=sms.told(status=status, code=code, meaning=meaning, network=text(params.get("network-code"), 20)),
    )


def _inbound(message_id: str, params: Mapping[str, Any], occurred_at: datetime) -> Evidence:
    """A message to us. A part of a longer one is no keyword, whatever it says: its words belong to the others."""
    whole = text(params.get("concat"), 10).lower() != "true"
    return inbound_evidence(
        message_id=message_id,
        sender=text(params.get("msisdn"), 60),
        receiver=text(params.get("to"), 60),
        keyword=keyword_of(text(params.get("text"), 2000)) if whole else None,
        occurred_at=occurred_at,
    )
