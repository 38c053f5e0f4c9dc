"""Every error Landed raises on purpose, as one tree.

    LandedError
    ├── ConfigurationError          start-up refuses; names the setting and what would be right
    ├── InvalidRequest         400  the request cannot be understood
    ├── Unauthenticated        401  no API key, or not one of ours
    ├── Forbidden              403  the key lacks the scope
    ├── NotFound               404
    ├── MethodNotAllowed       405
    ├── Conflict               409  the state of the thing forbids it now
    │   └── KeyInUse           409  another request with this Idempotency-Key is running
    ├── PayloadTooLarge        413
    ├── UnsupportedMediaType   415
    ├── InvalidFields          422  one or more fields are wrong; each named
    │   ├── KeyReused          422  the Idempotency-Key came before with another body
    │   └── TemplateRenderError 422 the template cannot be rendered with these variables
    ├── TooManyRequests        429  slow down; says when to come back
    ├── Unavailable            503  nothing was accepted; try again
    │   └── NotDurable         503  a commit whose durability could not be shown
    └── WebhookRefused              a provider callback that is forged, stale or unreadable (status varies)

Each class carries a stable ``code`` (the tail of the problem's ``type`` URI) and an HTTP status (RFC 9457).
The first line of a class's docstring is the problem's title.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: its JSON path (``variables.order_id``) and what would be right."""

    field: str
    message: str


class LandedError(Exception):
    """Something went wrong"""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or self.title())
        self.detail = detail or self.title()
        self.extra = extra

    @classmethod
    def title(cls) -> str:
        return (cls.__doc__ or "").splitlines()[0].strip()

    @property
    def retry_after_seconds(self) -> float | None:
        """How long the caller should wait before trying again, where that is known."""
        value = self.extra.get("retry_after_seconds")
        return None if value is None else float(value)


class ConfigurationError(LandedError):
    """The configuration is wrong"""

    code = "configuration"


class InvalidRequest(LandedError):
    """The request cannot be understood"""

    code = "invalid-request"
    status = 400


class Unauthenticated(LandedError):
    """Valid credentials are needed"""

    code = "unauthenticated"
    status = 401


class Forbidden(LandedError):
    """The API key lacks the scope for this"""

    code = "forbidden"
    status = 403


class NotFound(LandedError):
    """There is no such thing"""

    code = "not-found"
    status = 404


class MethodNotAllowed(LandedError):
    """This method is not offered here"""

    code = "method-not-allowed"
    status = 405


class Conflict(LandedError):
    """The present state forbids this"""

    code = "conflict"
    status = 409


class KeyInUse(Conflict):
    """A request with this idempotency key is still running"""

    code = "idempotency-key-in-use"


class PayloadTooLarge(LandedError):
    """The request body is too large"""

    code = "payload-too-large"
    status = 413


class UnsupportedMediaType(LandedError):
    """The body must be application/json"""

    code = "unsupported-media-type"
    status = 415


class InvalidFields(LandedError):
    """One or more fields are invalid"""

    code = "invalid-fields"
    status = 422

    def __init__(self, *errors: FieldError, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or "; ".join(f"{e.field}: {e.message}" for e in errors), **extra)
        self.errors = errors


class KeyReused(InvalidFields):
    """The idempotency key was used with another body"""

    code = "idempotency-key-reused"


class TemplateRenderError(InvalidFields):
    """The template cannot be rendered"""

    code = "template-render"


class TooManyRequests(LandedError):
    """Too many requests"""

    code = "too-many-requests"
    status = 429


class Unavailable(LandedError):
    """The service cannot accept this just now"""

    code = "unavailable"
    status = 503


class NotDurable(Unavailable):
    """The commit could not be shown to be durable"""

    code = "not-durable"


class WebhookRefused(LandedError):
    """The webhook was refused"""

    code = "webhook-refused"
    status = 401

    def __init__(self, detail: str, *, reason: str, status: int = 401) -> None:
        """``reason`` is a short stable word (``forged``, ``stale``, ``malformed``) for counters and logs."""
        super().__init__(detail)
        self.reason = reason
        self.http_status = status
