"""What was answered for is still there when the process comes back."""

import unittest

from azure.core.credentials import AzureKeyCredential
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridConsumerClient, EventGridEvent, EventGridPublisherClient
from azure.mgmt.eventgrid.models import (
    DeliveryConfiguration,
    EventSubscription,
    Namespace,
    NamespaceTopic,
    Subscription,
    Topic,
    WebHookEventSubscriptionDestination,
)

import webhook
from server import GROUP, SUBSCRIPTION, Server, new_name


class Restart(unittest.TestCase):
    def setUp(self):
        self.broker = Server()
        self.addCleanup(self.broker.dispose)
        self.broker.start()
        self.sink = webhook.Webhook()
        self.addCleanup(self.sink.close)

    def clients(self, key):
        endpoint = f"{self.broker.http}/{SUBSCRIPTION}/{GROUP}/namespaces/shop"
        credential = AzureKeyCredential(key)
        publisher = EventGridPublisherClient(endpoint, credential, namespace_topic="jobs")
        consumer = EventGridConsumerClient(
            endpoint, credential, namespace_topic="jobs", subscription="workers"
        )
        self.addCleanup(publisher.close)
        self.addCleanup(consumer.close)
        return publisher, consumer

    def check(self, end):
        """`end` ends the process; nothing that was answered for may be missing afterwards."""
        path = "/" + new_name("hook")
        with self.broker.management() as arm:
            arm.topics.begin_create_or_update(GROUP, "orders", Topic(location="local")).result()
            destination = WebHookEventSubscriptionDestination(endpoint_url=self.sink.url(path))
            arm.topic_event_subscriptions.begin_create_or_update(
                GROUP, "orders", "billing", EventSubscription(destination=destination)
            ).result()
            arm.namespaces.begin_create_or_update(GROUP, "shop", Namespace(location="local")).result()
            arm.namespace_topics.begin_create_or_update(GROUP, "shop", "jobs", NamespaceTopic()).result()
            queue = Subscription(delivery_configuration=DeliveryConfiguration(delivery_mode="Queue"))
            arm.namespace_topic_event_subscriptions.begin_create_or_update(
                GROUP, "shop", "jobs", "workers", queue
            ).result()
            topic_keys = arm.topics.list_shared_access_keys(GROUP, "orders")
            keys = arm.namespaces.list_shared_access_keys(GROUP, "shop")
        publisher, consumer = self.clients(keys.key1)
        publisher.send([CloudEvent(source="/shop", type="job", data=number) for number in range(4)])
        settled, held, released = self.receive(consumer, 3)
        consumer.acknowledge(lock_tokens=[settled.broker_properties.lock_token])
        consumer.release(lock_tokens=[released.broker_properties.lock_token])

        token = self.broker.token
        end(self.broker)
        self.broker.start()

        self.assertEqual(self.broker.token, token)
        with self.broker.management() as arm:
            self.assertEqual([one.name for one in arm.topics.list_by_resource_group(GROUP)], ["orders"])
            topic = arm.topics.get(GROUP, "orders")
            subscription = arm.topic_event_subscriptions.get(GROUP, "orders", "billing")
            self.assertEqual(subscription.provisioning_state, "Succeeded")
            listed = arm.namespace_topic_event_subscriptions.list_by_namespace_topic(GROUP, "shop", "jobs")
            self.assertEqual([one.name for one in listed], ["workers"])
            self.assertEqual(
                arm.topics.list_shared_access_keys(GROUP, "orders").as_dict(), topic_keys.as_dict()
            )
            self.assertEqual(
                arm.namespaces.list_shared_access_keys(GROUP, "shop").as_dict(), keys.as_dict()
            )

        publisher, consumer = self.clients(keys.key1)
        lock = held.broker_properties.lock_token
        # The lock held before holds still: only the released event and the untouched one are free.
        received = self.receive(consumer, 2)
        counts = {one.event.data: one.broker_properties.delivery_count for one in received}
        self.assertEqual(counts, {released.event.data: 2, 3: 1})
        result = consumer.acknowledge(lock_tokens=[lock])
        self.assertEqual(result.succeeded_lock_tokens, [lock])
        self.assertEqual(result.failed_lock_tokens, [])

        endpoint = self.broker.topic_endpoint(topic, "http")
        event = EventGridEvent("orders/1", "order.paid", {"n": 1}, "1")
        with EventGridPublisherClient(endpoint, AzureKeyCredential(topic_keys.key2)) as client:
            client.send(event)
        self.assertEqual(self.sink.deliveries(path)[0].json()[0]["id"], str(event.id))

    def receive(self, consumer, count):
        received = []
        while len(received) < count:
            more = consumer.receive(max_events=count - len(received), max_wait_time=10)
            self.assertTrue(more, f"received {len(received)} of {count}")
            received += more
        return received

    def test_nothing_is_lost_when_it_is_stopped(self):
        self.check(Server.stop)

    def test_nothing_is_lost_when_it_is_killed(self):
        self.check(Server.kill)


if __name__ == "__main__":
    unittest.main()
