"""The sample of `docs/signatures.md`, as it stands there, against real deliveries."""

import json
import re
import time
import unittest
import urllib.request
from pathlib import Path

from azure.core.credentials import AzureKeyCredential
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridPublisherClient
from azure.mgmt.eventgrid.models import EventSubscription, Topic, WebHookEventSubscriptionDestination

import server
import webhook
from server import GROUP, new_name

PAGE = Path(__file__).resolve().parents[3] / "docs" / "signatures.md"


def setUpModule():
    global broker, sink, arm
    broker = server.start_for_module()
    sink = webhook.start_for_module()
    arm = broker.management()
    unittest.addModuleCleanup(arm.close)


def sample():
    """The function of the page."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["is_genuine"]


def rotate(subscription):
    """Makes a key; the answer is those that sign now."""
    url = f"{broker.http}{subscription.id}/rotateSigningKey?api-version=2025-02-15"
    headers = {"authorization": f"Bearer {broker.token}", "content-type": "application/json"}
    request = urllib.request.Request(url, b"{}", headers, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return [key["key"] for key in json.loads(answer.read())["value"]]


class Signatures(unittest.TestCase):
    def test_the_sample_accepts_what_is_signed_and_nothing_else(self):
        topic = arm.topics.begin_create_or_update(
            GROUP, new_name("topic"), Topic(location="local", input_schema="CloudEventSchemaV1_0")
        ).result()
        path = "/" + new_name("hook")
        destination = WebHookEventSubscriptionDestination(endpoint_url=sink.url(path))
        subscription = arm.event_subscriptions.begin_create_or_update(
            topic.id,
            "billing",
            EventSubscription(destination=destination, event_delivery_schema="CloudEventSchemaV1_0"),
        ).result()
        [first] = rotate(subscription)
        both = rotate(subscription)
        self.assertEqual(both[0], first)
        key = arm.topics.list_shared_access_keys(GROUP, topic.name).key1
        with EventGridPublisherClient(
            broker.topic_endpoint(topic, "http"), AzureKeyCredential(key)
        ) as publisher:
            publisher.send(CloudEvent(source="/shop", type="order.paid", data={"name": "Zoë"}))
        [delivery] = sink.deliveries(path)

        is_genuine = sample()
        for secrets in ([both[0]], [both[1]], both):
            self.assertTrue(is_genuine(delivery.headers, delivery.body, secrets))
        self.assertFalse(is_genuine(delivery.headers, delivery.body, []))
        stranger = "whsec_" + "A" * 43 + "="
        self.assertFalse(is_genuine(delivery.headers, delivery.body, [stranger]))
        self.assertFalse(is_genuine(delivery.headers, delivery.body + b" ", both))
        self.assertFalse(is_genuine({}, delivery.body, both))
        for off in (-301, 301):
            now = int(delivery.headers["webhook-timestamp"]) + off
            self.assertFalse(is_genuine(delivery.headers, delivery.body, both, now=now), off)
        self.assertTrue(is_genuine(delivery.headers, delivery.body, both, now=time.time() + 200))


if __name__ == "__main__":
    unittest.main()
