"""Our texts through Amazon against AWS's own Python SDK: its model of the API reads what we write, its signer signs the
same, and its client sends through our sandbox and understands what that refuses.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import boto3
import botocore.session
import httpx
import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request

from app.providers import aws_sms
from app.providers.aws_sms import AwsSms, AwsSmsAccount
from app.providers.base import ProviderResponse
from tests.messages import CONTEXT, NOW, sms_message
from tests.providers.sns_signer import TOPIC
from tests.sandbox_process import SandboxProcess

KEY_ID, SECRET = "AKIASANDBOXLANDED000", "sandbox-secret-access-key"
ACCOUNT = AwsSmsAccount("eu-west-1", KEY_ID, SECRET, "+14155550100", "landed", (TOPIC,))
MESSAGE = sms_message(text="Größe: 5 & mehr = 100% {€} + 😀", expires_at=NOW + timedelta(hours=1))
ACCOUNTS = [
    ACCOUNT,
    replace(ACCOUNT, session_token="IQoJb3JpZ2luX2VjE/+=="),
    replace(ACCOUNT, base_url="http://127.0.0.1:4100"),
    replace(ACCOUNT, price_max="0.20", test_mode=True, message_type="PROMOTIONAL"),
    replace(ACCOUNT, sender="arn:aws:sms-voice:eu-west-1:123456789012:pool/pool-a1", configuration_set="a/b:c"),
]
MODEL = botocore.session.Session().get_service_model("pinpoint-sms-voice-v2")
OPERATION = MODEL.operation_model("SendTextMessage")
_areas = count(201)


def sdk(url: str, secret: str = SECRET) -> Any:
    return boto3.client(
        "pinpoint-sms-voice-v2",
        "eu-west-1",
        endpoint_url=url,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


# -- the model of the API ------------------------------------------------------------------------------------


def problems(body: bytes) -> str:
    """What botocore finds wrong with an input: names, types and limits are Amazon's. It does not check patterns."""
    given = json.loads(body)
    assert given.keys() <= OPERATION.input_shape.members.keys()
    return str(ParamValidator().validate(given, OPERATION.input_shape).generate_report())


@pytest.mark.parametrize("account", ACCOUNTS)
def test_a_request_fits_amazons_model(account):
    assert problems(AwsSms(account).build(MESSAGE, CONTEXT).body) == ""


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1600).filter(str.strip),
    st.integers(-100, 1_000_000),
)
def test_any_text_of_any_age_fits_amazons_model(text, left):
    message = replace(MESSAGE, text=text, expires_at=NOW + timedelta(seconds=left))
    assert problems(AwsSms(ACCOUNT).build(message, CONTEXT).body) == ""


def test_the_operation_is_called_as_the_model_says():
    assert MODEL.metadata["signingName"] == "sms-voice"
    assert f"{MODEL.metadata['targetPrefix']}.{OPERATION.name}" == aws_sms.TARGET
    assert f"application/x-amz-json-{MODEL.metadata['jsonVersion']}" == aws_sms.CONTENT_TYPE
    limits = OPERATION.input_shape.members
    assert limits["MessageBody"].metadata["max"] == aws_sms.TEXT_CHARS_MAX
    assert tuple(limits["TimeToLive"].metadata[end] for end in ("min", "max")) == aws_sms.VALIDITY_SECONDS


def test_every_reason_and_event_we_know_is_amazons():
    """None is misspelt, and of the events of texts none is forgotten."""
    reasons = {
        reason
        for shape in OPERATION.error_shapes
        if "Reason" in shape.members
        for reason in shape.members["Reason"].enum
    }
    assert aws_sms._REASONS.keys() | aws_sms._OF_A_FIELD <= reasons
    assert aws_sms._FIELDS.keys() <= OPERATION.input_shape.members.keys()
    events = {kind for kind in MODEL.shape_for("EventType").enum if kind.startswith("TEXT_")}
    assert aws_sms._TYPES.keys() == events - {"TEXT_ALL"}


# -- signatures and the shape of a request -------------------------------------------------------------------


@pytest.mark.parametrize("account", ACCOUNTS)
def test_the_sdk_signs_our_requests_as_we_do(monkeypatch, account):
    monkeypatch.setattr(auth, "get_current_datetime", lambda remove_tzinfo=True: NOW.replace(tzinfo=None))
    credentials = Credentials(account.access_key_id, account.secret_access_key, account.session_token)
    ours = AwsSms(account).build(MESSAGE, CONTEXT)
    unsigned = {name: value for name, value in ours.headers.items() if name in ("Content-Type", "X-Amz-Target")}
    theirs = AWSRequest(ours.method, ours.url, headers=unsigned, data=ours.body)
    auth.SigV4Auth(credentials, "sms-voice", account.region).add_auth(theirs)
    assert theirs.headers["Authorization"] == ours.headers["Authorization"]
    assert theirs.headers["X-Amz-Date"] == ours.headers["X-Amz-Date"]


def shape(request: Request) -> tuple[Any, ...]:
    headers = (request.headers[name] for name in ("Content-Type", "X-Amz-Target"))
    return request.method, request.path, *headers, json.loads(request.get_data())


async def test_a_request_is_what_the_sdk_sends():
    with HTTPServer() as server:
        server.expect_request("/", "POST").respond_with_json({"MessageId": "x"})
        url = server.url_for("").rstrip("/")
        built = AwsSms(replace(ACCOUNT, base_url=url)).build(MESSAGE, CONTEXT)
        client = sdk(url)
        await asyncio.to_thread(client.send_text_message, **json.loads(built.body))
        client.close()
        async with httpx.AsyncClient() as ours:
            await ours.post(built.url, headers=dict(built.headers), content=built.body)
        theirs, mine = (shape(request) for request, _ in server.log)
    assert mine == theirs


# -- the SDK through our sandbox -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox") / "ledger.jsonl", hold_seconds=1) as process:
        yield process


@pytest.fixture(scope="module")
def client(sandbox: SandboxProcess) -> Iterator[Any]:
    client = sdk(sandbox.url)
    yield client
    client.close()


def fields(number: str = "0100", **changes: Any) -> dict[str, Any]:
    """A send as an SDK's user writes it, to a number of its own that plays the script of these digits."""
    return {
        "DestinationPhoneNumber": f"+1{next(_areas)}555{number}",
        "OriginationIdentity": "+14155550100",
        "MessageBody": "Größe 1 €",
        "ConfigurationSetName": "landed",
    } | changes


def test_the_sdk_sends_through_the_sandbox(sandbox, client):
    delivery = str(uuid4())
    given = fields(Context={"landed_reference": f"{delivery}.2"}, TimeToLive=60, MaxPrice="0.20")
    answer = client.send_text_message(**given)
    [accepted] = sandbox.ledger(kind="accepted", recipient=given["DestinationPhoneNumber"])
    assert accepted["message_id"] == answer["MessageId"]
    assert (accepted["landed_delivery"], accepted["landed_attempt"]) == (delivery, "2")
    assert "Größe" not in sandbox.ledger_path.read_text()


def test_a_dry_run_is_answered_and_nothing_is_sent(sandbox, client):
    given = fields(DryRun=True)
    assert client.send_text_message(**given)["MessageId"]
    assert not sandbox.ledger(kind="accepted", recipient=given["DestinationPhoneNumber"])


REFUSALS = [
    ("0160", {}, "ThrottlingException", {}),
    ("0162", {}, "UnrecognizedClientException", {}),
    ("0163", {}, "ConflictException", {"Reason": "NO_ORIGINATION_IDENTITIES_FOUND"}),
    ("0164", {}, "ValidationException", {"Reason": "INVALID_PARAMETER"}),
    ("0166", {}, "ValidationException", {"Reason": "INVALID_PARAMETER"}),
    ("0168", {}, "ConflictException", {"Reason": "DESTINATION_PHONE_NUMBER_OPTED_OUT"}),
    ("0100", {"MessageBody": "  "}, "ValidationException", {"Reason": "INVALID_PARAMETER"}),
    ("0100", {"OriginationIdentity": "My Shop"}, "ValidationException", {"Reason": "INVALID_PARAMETER"}),
    ("0100", {"ConfigurationSetName": "another"}, "ResourceNotFoundException", {}),
]


@pytest.mark.parametrize(("number", "changes", "code", "more"), REFUSALS)
def test_the_sdk_understands_what_the_sandbox_refuses(client, number, changes, code, more):
    with pytest.raises(ClientError) as caught:
        client.send_text_message(**fields(number, **changes))
    response = caught.value.response
    assert response["Error"]["Code"] == code
    assert more.items() <= response.items()
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize(
    ("number", "changes", "field"),
    [("0164", {}, "DestinationPhoneNumber"), ("0100", {"OriginationIdentity": "My Shop"}, "OriginationIdentity")],
)
def test_the_sandbox_names_the_field_at_fault(client, number, changes, field):
    with pytest.raises(client.exceptions.ValidationException) as caught:
        client.send_text_message(**fields(number, **changes))
    assert [found["Name"] for found in caught.value.response["Fields"]] == [field]


def test_the_sandbox_lets_nobody_in_who_signed_with_another_key(sandbox):
    stranger = sdk(sandbox.url, "another-secret")
    with pytest.raises(ClientError, match="InvalidSignatureException"):
        stranger.send_text_message(**fields())
    stranger.close()


def test_the_sandbox_knows_no_other_operation(client):
    with pytest.raises(ClientError, match="UnknownOperationException"):
        client.describe_pools()


def test_our_adapter_reads_the_refusals_as_the_sdk_does(sandbox, client):
    """The same answer, told twice: by the SDK's words and by our adapter's detail."""
    aws = AwsSms(replace(ACCOUNT, base_url=sandbox.url))
    for number, _, code, more in REFUSALS[:6]:
        message = replace(MESSAGE, to=fields(number)["DestinationPhoneNumber"])
        request = aws.build(message, replace(CONTEXT, now=datetime.now(UTC)))
        told = httpx.post(request.url, headers=dict(request.headers), content=request.body)
        headers = {name.lower(): value for name, value in told.headers.items()}
        detail = aws.interpret(ProviderResponse(told.status_code, headers, told.content), NOW).detail
        assert all(word in detail for word in (code, *more.values()))
