"""Recipients' tokens, minted here or by the tenant itself with the secret that is shown here."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from litestar import Controller, Request, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED
from pydantic import Field

from app.api.auth import CalledBy, requires
from app.api.fields import Reason, known_id
from app.api.headers import header
from app.api.schemas import Body, read_model, takes
from app.api.state import Api
from app.domain import recipient_tokens
from app.errors import FieldError, InvalidFields, NotFound
from app.store import recipient_secrets, recipients

TTL_DEFAULT_SECONDS = 3600
SECRET_PREFIX = "lrs_"  # noqa: S105 - so that scanners of repositories and people know one when they see it

B = TypeVar("B", bound=Body)


class MintToken(Body):
    """How long the token is good."""

    ttl_seconds: int | None = Field(
        default=None,
        ge=1,
        description=f"default: {TTL_DEFAULT_SECONDS}, or inbox.token_ttl_max_seconds where that is less",
    )


class RotateSecret(Body):
    """Why, and how long tokens signed with the secret before stay good."""

    overlap_seconds: int | None = Field(
        default=None, ge=0, description="default: until the last of them expires; 0 when the secret leaked"
    )
    reason: Reason = "rotated"


@dataclass(frozen=True, slots=True)
class MintedToken:
    token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SigningSecret:
    """previous_secret_until: until when tokens signed with the secret before this one stay good."""

    tenant: str
    secret: str = field(repr=False)
    algorithm: str = recipient_tokens.ALGORITHM
    audience: str = recipient_tokens.AUDIENCE
    previous_secret_until: datetime | None = None


class TokensController(Controller):
    path = "/api/v1"
    tags = ("recipient tokens",)

    @post(
        "/recipients/{recipient_id:str}/tokens",
        summary="Mint a recipient's token",
        guards=[requires("send")],
        operation_class=takes(MintToken),
        status_code=HTTP_201_CREATED,
    )
    async def mint(
        self, request: Request[Any, Any, Any], recipient_id: FromPath[str], api: Api, caller: CalledBy
    ) -> MintedToken:
        """With it, a browser or an app reads the inbox of this recipient and no other, and registers its device."""
        body = await _optional(request, MintToken)
        ttl_max = int(api.settings.inbox.token_ttl_max_seconds)
        ttl = min(TTL_DEFAULT_SECONDS, ttl_max) if body.ttl_seconds is None else body.ttl_seconds
        if ttl > ttl_max:
            raise InvalidFields(FieldError("ttl_seconds", f"may be at most {ttl_max}"))
        async with api.db.transaction() as conn:
            if await recipients.get(conn, caller.tenant_id, known_id(recipient_id)) is None:
                raise NotFound(f"there is no recipient {recipient_id!r}")
            secret = await recipient_secrets.current(conn, caller.tenant_id)
        if secret is None:
            async with api.db.transaction(durable=True) as conn:
                secret = await recipient_secrets.ensure(conn, caller.tenant_id, _fresh())
        token, expires_at = recipient_tokens.mint(
            secret, tenant=caller.tenant, recipient_id=recipient_id, now=datetime.now(UTC), ttl_seconds=ttl
        )
        return MintedToken(token, expires_at)

    @post(
        "/recipient-signing-secret",
        summary="Show the secret that signs recipients' tokens",
        guards=[requires("admin")],
        status_code=HTTP_200_OK,
    )
    async def reveal(self, api: Api, caller: CalledBy) -> SigningSecret:
        """For a server that mints tokens itself. The secret is made when first asked for; each look is audited."""
        async with api.db.transaction(durable=True) as conn:
            secret = await recipient_secrets.ensure(conn, caller.tenant_id, _fresh())
            await recipient_secrets.audit(
                conn, caller.tenant_id, actor=caller.actor, action="reveal_signing_secret", reason="asked for"
            )
        return SigningSecret(caller.tenant, secret)

    @post(
        "/recipient-signing-secret/rotate",
        summary="Replace the secret that signs recipients' tokens",
        guards=[requires("admin")],
        operation_class=takes(RotateSecret),
        status_code=HTTP_200_OK,
    )
    async def rotate(self, request: Request[Any, Any, Any], api: Api, caller: CalledBy) -> SigningSecret:
        """Tokens signed with the secret before stay good for the overlap, those of the one before that do not."""
        body = await _optional(request, RotateSecret)
        ttl_max = int(api.settings.inbox.token_ttl_max_seconds)
        overlap = ttl_max if body.overlap_seconds is None else body.overlap_seconds
        if overlap > ttl_max:
            raise InvalidFields(FieldError("overlap_seconds", f"may be at most {ttl_max}: no token lives longer"))
        fresh = _fresh()
        async with api.db.transaction(durable=True) as conn:
            until = await recipient_secrets.rotate(conn, caller.tenant_id, fresh, overlap_seconds=overlap)
            await recipient_secrets.audit(
                conn, caller.tenant_id, actor=caller.actor, action="rotate_signing_secret", reason=body.reason
            )
        return SigningSecret(caller.tenant, fresh, previous_secret_until=until)


def _fresh() -> str:
    return SECRET_PREFIX + secrets.token_urlsafe(32)


async def _optional(request: Request[Any, Any, Any], model: type[B]) -> B:
    """The body, all of whose fields have defaults: none at all will do."""
    announced = header(request.scope, b"content-length") or "0"
    if announced == "0" and header(request.scope, b"transfer-encoding") is None:
        return model()
    return await read_model(request, model)


routes = [TokensController]
