"""Devices: registered by the app itself with its recipient's token, or by the tenant's backend with a key (R-053)."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from litestar import Controller, Request, Response, delete, get, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED
from pydantic import BaseModel, ConfigDict, Field

from app.api.auth import Scope, authenticate
from app.api.paging import lists, read_query
from app.api.recipient_auth import presents_key, recipient_of
from app.api.schemas import Body, Line, RecipientId, read_model, takes
from app.api.state import Api, ApiState
from app.domain.models import Channel, Platform
from app.errors import FieldError, Forbidden, InvalidFields, NotFound
from app.providers.guarded import check_url
from app.settings import Settings
from app.store import devices
from app.store.devices import RegisteredDevice, Registration

TOKEN_CHARS_MAX = 2048
HEX = re.compile(r"(?:[0-9a-f]{2})+")  # of any length: Apple may change it (APNs, "never assume token length")
P256DH_BYTES, AUTH_BYTES = 65, 16  # RFC 8291, 3.1 and 3.2: an uncompressed point, and a secret
FCM = "fcm"

Key = Annotated[Line, Field(min_length=1, max_length=200)]


class SubscriptionKeys(Body):
    p256dh: Annotated[str, Field(max_length=100, description="65 bytes, base64url")]
    auth: Annotated[str, Field(max_length=30, description="16 bytes, base64url")]


class PushSubscription(Body):
    """A browser's ``PushSubscription`` as its ``toJSON()`` gives it."""

    endpoint: Annotated[str, Field(max_length=TOKEN_CHARS_MAX)]
    keys: SubscriptionKeys
    expirationTime: float | None = None  # noqa: N815 - the browser's name for it; no browser sets it


class RegisterDevice(Body):
    """A device and its token; for the web, the subscription in its place."""

    platform: Annotated[Platform, Field(strict=False)]
    user_id: RecipientId | None = Field(
        default=None, description="whose device: the recipient's id; not needed with a recipient's token"
    )
    device_token: Annotated[str, Field(min_length=1, max_length=TOKEN_CHARS_MAX, pattern="^[!-~]+$")] | None = Field(
        default=None, description="ios: of APNs, in hexadecimal; android: of FCM"
    )
    subscription: PushSubscription | None = Field(default=None, description="web: what pushManager.subscribe() gave")
    app_version: Annotated[Line, Field(min_length=1, max_length=100)] | None = None
    device_key: Key | None = Field(
        default=None, description="the app's own lasting name for the device: a new token replaces its old one"
    )
    environment: Literal["production", "sandbox"] = Field(
        default="production", description="ios: sandbox for development builds"
    )


class DevicesQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: RecipientId | None = Field(default=None, description="required with an API key")


@dataclass(frozen=True, slots=True)
class Devices:
    items: list[RegisteredDevice]


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: a recipient with its token, or with ``recipient_id`` None the tenant itself with a key."""

    tenant_id: int
    recipient_id: str | None


async def asker(request: Request[Any, Any, Any], api: ApiState, *scopes: Scope) -> Asker:
    """With an API key, one of these scopes will do. Raises Unauthenticated, Forbidden, TooManyRequests."""
    if not presents_key(request):
        recipient = await recipient_of(request, api)
        return Asker(recipient.tenant_id, recipient.recipient_id)
    refusal = Forbidden()
    for scope in scopes:
        try:
            caller = await authenticate(request, scope)
        except Forbidden as refused:
            refusal = refused
            continue
        await api.limiter.take(caller)
        return Asker(caller.tenant_id, None)
    raise refusal


class DevicesController(Controller):
    path = "/api/v1/devices"
    tags = ("devices",)

    @post("/register", summary="Register a device", operation_class=takes(RegisterDevice), status_code=HTTP_200_OK)
    async def register(self, request: Request[Any, Any, Any], api: Api) -> Response[RegisteredDevice]:
        """With a recipient's token, or a key with scope `send` or `admin`. At each start of the app: what is known is
        only renewed. 201 for a device that is new. A token that was another recipient's is theirs no more.
        """
        who = await asker(request, api, "send", "admin")
        body = await read_model(request, RegisterDevice)
        registration = _registration(body, who, api.settings)
        async with api.db.transaction(durable=True) as conn:
            registered = await devices.register(conn, registration)
        if registered is None:
            raise InvalidFields(FieldError("user_id", "is not a recipient of this tenant: create it first"))
        device, created = registered
        return Response(device, status_code=HTTP_201_CREATED if created else HTTP_200_OK)

    @get(summary="List a recipient's devices", operation_class=lists(DevicesQuery))
    async def list_live(self, request: Request[Any, Any, Any], api: Api) -> Devices:
        """Those that pushes go to, registered last first; at most 50. With a recipient's token, or a key with scope
        `read`.
        """
        who = await asker(request, api, "read")
        user_id = _whose(read_query(request, DevicesQuery).user_id, who)
        async with api.db.transaction() as conn:
            return Devices(await devices.list_live(conn, who.tenant_id, user_id))

    @delete("/{device_id:uuid}", summary="Remove a device")
    async def remove(self, request: Request[Any, Any, Any], device_id: FromPath[UUID], api: Api) -> None:
        """No more pushes go to it, those under way excepted; at a sign-out, say. May be repeated. With a recipient's
        token, or a key with scope `send` or `admin`.
        """
        who = await asker(request, api, "send", "admin")
        async with api.db.transaction(durable=True) as conn:
            if not await devices.remove(conn, who.tenant_id, device_id, recipient_id=who.recipient_id):
                raise NotFound(f"there is no device {device_id}")


def _registration(body: RegisterDevice, who: Asker, settings: Settings) -> Registration:
    """Raises InvalidFields naming what is wrong for this platform; Forbidden for somebody else's device."""
    token, p256dh, auth = _address(body, settings)
    return Registration(
        tenant_id=who.tenant_id,
        recipient_id=_whose(body.user_id, who),
        platform=str(body.platform),
        token=token,
        environment=body.environment,
        p256dh=p256dh,
        auth=auth,
        device_key=body.device_key,
        app_version=body.app_version,
    )


def _address(body: RegisterDevice, settings: Settings) -> tuple[str, str | None, str | None]:
    """The token, and for the web the subscription's keys."""
    if body.platform == Platform.WEB:
        if body.subscription is None or body.device_token is not None:
            raise InvalidFields(FieldError("subscription", "is required for web, and device_token is not for it"))
        return _subscription(body.subscription, settings)
    if body.device_token is None or body.subscription is not None:
        raise InvalidFields(
            FieldError("device_token", f"is required for {body.platform}, and subscription is not for it")
        )
    return _token(body.device_token, body.platform, settings), None, None


def _whose(user_id: str | None, who: Asker) -> str:
    if who.recipient_id is not None:
        if user_id not in (None, who.recipient_id):
            raise Forbidden("this recipient token is another recipient's: user_id must be its own, or left out")
        return who.recipient_id
    if user_id is None:
        raise InvalidFields(FieldError("user_id", "is required with an API key"))
    return user_id


def _token(token: str, platform: Platform, settings: Settings) -> str:
    """The token in the one way that its gateway writes it, so that the same one is known again."""
    if platform != Platform.IOS or _ios_goes_through_fcm(settings) and ":" in token:
        return token
    if not HEX.fullmatch(token.lower()):
        raise InvalidFields(
            FieldError("device_token", "must be an APNs device token in hexadecimal, two digits for each byte")
        )
    return token.lower()


def _ios_goes_through_fcm(settings: Settings) -> bool:
    """Whether iPhones are reached through Firebase here; their tokens are then Firebase's, which hold a colon."""
    return any(settings.providers[name].get("adapter") == FCM for name in settings.accounts(Channel.PUSH, Platform.IOS))


def _subscription(subscription: PushSubscription, settings: Settings) -> tuple[str, str, str]:
    """Endpoint and keys. The endpoint is an address that a stranger gives us to call, so it must be a public one."""
    wrong = []
    try:
        check_url(subscription.endpoint, settings.endpoints)
    except ValueError as refused:
        wrong.append(FieldError("subscription.endpoint", str(refused)))
    p256dh, auth = _decoded(subscription.keys.p256dh), _decoded(subscription.keys.auth)
    if not _is_public_key(p256dh):
        wrong.append(
            FieldError("subscription.keys.p256dh", f"must be a P-256 public key: {P256DH_BYTES} bytes, base64url")
        )
    if len(auth) != AUTH_BYTES:
        wrong.append(FieldError("subscription.keys.auth", f"must be {AUTH_BYTES} bytes, base64url"))
    if wrong:
        raise InvalidFields(*wrong)
    return subscription.endpoint, _encoded(p256dh), _encoded(auth)


def _is_public_key(point: bytes) -> bool:
    """Whether a message can be encrypted for it: a point that is not on the curve would fail every push."""
    if len(point) != P256DH_BYTES or point[0] != 4:
        return False
    try:
        EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
    except ValueError:
        return False
    return True


def _decoded(text: str) -> bytes:
    """Empty for what is no base64url, which is too short for anything. Some apps write the usual alphabet."""
    bare = text.rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


routes = [DevicesController]
