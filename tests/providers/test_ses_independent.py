"""Our requests to SES against AWS's own Python SDK, which builds and signs them, and against moto, which answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from moto.server import ThreadedMotoServer
from pytest_httpserver import HTTPServer
from werkzeug import Request

from app.domain.models import Outcome, OutcomeKind
from app.providers.base import AttemptRef, EmailMessage, ProviderRequest
from app.providers.ses import Ses, SesAccount
from app.providers.transport import Transport
from tests.messages import CONTEXT, DELIVERY, NOW, email_message
from tests.providers.sns_signer import TOPIC

ACCOUNT = SesAccount("eu-west-1", "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", (TOPIC,), insights=True)
MESSAGE = email_message(
    to="zoe@example.com",
    reply_to="Hilfe für Sie <help@example.com>",
    headers={"List-Unsubscribe": "<https://a.example/u?x=1&y=2>", "X-Note": "größer"},
    tags=("spring",),
)
ATTEMPT = AttemptRef(DELIVERY, 2, NOW, "zoe@example.com", "0102018b-aaaa-000000")
ACCOUNTS = [
    ACCOUNT,
    replace(ACCOUNT, session_token="IQoJb3JpZ2luX2VjE/+=="),
    replace(ACCOUNT, base_url="http://127.0.0.1:4100"),
]


# -- signatures ----------------------------------------------------------------------------------------------


def requests_of(account: SesAccount) -> list[ProviderRequest]:
    ses = Ses(account)
    odd = replace(ATTEMPT, provider_message_id="0102/ü ?#%41+~")
    lost = replace(ATTEMPT, provider_message_id=None)
    return [ses.build(MESSAGE, CONTEXT), *(ses.build_lookup(attempt, NOW) for attempt in (ATTEMPT, odd, lost))]


@pytest.mark.parametrize("account", ACCOUNTS)
def test_the_sdk_signs_our_requests_as_we_do(monkeypatch, account):
    monkeypatch.setattr(auth, "get_current_datetime", lambda remove_tzinfo=True: NOW.replace(tzinfo=None))
    credentials = Credentials(account.access_key_id, account.secret_access_key, account.session_token)
    for ours in requests_of(account):
        unsigned = {k: v for k, v in ours.headers.items() if k == "Content-Type"}
        theirs = AWSRequest(ours.method, ours.url, headers=unsigned, data=ours.body)
        auth.SigV4Auth(credentials, "ses", account.region).add_auth(theirs)
        assert theirs.headers["Authorization"] == ours.headers["Authorization"]
        assert theirs.headers["X-Amz-Date"] == ours.headers["X-Amz-Date"]


# -- the shape of a request ----------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer() as server:
        server.expect_request("/v2/email/outbound-emails").respond_with_json({"MessageId": "x"})
        server.expect_request("/v2/email/insights/x/").respond_with_json({"MessageId": "x"})
        server.expect_request("/v2/email/account").respond_with_json({})
        yield server


def sdk(url: str) -> Any:
    return boto3.client(
        "sesv2",
        "eu-west-1",
        endpoint_url=url,
        aws_access_key_id=ACCOUNT.access_key_id,
        aws_secret_access_key=ACCOUNT.secret_access_key,
        config=Config(retries={"total_max_attempts": 1}),
    )


def shape(request: Request) -> tuple[str, str, Any]:
    return request.method, request.path, json.loads(request.get_data() or b"null")


async def test_a_request_is_what_the_sdk_sends(server):
    """The SDK checks what it is given against Amazon's model of the API: every name and type is theirs."""
    url = server.url_for("").rstrip("/")
    ours, client = Ses(replace(ACCOUNT, base_url=url, configuration_set="landed")), sdk(url)
    built = ours.build(MESSAGE, CONTEXT)
    await asyncio.to_thread(client.send_email, **json.loads(built.body))
    await asyncio.to_thread(client.get_message_insights, MessageId="x")
    await asyncio.to_thread(client.get_account)
    client.close()
    theirs = [shape(request) for request, _ in server.log]
    server.clear_log()
    async with Transport() as transport:
        found = replace(ATTEMPT, provider_message_id="x")
        lost = replace(ATTEMPT, provider_message_id=None)
        for request in (built, ours.build_lookup(found, NOW), ours.build_lookup(lost, NOW)):
            await transport.send(request, asyncio.get_running_loop().time() + 10)
    assert [shape(request) for request, _ in server.log] == theirs


# -- moto ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as transport:
        yield transport


async def send(transport: Transport, moto: str, message: EmailMessage, account: SesAccount = ACCOUNT) -> Outcome:
    ses = Ses(replace(account, base_url=moto))
    now = datetime.now(UTC)
    request = ses.build(message, replace(CONTEXT, now=now))
    return ses.interpret(await transport.send(request, asyncio.get_running_loop().time() + 10), now)


async def test_moto_takes_our_message(transport, moto):
    client = sdk(moto)
    await asyncio.to_thread(client.create_email_identity, EmailIdentity="mg.example.com")
    client.close()
    outcome = await send(transport, moto, MESSAGE)
    assert outcome.kind is OutcomeKind.ACCEPTED
    assert outcome.provider_message_id


async def test_moto_refuses_a_sender_that_is_not_verified(transport, moto):
    outcome = await send(transport, moto, replace(MESSAGE, sender="Shop <shop@unverified.example>"))
    assert outcome.kind is OutcomeKind.UNAUTHORIZED
    assert "not verified" in outcome.detail
