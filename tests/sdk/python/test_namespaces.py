"""Namespace topics: published to and received from with `azure-eventgrid`."""

import time
import unittest

from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridConsumerClient, EventGridPublisherClient
from azure.mgmt.eventgrid.models import (
    DeliveryConfiguration,
    FiltersConfiguration,
    Namespace,
    NamespaceTopic,
    PushInfo,
    Subscription,
    WebHookEventSubscriptionDestination,
)

import server
import webhook
from server import GROUP, SUBSCRIPTION, new_name

# The shortest that the service allows.
SHORT_WAIT = 10


def setUpModule():
    global broker, sink, arm, namespace, keys
    broker = server.start_for_module()
    sink = webhook.start_for_module()
    arm = broker.management()
    unittest.addModuleCleanup(arm.close)
    namespace = arm.namespaces.begin_create_or_update(GROUP, "shop", Namespace(location="local")).result()
    keys = arm.namespaces.list_shared_access_keys(GROUP, "shop")


def event(number=1, **properties):
    return CloudEvent(source="/shop", type="job.created", data={"n": number}, **properties)


def tokens(received):
    return [one.broker_properties.lock_token for one in received]


class Queue:
    """A namespace topic with one pull subscription, and clients for both."""

    def __init__(self, test, filters=None):
        self.test = test
        self.topic = new_name("jobs")
        arm.namespace_topics.begin_create_or_update(GROUP, "shop", self.topic, NamespaceTopic()).result()
        arm.namespace_topic_event_subscriptions.begin_create_or_update(
            GROUP,
            "shop",
            self.topic,
            "workers",
            Subscription(
                delivery_configuration=DeliveryConfiguration(delivery_mode="Queue"),
                filters_configuration=filters,
            ),
        ).result()
        self.publisher = test.publisher(self.topic)
        self.consumer = test.consumer(self.topic)

    def receive(self, count=1):
        """That many events, in one answer or several."""
        received = []
        while len(received) < count:
            more = self.consumer.receive(max_events=count - len(received), max_wait_time=SHORT_WAIT)
            self.test.assertTrue(more, f"received {len(received)} of {count}")
            received += more
        return received

    def check(self, result, succeeded, failed=()):
        self.test.assertEqual(sorted(result.succeeded_lock_tokens), sorted(succeeded))
        got = sorted((one.lock_token, one.error.code) for one in result.failed_lock_tokens)
        self.test.assertEqual(got, sorted(failed))


class Namespaces:
    """Every test runs over both transports."""

    def endpoint(self):
        raise NotImplementedError

    def options(self):
        raise NotImplementedError

    def publisher(self, topic, key=None):
        credential = AzureKeyCredential(key or keys.key1)
        client = EventGridPublisherClient(
            self.endpoint(), credential, namespace_topic=topic, **self.options()
        )
        self.addCleanup(client.close)
        return client

    def consumer(self, topic, subscription="workers", key=None):
        credential = AzureKeyCredential(key or keys.key2)
        client = EventGridConsumerClient(
            self.endpoint(), credential, namespace_topic=topic, subscription=subscription, **self.options()
        )
        self.addCleanup(client.close)
        return client

    def test_an_event_is_received_as_it_was_published(self):
        queue = Queue(self)
        sent = event(subject="jobs/1", extensions={"tenant": "blue"}, dataschema="https://example.org/job")
        queue.publisher.send(sent)
        (received,) = queue.receive()
        self.assertEqual(received.broker_properties.delivery_count, 1)
        for name in ("id", "source", "type", "subject", "time", "data", "dataschema", "extensions"):
            self.assertEqual(getattr(received.event, name), getattr(sent, name), name)
        lock = tokens([received])
        queue.check(queue.consumer.acknowledge(lock_tokens=lock), lock)

    def test_data_of_every_kind_stay_the_same(self):
        queue = Queue(self)
        kinds = [b"\x00\xff bytes", "text", 7, 2.5, False, None, [1, [2]], {"a": {"b": None}}]
        queue.publisher.send(
            [CloudEvent(source="/shop", type="job", subject=str(index), data=data) for index, data in enumerate(kinds)]
        )
        received = queue.receive(len(kinds))
        got = {int(one.event.subject): one.event.data for one in received}
        self.assertEqual([got[index] for index in range(len(kinds))], kinds)

    def test_a_batch_is_received_and_acknowledged(self):
        queue = Queue(self)
        queue.publisher.send([event(number) for number in range(100)])
        received = queue.receive(100)
        self.assertEqual(sorted(one.event.data["n"] for one in received), list(range(100)))
        queue.check(queue.consumer.acknowledge(lock_tokens=tokens(received)), tokens(received))

    def test_events_are_taken_as_dictionaries(self):
        queue = Queue(self)
        queue.publisher.send({"id": "d-1", "source": "/shop", "type": "job", "specversion": "1.0", "data": 5})
        (received,) = queue.receive()
        self.assertEqual((received.event.id, received.event.data), ("d-1", 5))

    def test_a_filter_chooses_events(self):
        queue = Queue(self, FiltersConfiguration(included_event_types=["job.done"]))
        done = CloudEvent(source="/shop", type="job.done", data=1)
        queue.publisher.send([event(), done, event()])
        self.assertEqual([one.event.id for one in queue.receive()], [done.id])

    def test_a_released_event_is_received_again(self):
        queue = Queue(self)
        queue.publisher.send(event())
        lock = tokens(queue.receive())
        queue.check(queue.consumer.release(lock_tokens=lock), lock)
        (again,) = queue.receive()
        self.assertEqual(again.broker_properties.delivery_count, 2)
        self.assertNotEqual(tokens([again]), lock)
        queue.check(queue.consumer.acknowledge(lock_tokens=lock), [], [(lock[0], "TokenLost")])
        queue.check(queue.consumer.acknowledge(lock_tokens=tokens([again])), tokens([again]))

    def test_a_rejected_event_is_not_received_again(self):
        queue = Queue(self)
        queue.publisher.send([event(1), event(2)])
        first = queue.receive()
        queue.check(queue.consumer.reject(lock_tokens=tokens(first)), tokens(first))
        self.assertEqual([one.event.data["n"] for one in queue.receive()], [2])

    def test_a_lock_is_renewed_and_keeps_its_token(self):
        queue = Queue(self)
        queue.publisher.send(event())
        lock = tokens(queue.receive())
        queue.check(queue.consumer.renew_locks(lock_tokens=lock), lock)
        queue.check(queue.consumer.renew_locks(lock_tokens=lock), lock)
        queue.check(queue.consumer.acknowledge(lock_tokens=lock), lock)
        queue.check(queue.consumer.renew_locks(lock_tokens=lock), [], [(lock[0], "TokenLost")])

    def test_each_token_gets_its_own_result(self):
        queue = Queue(self)
        queue.publisher.send([event(1), event(2)])
        one, two = tokens(queue.receive(2))
        queue.check(queue.consumer.acknowledge(lock_tokens=[one]), [one])
        result = queue.consumer.acknowledge(lock_tokens=[one, "nonsense", two])
        queue.check(result, [two], [(one, "TokenLost"), ("nonsense", "BadToken")])

    def test_a_token_is_of_no_use_elsewhere(self):
        queue, other = Queue(self), Queue(self)
        queue.publisher.send(event())
        lock = tokens(queue.receive())
        queue.check(other.consumer.acknowledge(lock_tokens=lock), [], [(lock[0], "BadToken")])
        queue.check(queue.consumer.acknowledge(lock_tokens=lock), lock)

    def test_events_are_pushed_to_a_webhook(self):
        queue = Queue(self)
        path = "/" + new_name("push")
        push = PushInfo(destination=WebHookEventSubscriptionDestination(endpoint_url=sink.url(path)))
        arm.namespace_topic_event_subscriptions.begin_create_or_update(
            GROUP,
            "shop",
            queue.topic,
            "pushed",
            Subscription(delivery_configuration=DeliveryConfiguration(delivery_mode="Push", push=push)),
        ).result()
        asked = sink.handshake(path)
        self.assertEqual(asked.method, "OPTIONS")
        self.assertNotIn("WebHook-Request-Callback", asked.headers)
        sent = event()
        queue.publisher.send(sent)
        (delivery,) = sink.deliveries(path)
        self.assertEqual(delivery.headers["content-type"], "application/cloudevents+json; charset=utf-8")
        self.assertEqual(delivery.headers["aeg-subscription-name"].lower(), "pushed")
        self.assertEqual(delivery.headers["aeg-event-type"], "Notification")
        got = CloudEvent.from_dict(delivery.json())
        self.assertEqual((got.id, got.data), (sent.id, {"n": 1}))

    def test_a_wrong_key_is_refused(self):
        queue = Queue(self)
        wrong = "d3Jvbmcga2V5IG9mIGEgbmFtZXNwYWNl"
        with self.assertRaises(ClientAuthenticationError) as caught:
            self.publisher(queue.topic, wrong).send(event())
        self.assertEqual(caught.exception.status_code, 401)
        consumer = self.consumer(queue.topic, key=wrong)
        with self.assertRaises(ClientAuthenticationError):
            consumer.receive(max_wait_time=SHORT_WAIT)
        with self.assertRaises(ClientAuthenticationError):
            consumer.acknowledge(lock_tokens=["any"])

    def test_what_is_unknown_is_not_found(self):
        queue = Queue(self)
        with self.assertRaises(ResourceNotFoundError):
            self.publisher("nowhere").send(event())
        for consumer in (self.consumer("nowhere"), self.consumer(queue.topic, "nobody")):
            with self.assertRaises(ResourceNotFoundError):
                consumer.receive(max_wait_time=SHORT_WAIT)
            with self.assertRaises(ResourceNotFoundError):
                consumer.acknowledge(lock_tokens=["any"])

    def refused(self, status, call):
        with self.assertRaises(HttpResponseError) as caught:
            call()
        self.assertEqual(caught.exception.status_code, status)
        self.assertTrue(caught.exception.error.code)
        self.assertTrue(caught.exception.error.message)

    def test_what_is_too_large_is_refused(self):
        queue = Queue(self)
        for size in (1_100_000, 8_000_000):
            big = CloudEvent(source="/shop", type="job", data="x" * size)
            self.refused(413, lambda: queue.publisher.send(big))
        half = CloudEvent(source="/shop", type="job", data="x" * 600_000)
        self.refused(413, lambda: queue.publisher.send([half, half]))
        self.refused(413, lambda: queue.publisher.send([event()] * 1001))
        queue.publisher.send(half)

    def test_a_malformed_batch_is_refused_as_a_whole(self):
        queue = Queue(self)
        whole = {"id": "whole", "source": "/shop", "type": "job", "specversion": "1.0"}
        # The client itself adds an id and a version where they are missing.
        for missing in ("source", "type"):
            part = {name: value for name, value in whole.items() if name != missing}
            self.refused(400, lambda: queue.publisher.send([part, whole]))
        queue.publisher.send(event(9))
        self.assertEqual([one.event.data for one in queue.receive()], [{"n": 9}])

    def test_a_malformed_receive_is_refused(self):
        queue = Queue(self)
        for wrong in ({"max_events": 0}, {"max_events": 101}, {"max_wait_time": 5}, {"max_wait_time": 121}):
            self.refused(400, lambda: queue.consumer.receive(**wrong))
        self.refused(400, lambda: queue.consumer.release(lock_tokens=["any"], release_delay=7))
        self.refused(400, lambda: queue.consumer.acknowledge(lock_tokens="any"))


class NamespacesOverHttps(Namespaces, unittest.TestCase):
    def endpoint(self):
        return "https://" + namespace.topics_configuration.hostname

    def options(self):
        return {"connection_verify": broker.ca}

    def test_an_empty_queue_answers_after_the_wait(self):
        queue = Queue(self)
        begin = time.monotonic()
        self.assertEqual(queue.consumer.receive(max_wait_time=SHORT_WAIT), [])
        self.assertGreater(time.monotonic() - begin, SHORT_WAIT - 0.5)

    def test_a_delayed_release_waits_and_ends_a_receive(self):
        queue = Queue(self)
        queue.publisher.send(event())
        lock = tokens(queue.receive())
        begin = time.monotonic()
        queue.check(queue.consumer.release(lock_tokens=lock, release_delay=10), lock)
        (again,) = queue.consumer.receive(max_events=10, max_wait_time=60)
        waited = time.monotonic() - begin
        self.assertEqual(again.broker_properties.delivery_count, 2)
        self.assertTrue(9.5 < waited < 15, f"waited {waited} s")


class NamespacesOverHttp(Namespaces, unittest.TestCase):
    def endpoint(self):
        return f"{broker.http}/{SUBSCRIPTION}/{GROUP}/namespaces/{namespace.name}"

    def options(self):
        return {}

    def test_the_path_prefix_may_be_left_out(self):
        topic = Queue(self).topic
        credential = AzureKeyCredential(keys.key1)
        with EventGridPublisherClient(broker.http, credential, namespace_topic=topic) as publisher:
            publisher.send(event(4))
        (received,) = self.consumer(topic).receive(max_wait_time=SHORT_WAIT)
        self.assertEqual(received.event.data, {"n": 4})


if __name__ == "__main__":
    unittest.main()
