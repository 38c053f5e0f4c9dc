"""APNs: Apple's push gateway, over HTTP/2, as functions of values; and the provider token that its requests share.

Sources: Apple, "Sending notification requests to APNs", "Establishing a token-based connection to APNs", "Handling
notification responses from APNs". What shaped this file:

- A 200 means that Apple has it, not that anybody saw it. Only the device can say so, by its receipt.
- There is no lookup and no promise to drop a second copy. ``apns-collapse-id`` is the same for every copy of a
  notification, so a second one replaces the first on the screen.
- A token may be up to an hour old, and must not be renewed more than once in twenty minutes. It is kept for 45, and all
  accounts of one team and key share it.
- A connection belongs to one team, key and gateway: the request's ``pool`` keeps them apart.
- 410 says since when a device token is dead; a token registered later is another life of it. A bad device token may
  as well be one of the other gateway, so it is doubtful until others of its kind get through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, NamedTuple
from uuid import UUID, uuid5
from weakref import WeakValueDictionary

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app.domain.models import Channel, Outcome, OutcomeKind
from app.errors import FieldError, InvalidFields
from app.providers.base import (
    RECIPIENT_LIMITED,
    SENDER_REFUSED,
    Capabilities,
    Provider,
    ProviderRequest,
    ProviderResponse,
    PushMessage,
    SendContext,
)
from app.providers.push import TIMEOUT_SECONDS, check_size, custom_keys, encode, urgent
from app.providers.reading import at, document, moment, number, retry_after, text

HOSTS: Final = {"production": "https://api.push.apple.com", "sandbox": "https://api.sandbox.push.apple.com"}

PAYLOAD_BYTES_MAX: Final = 4096
DEVICE_TOKEN_CHARS_MAX: Final = 400  # Apple: never assume a length; but it becomes part of a URL
TOKEN_AGE_MAX: Final = timedelta(minutes=45)  # Apple takes one for an hour, and no more than one in 20 minutes
TOKEN_AGE_MIN: Final = timedelta(minutes=20)
CLOCK_STEP: Final = timedelta(minutes=1)  # how far our clock may step back before the token is made anew
STRAGGLING: Final = timedelta(seconds=30)  # after this no answer to a call is under way any more

_ID: Final = re.compile(r"[A-Z0-9]{10}")
_TOPIC: Final = re.compile(r"[A-Za-z0-9.-]{1,255}")
_BASE_URL: Final = re.compile(r"https?://[^/?#@\s]+")
_DEVICE_TOKEN: Final = re.compile(rf"[0-9A-Fa-f]{{1,{DEVICE_TOKEN_CHARS_MAX}}}")


@dataclass(frozen=True, slots=True)
class ApnsAccount:
    """One app, and the key that signs for its team. Raises ValueError for what could not work.

    key: the ``.p8`` file's PEM (so ``key_file`` names it). topic: the app's bundle id.
    base_url: in place of both of Apple's gateways, for a sandbox; trust: the CA bundle that vouches for it.
    """

    key_id: str
    team_id: str
    topic: str
    key: str = field(repr=False)
    base_url: str | None = None
    trust: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("key_id", self.key_id), ("team_id", self.team_id)):
            if not _ID.fullmatch(value):
                raise ValueError(f"{name} must be ten capital letters and digits")
        if not _TOPIC.fullmatch(self.topic):
            raise ValueError("topic must be the app's bundle id, such as com.example.app")
        if self.base_url is not None and not _BASE_URL.fullmatch(self.base_url):
            raise ValueError("base_url must be http(s)://host[:port], without a path")
        _load_key(self.key)


class Apns(Provider[PushMessage]):
    """One app at APNs behind the Provider protocol."""

    name: ClassVar[str] = "apns"
    capabilities = Capabilities(
        channel=Channel.PUSH,
        confirms_delivery=True,
        can_look_up=False,
        accepts_client_id=True,
        transport="http2",
    )

    def __init__(self, account: ApnsAccount) -> None:
        self.account = account
        self._token = ProviderToken.of(account)

    def build(self, message: PushMessage, context: SendContext) -> ProviderRequest:
        """The request to the gateway the device's token comes from."""
        device = message.device
        if not _DEVICE_TOKEN.fullmatch(device.token):
            raise InvalidFields(FieldError("device.token", "must be the device token in hexadecimal"))
        if device.environment not in HOSTS:
            raise InvalidFields(FieldError("device.environment", f"must be one of {', '.join(HOSTS)}"))
        body = encode(_payload(message))
        check_size(message, len(body), PAYLOAD_BYTES_MAX)
        return ProviderRequest(
            "POST",
            f"{self.account.base_url or HOSTS[device.environment]}/3/device/{device.token}",
            self._headers(message, context),
            body,
            timeout_seconds=TIMEOUT_SECONDS,
            trust=self.account.trust,
            pool=f"apns:{self.account.team_id}:{self.account.key_id}:{device.environment}",
        )

    def _headers(self, message: PushMessage, context: SendContext) -> Mapping[str, str]:
        return {
            "authorization": f"bearer {self._token.take(context.now)}",
            "content-type": "application/json",
            "apns-topic": self.account.topic,
            "apns-push-type": "alert",
            "apns-priority": "10" if urgent(message) else "5",
            "apns-id": str(apns_id(message.delivery_id, message.attempt_no)),
            "apns-collapse-id": message.collapse_id,
            "apns-expiration": str(max(0, int(message.expires_at.timestamp()))),
        }

    def interpret(self, response: ProviderResponse, now: datetime) -> Outcome:
        """What the answer means, by its reason."""
        status, payload = response.status, document(response.body)
        reason = text(at(payload, "reason"), 60)
        expired = (status, reason) == (403, "ExpiredProviderToken")
        renewed = self._token.answered(now, taken=status == 200, expired=expired)
        if status == 200:
            return _accepted(response)
        meaning = _REASONS.get((status, reason)) or _STATUSES.get(status) or _other(status)
        kind = OutcomeKind.TRANSIENT if renewed else meaning.kind
        return Outcome(
            kind,
            f"{status} {reason}".rstrip(),
            status,
            retry_after_seconds=retry_after(response.headers, now),
            reason=meaning.named,
            invalid_since=_since(payload) if kind is OutcomeKind.RECIPIENT_INVALID else None,
            doubtful=meaning.doubtful,
        )


def apns_id(delivery_id: UUID, attempt_no: int) -> UUID:
    """Ours, so that it is known before anybody answers: it follows from the attempt alone."""
    return uuid5(delivery_id, str(attempt_no))


def _payload(message: PushMessage) -> dict[str, Any]:
    if "aps" in message.data:
        raise InvalidFields(FieldError("data.aps", "is Apple's own key: name it otherwise"))
    alert = {"title": message.title, "subtitle": message.subtitle, "body": message.body}
    aps: dict[str, Any] = {
        "alert": {name: words for name, words in alert.items() if words},
        "thread-id": message.category,
    }
    if message.badge is not None:
        aps["badge"] = message.badge
    if message.sound is not None:
        aps["sound"] = message.sound
    if message.image is not None or message.receipt_url is not None:
        aps["mutable-content"] = 1  # wakes the app's service extension, which fetches the image and acknowledges
    image = {} if message.image is None else {"image": message.image}
    return {"aps": aps} | image | custom_keys(message)


# -- the provider token ------------------------------------------------------------------------------------------------


class ProviderToken:
    """The JWT that says who we are: one for all requests, made anew every 45 minutes, or once Apple calls it expired.

    Nothing in an answer tells which token its call carried. So calls under way are counted: when a token is dropped,
    as many answers may still speak of it; one more that says "expired" speaks of the new one, and then it is not the
    token's age that is wrong but, most likely, a clock. A call that nobody answers is forgotten within a minute.
    """

    _shared: ClassVar[WeakValueDictionary[tuple[str, str, str], ProviderToken]] = WeakValueDictionary()

    @classmethod
    def of(cls, account: ApnsAccount) -> ProviderToken:
        """The one of this team and key, whichever accounts use it: Apple counts how often they make a new one together.

        It lives as long as one of them does, so an account that is made anew goes on with the token it had.
        """
        signer = (account.team_id, account.key_id, account.key)
        token = cls._shared.get(signer)
        if token is None:
            token = cls._shared[signer] = cls(account)
        return token

    def __init__(self, account: ApnsAccount) -> None:
        self._account = account
        self._key = _load_key(account.key)
        self._token = ""
        self._issued_at: datetime | None = None
        self._dropped_at: datetime | None = None
        self._suspect = False  # the token before this one was refused, and this one has not been taken yet
        self._counted_from: datetime | None = None
        self._under_way = 0  # calls since then that were not answered yet
        self._earlier = 0  # calls of the 30 seconds before that were not
        self._straggling = 0  # calls that were under way when the token before was dropped

    def take(self, now: datetime) -> str:
        """The token for one more call."""
        if self._issued_at is None or not -CLOCK_STEP <= now - self._issued_at < TOKEN_AGE_MAX:
            claims = {"iss": self._account.team_id, "iat": int(now.timestamp())}
            self._token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._account.key_id})
            self._issued_at = now
        self._forget_unanswered(now)
        self._under_way += 1
        return self._token

    def _forget_unanswered(self, now: datetime) -> None:
        """Begins to count anew every 30 seconds: what is not answered by the end of the next 30 never is."""
        passed = timedelta.max if self._counted_from is None else abs(now - self._counted_from)
        if passed >= STRAGGLING:
            self._earlier = self._under_way if passed < 2 * STRAGGLING else 0
            self._under_way, self._counted_from = 0, now

    def answered(self, now: datetime, *, taken: bool, expired: bool) -> bool:
        """Takes note of an answer; True when it found the token expired and the next call will carry another."""
        if self._earlier:
            self._earlier -= 1
        else:
            self._under_way = max(0, self._under_way - 1)
        if taken:
            self._suspect = False
        if not expired:
            return False
        before = self._dropped_at is not None and now - self._dropped_at < STRAGGLING and self._straggling > 0
        if self._issued_at is None or before:
            self._straggling = max(0, self._straggling - 1)
            return True
        if self._suspect and now - self._issued_at < TOKEN_AGE_MIN:
            return False  # Apple would refuse another one so soon
        again, self._suspect = self._suspect, True
        self._forget_unanswered(now)
        self._straggling, self._earlier, self._under_way = self._earlier + self._under_way, 0, 0
        self._issued_at, self._dropped_at = None, now
        return not again


def _load_key(pem: str) -> EllipticCurvePrivateKey:
    """Raises ValueError, without a word of the key."""
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("key must be the PEM of the .p8 file that Apple gave out")
    return key


# -- answers -----------------------------------------------------------------------------------------------------------


class _Meaning(NamedTuple):
    kind: OutcomeKind
    named: str | None = None
    doubtful: bool = False


_AGAIN: Final = _Meaning(OutcomeKind.TRANSIENT)
_OURS: Final = _Meaning(OutcomeKind.UNAUTHORIZED)
_ONE_GATEWAYS: Final = _Meaning(OutcomeKind.UNAUTHORIZED, SENDER_REFUSED)
_THIS_MESSAGE: Final = _Meaning(OutcomeKind.REJECTED)
_DEAD: Final = _Meaning(OutcomeKind.RECIPIENT_INVALID)
_UNCLEAR: Final = _Meaning(OutcomeKind.UNKNOWN)

#: Apple's table of reasons. ``TooManyRequests`` counts the pushes to one device: the others need not wait for it. A key
#: may be good for one of the two gateways only: one development build that registers must not stop everybody's pushes.
#: The topic is the account's, and a wrong one is wrong for every message: that is never SENDER_REFUSED.
_REASONS: Final[Mapping[tuple[int, str], _Meaning]] = {
    (400, "BadCollapseId"): _THIS_MESSAGE,
    (400, "BadDeviceToken"): _Meaning(OutcomeKind.RECIPIENT_INVALID, "bad_device_token", doubtful=True),
    (400, "BadExpirationDate"): _THIS_MESSAGE,
    (400, "BadMessageId"): _THIS_MESSAGE,
    (400, "BadPriority"): _THIS_MESSAGE,
    (400, "BadTopic"): _OURS,
    (400, "DeviceTokenNotForTopic"): _Meaning(
        OutcomeKind.RECIPIENT_INVALID, "device_token_not_for_topic", doubtful=True
    ),
    (400, "DuplicateHeaders"): _THIS_MESSAGE,
    (400, "IdleTimeout"): _AGAIN,
    (400, "InvalidPushType"): _THIS_MESSAGE,
    (400, "MissingDeviceToken"): _THIS_MESSAGE,
    (400, "MissingTopic"): _OURS,
    (400, "PayloadEmpty"): _THIS_MESSAGE,
    (400, "TopicDisallowed"): _OURS,
    (403, "BadCertificate"): _OURS,
    (403, "BadCertificateEnvironment"): _ONE_GATEWAYS,
    (403, "BadEnvironmentKeyIdInToken"): _ONE_GATEWAYS,
    (403, "ExpiredProviderToken"): _OURS,  # unless another token is on its way: ``ProviderToken.answered``
    (403, "Forbidden"): _OURS,
    (403, "InvalidProviderToken"): _OURS,
    (403, "MissingProviderToken"): _OURS,
    (403, "UnrelatedKeyIdInToken"): _OURS,
    (404, "BadPath"): _THIS_MESSAGE,
    (405, "MethodNotAllowed"): _THIS_MESSAGE,
    (410, "ExpiredToken"): _DEAD,
    (410, "Unregistered"): _DEAD,
    (413, "PayloadTooLarge"): _THIS_MESSAGE,
    (429, "TooManyProviderTokenUpdates"): _OURS,
    (429, "TooManyRequests"): _Meaning(OutcomeKind.RATE_LIMITED, RECIPIENT_LIMITED),
    (500, "InternalServerError"): _UNCLEAR,
    (503, "ServiceUnavailable"): _AGAIN,
    (503, "Shutdown"): _AGAIN,
}

#: For reasons that Apple has not told of yet. A redirect is a wrong base URL: nothing was taken.
_STATUSES: Final[Mapping[int, _Meaning]] = {
    **dict.fromkeys((301, 302, 307, 308), _OURS),
    **dict.fromkeys((401, 403), _OURS),
    410: _Meaning(OutcomeKind.RECIPIENT_INVALID, doubtful=True),
    429: _Meaning(OutcomeKind.RATE_LIMITED),
    503: _AGAIN,
}


def _other(status: int) -> _Meaning:
    """A refusal is a refusal, whatever it says; only of the rest nobody knows what became of the message."""
    return _THIS_MESSAGE if 400 <= status < 500 and status != 408 else _UNCLEAR


def _accepted(response: ProviderResponse) -> Outcome:
    """Accepted, if it is Apple who says so: every answer of APNs carries the id."""
    try:
        found = str(UUID(response.headers.get("apns-id", "")))
    except ValueError:
        return Outcome(OutcomeKind.UNKNOWN, "200 without an apns-id", response.status)
    return Outcome(OutcomeKind.ACCEPTED, "accepted", response.status, provider_message_id=found)


def _since(payload: Any) -> datetime | None:
    """When Apple found the device token dead: milliseconds since 1970."""
    milliseconds = number(at(payload, "timestamp"))
    return None if milliseconds is None else moment(milliseconds / 1000)
