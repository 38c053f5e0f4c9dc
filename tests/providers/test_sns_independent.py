"""Our reading of SNS's signatures against three that others wrote: AWS's validator for Node.js, one for Python, and
the signing side of moto.
"""

from __future__ import annotations

import importlib
import json
import re
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
import requests
from moto import mock_aws
from pytest_httpserver import HTTPServer

from app.errors import WebhookRefused
from app.providers import sns
from app.providers.sns import SnsTrust
from tests.messages import posted
from tests.node_peers import run_node
from tests.providers import sns_signer as signer
from tests.providers.sns_signer import confirmation, signed

BOTH_VERSIONS = SnsTrust((signer.TOPIC,), allow_signature_v1=True)
CHANGED = {"Message": "changed"}
ONE_DIGIT = r"\b(\d\.\d\.\d[a-z]*)\b"


@pytest.fixture
def validatesns(monkeypatch):
    """The library it builds on reads only versions of OpenSSL of one digit each, and refuses 3.0.13: it is helped."""
    search = re.search

    def tolerant(pattern: Any, *args: Any) -> Any:
        return search(r"\b(\d+\.\d+\.\d+[a-z]*)\b" if pattern == ONE_DIGIT else pattern, *args)

    with monkeypatch.context() as patch:
        patch.setattr(re, "search", tolerant)
        return importlib.import_module("validatesns")


def believed(message: dict[str, Any], trust: SnsTrust, pem: bytes, now: datetime) -> bool:
    try:
        sns.verify(sns.read(posted(json.dumps(message))), trust, pem, now)
    except WebhookRefused:
        return False
    return True


NOW = datetime.now(UTC)  # the other validator has a clock of its own

SAMPLES = [
    signed("Hello", when=NOW, version="1"),
    signed("Hello", when=NOW, version="1", Subject="größer"),
    signed({"eventType": "Send", "mail": {"messageId": "ü\n\t"}}, when=NOW, version="1"),
    confirmation(version="1", when=NOW),
    confirmation("UnsubscribeConfirmation", version="1", when=NOW),
    {**signed("Hello", when=NOW, version="1"), **CHANGED},
    {**confirmation(version="1", when=NOW), "Token": "changed"},
    {**confirmation("UnsubscribeConfirmation", version="1", when=NOW), "Token": "changed"},
]


@pytest.mark.parametrize("message", SAMPLES)
def test_the_python_validator_judges_as_we_do(validatesns, message):
    pem = signer.amazon().pem
    try:
        validatesns.validate(message, get_certificate=lambda url: pem)
        theirs = True
    except validatesns.ValidationError:
        theirs = False
    assert theirs == believed(message, BOTH_VERSIONS, pem, NOW) == (message not in SAMPLES[-3:])


VALIDATE = """
const https = require('node:https');
const { EventEmitter } = require('node:events');
https.get = (url, served) => {
  const response = Object.assign(new EventEmitter(), { statusCode: url === given.url ? 200 : 404 });
  served(response);
  process.nextTick(() => { response.emit('data', given.pem); response.emit('end'); });
  return new EventEmitter();
};
const Validator = require('sns-validator');
const one = (message) => new Promise((done) => new Validator().validate(message, (error) => done(error === null)));
answer(await Promise.all(given.messages.map(one)));
"""


def test_the_validator_of_aws_judges_as_we_do():
    pem = signer.amazon().pem
    # It leaves out the token of an UnsubscribeConfirmation, against the documentation: those it cannot judge.
    messages = [message for message in SAMPLES if message["Type"] != "UnsubscribeConfirmation"]
    messages += [signed("Hello", when=NOW), confirmation(when=NOW), {**signed("Hello", when=NOW), **CHANGED}]
    theirs = run_node(VALIDATE, {"messages": messages, "pem": pem.decode(), "url": signer.CERTIFICATE_URL})
    assert theirs == [believed(message, BOTH_VERSIONS, pem, NOW) for message in messages]
    assert {True, False} == set(theirs)


# -- moto ----------------------------------------------------------------------------------------------------


def test_what_moto_signs_is_believed():
    event = {"eventType": "Delivery", "mail": {"messageId": "größer\n"}}
    with mock_aws(), HTTPServer() as receiver:
        receiver.expect_request("/hook", method="POST").respond_with_data("")
        client = boto3.client("sns", "eu-west-1", aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="secret")
        topic = client.create_topic(Name="ses-events")["TopicArn"]
        client.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url_for("/hook"))
        client.publish(TopicArn=topic, Message=json.dumps(event))
        client.close()
        request = posted(receiver.log[0][0].get_data())
        message, trust = sns.read(request), SnsTrust((topic,))
        pem = requests.get(sns.certificate_url(message, trust), timeout=10).content  # moto answers for Amazon
    sns.check_ours(message, request.headers, trust)
    sns.verify(message, trust, pem, datetime.now(UTC))
    assert json.loads(message["Message"]) == event
    with pytest.raises(WebhookRefused, match="not that of SNS"):
        sns.verify(sns.SnsMessage({**message.fields, **CHANGED}), trust, pem, datetime.now(UTC))
