"""AWS Signature Version 4, from the receiving side ("Create a signed AWS API request", IAM user guide)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, quote

#: AWS takes requests whose clock is up to this far off.
MAX_SKEW_SECONDS: Final = 300.0

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<key>[^/,\s]+)/(?P<day>\d{8})/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)"
    r"/aws4_request,\s*SignedHeaders=(?P<headers>[a-z0-9;-]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)
_UNRESERVED: Final = "-_.~"


class Unsigned(Exception):
    """A request that AWS turns away for its signature. ``kind`` is AWS's word for it."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as it came. raw_path: still encoded. headers: lower-case names."""

    method: str
    raw_path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


def check(request: SignedRequest, *, key_id: str, secret: str, region: str, service: str, now: datetime) -> None:
    """Raises ``Unsigned`` unless the request is signed with this key for this region and service, just now."""
    given = request.headers.get("authorization")
    if not given:
        raise Unsigned(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
    found = _AUTHORIZATION.fullmatch(given.strip())
    date = request.headers.get("x-amz-date", "")
    if not found or not re.fullmatch(r"\d{8}T\d{6}Z", date):
        raise Unsigned(400, "IncompleteSignatureException", "Authorization header requires valid SigV4 parameters.")
    if not secrets.compare_digest(found["key"], key_id):
        raise Unsigned(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
    if (found["region"], found["service"], found["day"]) != (region, service, date[:8]):
        expected = f"Credential should be scoped to a valid region and service: {region}/{service}."
        raise Unsigned(403, "InvalidSignatureException", expected)
    sent_at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs((now - sent_at).total_seconds()) > MAX_SKEW_SECONDS:
        raise Unsigned(403, "InvalidSignatureException", f"Signature expired: {date} is too far from the current time")
    signed = found["headers"].split(";")
    if not {"host", "x-amz-date"} <= set(signed) or not secrets.compare_digest(
        _signature(request, signed, date=date, secret=secret, region=region, service=service), found["signature"]
    ):
        message = "The request signature we calculated does not match the signature you provided."
        raise Unsigned(403, "InvalidSignatureException", message)


def _signature(request: SignedRequest, signed: list[str], *, date: str, secret: str, region: str, service: str) -> str:
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    canonical = hashlib.sha256(_canonical(request, signed).encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{canonical}"
    key = f"AWS4{secret}".encode()
    for part in (date[:8], region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def _canonical(request: SignedRequest, signed: list[str]) -> str:
    """The canonical request. Every service but S3 encodes the path once more than it travels."""
    pairs = sorted(
        (quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED))
        for name, value in parse_qsl(request.query, keep_blank_values=True)
    )
    headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in signed)
    return "\n".join(
        [
            request.method,
            quote(request.raw_path, safe="/" + _UNRESERVED),
            "&".join(f"{name}={value}" for name, value in pairs),
            headers,
            ";".join(signed),
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
