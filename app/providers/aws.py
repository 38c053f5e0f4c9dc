"""What the adapters of Amazon's services share: signed requests, and the names of what is refused.

Sources: "Create a signed AWS API request" (IAM User Guide) and "Common error types" of the services' API references.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from app.providers.base import ProviderResponse
from app.providers.reading import at, text

REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}")

#: The names by which any service refuses who calls it; some come with a 400, some with a 403.
NOT_LET_IN: Final = frozenset(
    {
        "AccessDeniedException",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",  # a clock is wrong, or the credentials are
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


def error_name(response: ProviderResponse, payload: Any) -> str:
    """The error's name, from the header or the body: without its namespace, and what follows a colon."""
    given = response.headers.get("x-amzn-errortype") or text(at(payload, "code")) or text(at(payload, "__type"))
    return given.partition(":")[0].rpartition("#")[2].strip()


# -- Signature Version 4 -------------------------------------------------------------------------------------


class Credentials(NamedTuple):
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


_ALGORITHM: Final = "AWS4-HMAC-SHA256"


def sign(
    credentials: Credentials,
    *,
    region: str,
    service: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> dict[str, str]:
    """The headers of a request with its signature (AWS Signature Version 4). The URL has no query."""
    stamp = f"{now:%Y%m%dT%H%M%SZ}"
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    address = urlsplit(url)
    signed = {**headers, "Host": address.netloc, "X-Amz-Date": stamp}
    if credentials.session_token is not None:
        signed["X-Amz-Security-Token"] = credentials.session_token
    canonical = sorted((name.lower(), value.strip()) for name, value in signed.items())
    names = ";".join(name for name, _ in canonical)
    request = "\n".join(
        (
            method,
            quote(address.path, safe="/~"),  # encoded once more than it travels, as for every service but S3
            "",
            *(f"{name}:{value}" for name, value in canonical),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    to_sign = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = _hmac(key, part)
    signature = _hmac(key, to_sign).hex()
    credential = f"{credentials.access_key_id}/{scope}"
    authorization = f"{_ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return {**signed, "Authorization": authorization}


def _hmac(key: bytes, message: str) -> bytes:
    return hmac.new(key, message.encode(), hashlib.sha256).digest()
