"""Custom topics: every schema published with `azure-eventgrid`, and what a webhook then gets."""

import os
import unittest
from base64 import b64decode
from datetime import datetime, timedelta, timezone
from unittest.mock import patch

from azure.core.credentials import AzureKeyCredential, AzureSasCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, EventGridPublisherClient, generate_sas
from azure.mgmt.eventgrid.models import (
    DynamicDeliveryAttributeMapping,
    EventSubscription,
    EventSubscriptionFilter,
    JsonField,
    JsonFieldWithDefault,
    JsonInputSchemaMapping,
    NumberGreaterThanAdvancedFilter,
    StaticDeliveryAttributeMapping,
    Topic,
    TopicRegenerateKeyRequest,
    WebHookEventSubscriptionDestination,
)

import server
import webhook
from server import GROUP, new_name


def setUpModule():
    global broker, sink, arm
    broker = server.start_for_module()
    sink = webhook.start_for_module()
    arm = broker.management()
    unittest.addModuleCleanup(arm.close)


def make_topic(**properties):
    name = new_name("topic")
    return arm.topics.begin_create_or_update(GROUP, name, Topic(location="local", **properties)).result()


def subscribe(topic, attributes=None, **properties):
    """A webhook subscription to a topic, and the path at which its deliveries arrive."""
    path = "/" + new_name("hook")
    destination = WebHookEventSubscriptionDestination(
        endpoint_url=sink.url(path), delivery_attribute_mappings=attributes
    )
    arm.event_subscriptions.begin_create_or_update(
        topic.id, "billing", EventSubscription(destination=destination, **properties)
    ).result()
    return path


def keys(topic):
    return arm.topics.list_shared_access_keys(GROUP, topic.name)


def event_grid_event(number=1, **properties):
    return EventGridEvent(
        subject="orders/7", event_type="order.paid", data={"n": number}, data_version="2.0", **properties
    )


def cloud_event(number=1, **properties):
    return CloudEvent(source="/shop", type="order.paid", data={"n": number}, **properties)


def sas(topic, scheme, valid_for):
    endpoint = broker.topic_endpoint(topic, scheme)
    expiry = datetime.now(timezone.utc) + valid_for
    return AzureSasCredential(generate_sas(endpoint, keys(topic).key1, expiry))


class Topics:
    """Every test runs over both transports."""

    scheme = None

    def publisher(self, topic, credential=None, endpoint=None):
        if self.scheme == "https":
            # The constructor of the synchronous client drops `connection_verify`.
            environment = patch.dict(os.environ, REQUESTS_CA_BUNDLE=broker.ca)
            environment.start()
            self.addCleanup(environment.stop)
        client = EventGridPublisherClient(
            endpoint or broker.topic_endpoint(topic, self.scheme),
            credential or AzureKeyCredential(keys(topic).key1),
        )
        self.addCleanup(client.close)
        return client

    def check_headers(self, delivery, content_type, **aeg):
        self.assertEqual(delivery.headers["content-type"], content_type)
        self.assertEqual(delivery.headers["aeg-subscription-name"].lower(), "billing")
        self.assertEqual(delivery.headers["aeg-delivery-count"], "0")
        self.assertEqual(delivery.headers["aeg-event-type"], "Notification")
        for name, value in aeg.items():
            self.assertEqual(delivery.headers["aeg-" + name.replace("_", "-")], value, name)

    def test_event_grid_events_reach_a_webhook(self):
        topic = make_topic()
        path = subscribe(topic)
        asked = sink.handshake(path)
        self.assertEqual((asked.method, asked.kind), ("POST", "SubscriptionValidation"))
        time = datetime.now(timezone.utc)
        event = event_grid_event(event_time=time)
        self.publisher(topic).send(event)
        (delivery,) = sink.deliveries(path)
        self.check_headers(
            delivery,
            "application/json; charset=utf-8",
            metadata_version="1",
            data_version="2.0",
            output_event_id=str(event.id),
        )
        (got,) = delivery.json()
        self.assertEqual(got.pop("topic").lower(), topic.id.lower())
        sent_at = got.pop("eventTime")
        self.assertEqual(datetime.fromisoformat(sent_at.replace("Z", "+00:00")), time)
        self.assertEqual(
            got,
            {
                "id": str(event.id),
                "subject": "orders/7",
                "eventType": "order.paid",
                "data": {"n": 1},
                "dataVersion": "2.0",
                "metadataVersion": "1",
            },
        )

    def test_delivery_attributes_arrive_as_headers(self):
        topic = make_topic()
        path = subscribe(
            topic,
            attributes=[
                StaticDeliveryAttributeMapping(name="X-Team", value="billing"),
                StaticDeliveryAttributeMapping(name="X-Secret", value="s3cret", is_secret=True),
                DynamicDeliveryAttributeMapping(name="X-Number", source_field="data.n"),
                DynamicDeliveryAttributeMapping(name="X-Missing", source_field="data.nothing"),
            ],
        )
        self.publisher(topic).send(event_grid_event(number=7))
        (delivery,) = sink.deliveries(path)
        self.assertEqual(delivery.headers["x-team"], "billing")
        self.assertEqual(delivery.headers["x-secret"], "s3cret")
        self.assertEqual(delivery.headers["x-number"], "7")
        self.assertNotIn("x-missing", delivery.headers)
        shown = arm.event_subscriptions.get(topic.id, "billing").destination.delivery_attribute_mappings
        self.assertEqual([mapping.name for mapping in shown][:2], ["X-Team", "X-Secret"])
        self.assertIsNone(shown[1].value, "a secret is not shown")

    def test_a_batch_of_event_grid_events_reaches_a_webhook_one_by_one(self):
        topic = make_topic()
        path = subscribe(topic)
        self.publisher(topic).send([event_grid_event(number) for number in range(20)])
        got = [delivery.json() for delivery in sink.deliveries(path, 20)]
        self.assertTrue(all(len(body) == 1 for body in got))
        self.assertEqual(sorted(body[0]["data"]["n"] for body in got), list(range(20)))

    def test_event_grid_events_are_taken_as_dictionaries(self):
        topic = make_topic()
        path = subscribe(topic)
        event = {
            "id": "d-1",
            "subject": "s",
            "eventType": "order.paid",
            "eventTime": "2026-01-02T03:04:05Z",
            "data": [1, "two", None],
            "dataVersion": "1",
        }
        self.publisher(topic).send(event)
        (got,) = sink.deliveries(path)[0].json()
        self.assertEqual(got["data"], [1, "two", None])

    def test_event_grid_events_are_delivered_as_cloud_events(self):
        topic = make_topic()
        path = subscribe(topic, event_delivery_schema="CloudEventSchemaV1_0")
        asked = sink.handshake(path)
        self.assertEqual(asked.method, "OPTIONS")
        self.assertTrue(asked.headers["WebHook-Request-Origin"])
        time = datetime.now(timezone.utc)
        event = event_grid_event(event_time=time)
        self.publisher(topic).send(event)
        (delivery,) = sink.deliveries(path)
        self.check_headers(
            delivery,
            "application/cloudevents+json; charset=utf-8",
            metadata_version="1.0",
            output_event_id=str(event.id),
        )
        got = CloudEvent.from_dict(delivery.json())
        self.assertEqual((got.id, got.type, got.subject), (str(event.id), "order.paid", "orders/7"))
        self.assertEqual(got.source.lower(), topic.id.lower())
        self.assertEqual(got.time, time)
        self.assertEqual(got.data, {"n": 1})

    def test_cloud_events_reach_a_webhook(self):
        topic = make_topic(input_schema="CloudEventSchemaV1_0")
        path = subscribe(topic)
        event = cloud_event(subject="orders/7", extensions={"tenant": "blue"})
        self.publisher(topic).send(event)
        (delivery,) = sink.deliveries(path)
        self.check_headers(
            delivery,
            "application/cloudevents+json; charset=utf-8",
            metadata_version="1.0",
            output_event_id=str(event.id),
        )
        got = CloudEvent.from_dict(delivery.json())
        for name in ("id", "source", "type", "subject", "time", "data", "extensions"):
            self.assertEqual(getattr(got, name), getattr(event, name), name)
        origin = sink.handshake(path).headers["WebHook-Request-Origin"]
        self.assertEqual(delivery.headers["WebHook-Request-Origin"], origin)

    def test_binary_data_of_a_cloud_event_stays_the_same(self):
        topic = make_topic(input_schema="CloudEventSchemaV1_0")
        path = subscribe(topic)
        data = bytes(range(256))
        event = CloudEvent(
            source="/shop", type="order.paid", data=data, datacontenttype="application/octet-stream"
        )
        self.publisher(topic).send([event])
        got = sink.deliveries(path)[0].json()
        self.assertNotIn("data", got)
        self.assertEqual(b64decode(got["data_base64"]), data)
        self.assertEqual(got["datacontenttype"], "application/octet-stream")

    def test_a_batch_of_cloud_events_meets_the_filters(self):
        topic = make_topic(input_schema="CloudEventSchemaV1_0")
        above = NumberGreaterThanAdvancedFilter(key="data.n", value=7)
        path = subscribe(topic, filter=EventSubscriptionFilter(advanced_filters=[above]))
        self.publisher(topic).send([cloud_event(number) for number in range(10)])
        got = [delivery.json()["data"]["n"] for delivery in sink.deliveries(path, 2)]
        self.assertEqual(sorted(got), [8, 9])
        # Events published later come later, so one that passes proves that none of the others was late.
        self.publisher(topic).send([cloud_event(1), cloud_event(10)])
        got = [delivery.json()["data"]["n"] for delivery in sink.deliveries(path, 3)]
        self.assertEqual(sorted(got), [8, 9, 10])

    def custom_topic(self):
        mapping = JsonInputSchemaMapping(
            id=JsonField(source_field="key"),
            event_type=JsonFieldWithDefault(source_field="kind", default_value="unknown"),
            subject=JsonFieldWithDefault(source_field="about", default_value="nothing"),
            data_version=JsonFieldWithDefault(default_value="3"),
        )
        return make_topic(input_schema="CustomEventSchema", input_schema_mapping=mapping)

    def test_custom_events_are_delivered_as_they_came(self):
        topic = self.custom_topic()
        path = subscribe(topic, event_delivery_schema="CustomInputSchema")
        event = {"key": "k1", "kind": "order.paid", "deep": {"list": [1, 2.5, None]}}
        self.publisher(topic).send(event)
        (delivery,) = sink.deliveries(path)
        self.check_headers(delivery, "application/json; charset=utf-8", output_event_id="k1")
        self.assertEqual(delivery.json(), [event])

    def test_custom_events_are_delivered_by_their_mapping(self):
        topic = self.custom_topic()
        path = subscribe(topic, event_delivery_schema="EventGridSchema")
        event = {"key": "k2", "kind": "order.paid", "n": 5}
        self.publisher(topic).send([event])
        (got,) = sink.deliveries(path)[0].json()
        self.assertEqual(got["id"], "k2")
        self.assertEqual(got["eventType"], "order.paid")
        self.assertEqual(got["subject"], "nothing")
        self.assertEqual(got["dataVersion"], "3")
        self.assertEqual(got["data"], event)

    def test_either_key_and_a_signature_open_a_topic(self):
        topic = make_topic()
        path = subscribe(topic)
        self.publisher(topic, AzureKeyCredential(keys(topic).key1)).send(event_grid_event(1))
        self.publisher(topic, AzureKeyCredential(keys(topic).key2)).send(event_grid_event(2))
        self.publisher(topic, sas(topic, self.scheme, timedelta(hours=1))).send(event_grid_event(3))
        got = [delivery.json()[0]["data"]["n"] for delivery in sink.deliveries(path, 3)]
        self.assertEqual(sorted(got), [1, 2, 3])

    def refused(self, error, status, client, events):
        with self.assertRaises(error) as caught:
            client.send(events)
        if status != 404:  # The client drops the response of a 404.
            self.assertEqual(caught.exception.status_code, status)
            self.assertTrue(caught.exception.error.code)
            self.assertTrue(caught.exception.error.message)

    def test_a_wrong_key_is_refused(self):
        topic = make_topic()
        client = self.publisher(topic, AzureKeyCredential(keys(make_topic()).key1))
        self.refused(ClientAuthenticationError, 401, client, event_grid_event())

    def test_a_replaced_key_is_refused(self):
        topic = make_topic()
        client = self.publisher(topic)
        client.send(event_grid_event())
        arm.topics.begin_regenerate_key(GROUP, topic.name, TopicRegenerateKeyRequest(key_name="key1")).result()
        self.refused(ClientAuthenticationError, 401, client, event_grid_event())

    def test_an_expired_or_altered_signature_is_refused(self):
        topic = make_topic()
        expired = sas(topic, self.scheme, -timedelta(hours=1))
        self.refused(
            ClientAuthenticationError, 401, self.publisher(topic, expired), event_grid_event()
        )
        other = sas(make_topic(), self.scheme, timedelta(hours=1))
        self.refused(ClientAuthenticationError, 401, self.publisher(topic, other), event_grid_event())

    def test_an_unknown_topic_is_not_found(self):
        topic = make_topic()
        endpoint = broker.topic_endpoint(topic, self.scheme).replace(topic.name, "nowhere")
        client = self.publisher(topic, endpoint=endpoint)
        self.refused(ResourceNotFoundError, 404, client, event_grid_event())

    def test_what_is_too_large_is_refused(self):
        topic = make_topic()
        client = self.publisher(topic)
        for size in (1_100_000, 8_000_000):
            event = EventGridEvent("s", "t", {"text": "x" * size}, "1")
            self.refused(HttpResponseError, 413, client, event)
        half = EventGridEvent("s", "t", {"text": "x" * 600_000}, "1")
        self.refused(HttpResponseError, 413, client, [half, half])
        self.refused(HttpResponseError, 413, client, [event_grid_event()] * 5001)
        client.send(half)

    def test_a_malformed_batch_is_refused_as_a_whole(self):
        topic = make_topic()
        path = subscribe(topic)
        client = self.publisher(topic)
        whole = {
            "id": "whole",
            "subject": "s",
            "eventType": "t",
            "eventTime": "2026-01-02T03:04:05Z",
            "data": {},
            "dataVersion": "1",
        }
        for missing in ("id", "subject", "eventType", "eventTime"):
            part = {name: value for name, value in whole.items() if name != missing}
            self.refused(HttpResponseError, 400, client, [whole, part])
        client.send(event_grid_event(9))
        (got,) = sink.deliveries(path)[0].json()
        self.assertEqual(got["data"], {"n": 9})
        self.assertEqual(len(sink.deliveries(path)), 1)

    def test_events_of_another_schema_are_refused(self):
        cloud = make_topic(input_schema="CloudEventSchemaV1_0")
        with self.assertRaises(HttpResponseError) as caught:
            self.publisher(cloud).send(event_grid_event())
        self.assertIn(caught.exception.status_code, (400, 415))
        with self.assertRaises(HttpResponseError) as caught:
            self.publisher(make_topic()).send(cloud_event())
        self.assertIn(caught.exception.status_code, (400, 415))


class TopicsOverHttps(Topics, unittest.TestCase):
    scheme = "https"

    def test_the_authority_may_be_given_with_each_call(self):
        topic = make_topic()
        path = subscribe(topic)
        with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(keys(topic).key1)) as client:
            client.send(event_grid_event(), connection_verify=broker.ca)
        sink.deliveries(path)


class TopicsOverHttp(Topics, unittest.TestCase):
    scheme = "http"


if __name__ == "__main__":
    unittest.main()
