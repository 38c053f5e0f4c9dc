"""Recipients' tokens: what a tenant signed for one recipient, and nothing else, for a while, and no longer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import recipient_tokens
from app.domain.recipient_tokens import BadToken, claimed_tenant, mint, verify

SECRET = "lrs_a-secret-of-the-tests-with-43-characters-in-it"
OTHER = "lrs_another-secret-of-the-tests-just-as-long-as-that"
NOW = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
TTL = 86400
IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=200)


def claims(**changes: Any) -> dict[str, Any]:
    seconds = int(NOW.timestamp())
    made = {"iss": "shop", "sub": "ada", "aud": "landed", "iat": seconds, "exp": seconds + 3600} | changes
    return {name: value for name, value in made.items() if value is not None}


def signed(secret: str = SECRET, **changes: Any) -> str:
    return jwt.encode(claims(**changes), secret, "HS256")


def check(token: str, *secrets: str, now: datetime = NOW) -> recipient_tokens.RecipientClaims:
    return verify(token, secrets or (SECRET,), tenant="shop", now=now, ttl_max_seconds=TTL)


def refused(token: str, *secrets: str, now: datetime = NOW) -> str:
    with pytest.raises(BadToken) as refusal:
        check(token, *secrets, now=now)
    return str(refusal.value)


def part(document: Any) -> str:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], payload: Any, secret: str = SECRET, digest: str = "sha256") -> str:
    """A JWT put together from RFC 7515 alone."""
    text = f"{part(header)}.{part(payload)}"
    return f"{text}.{part(hmac.digest(secret.encode(), text.encode(), digest))}"


NOT_GENUINE = refused("a.b.c")


@given(IDS, st.integers(1, TTL))
def test_what_is_minted_is_what_is_verified(recipient_id, ttl):
    token, expires_at = mint(SECRET, tenant="shop", recipient_id=recipient_id, now=NOW, ttl_seconds=ttl)
    assert claimed_tenant(token) == "shop"
    found = check(token)
    assert (found.tenant, found.recipient_id, found.expires_at) == ("shop", recipient_id, expires_at)
    assert expires_at == NOW + timedelta(seconds=ttl)


def test_the_longest_id_and_name_make_a_token_that_is_read():
    token, _ = mint(SECRET, tenant="s" * 63, recipient_id="\x01" * 200, now=NOW, ttl_seconds=TTL)
    assert len(token) <= recipient_tokens.TOKEN_CHARS_MAX
    assert claimed_tenant(token) == "s" * 63


def test_a_token_that_a_tenant_mints_itself_is_as_good():
    assert check(by_hand({"alg": "HS256", "typ": "JWT"}, claims())).recipient_id == "ada"
    assert check(by_hand({"alg": "HS256"}, claims(aud=["other", "landed"], jti="1", nbf=None))).recipient_id == "ada"


def test_either_of_two_secrets_signs():
    assert check(signed(OTHER), SECRET, OTHER).recipient_id == "ada"
    assert check(signed(SECRET), SECRET, OTHER).recipient_id == "ada"


def test_a_token_has_an_end():
    token = signed()
    assert check(token, now=NOW + timedelta(seconds=3599))
    assert "expired" in refused(token, now=NOW + timedelta(seconds=3600))


def test_a_token_may_not_live_longer_than_is_allowed():
    seconds = int(NOW.timestamp())
    assert check(signed(exp=seconds + TTL))
    assert "at most 86400 seconds" in refused(signed(exp=seconds + TTL + 1))
    # Nor does it become good by waiting.
    assert "at most" in refused(signed(exp=seconds + 10 * TTL), now=NOW + timedelta(seconds=10 * TTL - 60))


def test_a_clock_that_is_a_little_ahead_is_forgiven():
    seconds = int(NOW.timestamp())
    assert check(signed(iat=seconds + 59))
    assert "not good yet" in refused(signed(iat=seconds + 61))
    assert "not good yet" in refused(signed(nbf=seconds + 61))


@pytest.mark.parametrize("name", ["sub", "aud", "iat", "exp"])
def test_every_claim_is_required(name):
    assert f"lacks {name}" in refused(signed(**{name: None}))
    assert f"lacks {name}" in refused(by_hand({"alg": "HS256"}, claims() | {name: None}))


@pytest.mark.parametrize("aud", ["other", ["other"], [], 5, {"landed": 1}, "Landed"])
def test_a_token_for_somebody_else_is_refused(aud):
    assert "aud" in refused(by_hand({"alg": "HS256"}, claims(aud=aud)))


@pytest.mark.parametrize("sub", ["", "a" * 201, 5, ["ada"], "a\x00da", "\ud800", True])
def test_sub_is_an_id_that_a_recipient_can_have(sub):
    assert "sub must be" in refused(by_hand({"alg": "HS256"}, claims(sub=sub)))


@pytest.mark.parametrize("value", ["1", True, [1], -1, 1e300, float("nan"), float("inf"), 10**400, {}])
@pytest.mark.parametrize("name", ["iat", "exp", "nbf"])
def test_times_are_numbers(name, value):
    assert refused(by_hand({"alg": "HS256"}, claims(**{name: value})))


# -- forgeries: one and the same answer ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        signed(OTHER),
        jwt.encode(claims(), None, "none"),
        by_hand({"alg": "none"}, claims()),
        f"{part({'alg': 'none'})}.{part(claims())}.",
        by_hand({"alg": "NONE"}, claims()),
        by_hand({"alg": "HS512"}, claims(), digest="sha512"),
        by_hand({"alg": "HS384"}, claims(), digest="sha384"),
        by_hand({"alg": "RS256"}, claims()),
        by_hand({"alg": ["HS256"]}, claims()),
        by_hand({}, claims()),
        by_hand({"alg": "HS256", "b64": False, "crit": ["b64"]}, claims()),
        by_hand({"alg": "HS256", "crit": ["unheard-of"]}, claims()),
        by_hand({"alg": "HS256"}, claims(iss="other")),
        by_hand({"alg": "HS256"}, ["no", "claims"]),
        by_hand({"alg": "HS256"}, b"no json"),
        by_hand({"alg": "HS256"}, b"[" * 2000),
        by_hand({"alg": "HS256"}, b"\xff\xfe"),
        signed()[:-1],
        signed() + "A",
        "",
        "..",
        "a.b",
        "lk_12345678_" + "x" * 43,
        signed() + "\n",
        "é.b.c",
    ],
)
def test_what_the_tenant_did_not_sign_is_refused_alike(token):
    assert refused(token) == NOT_GENUINE


def test_a_tenant_that_is_not_there_is_refused_alike():
    with pytest.raises(BadToken) as refusal:
        verify(signed(), (), tenant="shop", now=NOW, ttl_max_seconds=TTL)
    assert str(refusal.value) == NOT_GENUINE
    forged = signed(recipient_tokens.NOBODYS_KEY)
    with pytest.raises(BadToken) as refusal:
        verify(forged, (), tenant="shop", now=NOW, ttl_max_seconds=TTL)
    assert str(refusal.value) == NOT_GENUINE


@pytest.mark.parametrize("position", range(0, 180, 3))
def test_a_token_that_was_altered_anywhere_is_refused(position):
    token = signed()
    assert position < len(token) - 1  # some bits of the last character stand for nothing
    other = "B" if token[position] == "A" else "A"
    altered = token[:position] + other + token[position + 1 :]
    assert refused(altered)


@pytest.mark.parametrize("iss", [None, 5, "", "Shop", "a" * 64, "shop\n", {"a": 1}, "sh op"])
def test_a_tenant_that_no_tenant_can_be_is_not_looked_up(iss):
    token = by_hand({"alg": "HS256"}, claims(iss=None) | ({} if iss is None else {"iss": iss}))
    with pytest.raises(BadToken) as refusal:
        claimed_tenant(token)
    assert str(refusal.value) == NOT_GENUINE


@given(st.text(max_size=300))
def test_any_text_is_a_token_or_is_refused(text):
    with pytest.raises(BadToken):
        claimed_tenant(text)


def test_a_very_long_text_is_not_decoded():
    with pytest.raises(BadToken):
        claimed_tenant(by_hand({"alg": "HS256"}, claims(junk="x" * 5000)))


def test_the_algorithm_is_hmac_with_sha256():
    text, _, signature = signed().rpartition(".")
    digest = hmac.digest(SECRET.encode(), text.encode(), hashlib.sha256)
    assert signature == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
