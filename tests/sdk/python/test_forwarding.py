"""Subscriptions of topics and domains that forward to a namespace topic."""

import unittest

from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridConsumerClient, EventGridEvent, EventGridPublisherClient
from azure.mgmt.eventgrid.models import (
    DeliveryConfiguration,
    DeliveryWithResourceIdentity,
    Domain,
    EventSubscription,
    EventSubscriptionFilter,
    EventSubscriptionIdentity,
    EventSubscriptionUpdateParameters,
    Namespace,
    NamespaceTopic,
    NamespaceTopicEventSubscriptionDestination,
    Subscription,
    Topic,
    WebHookEventSubscriptionDestination,
)

import server
import webhook
from server import GROUP, SUBSCRIPTION, new_name

# The shortest that the service allows.
SHORT_WAIT = 10


def setUpModule():
    global broker, sink, arm, key
    broker = server.start_for_module()
    sink = webhook.start_for_module()
    arm = broker.management()
    unittest.addModuleCleanup(arm.close)
    arm.namespaces.begin_create_or_update(GROUP, "shop", Namespace(location="local")).result()
    key = AzureKeyCredential(arm.namespaces.list_shared_access_keys(GROUP, "shop").key1)


class Forwarding(unittest.TestCase):
    def setUp(self):
        self.name = new_name("jobs")
        self.jobs = arm.namespace_topics.begin_create_or_update(
            GROUP, "shop", self.name, NamespaceTopic()
        ).result()
        arm.namespace_topic_event_subscriptions.begin_create_or_update(
            GROUP,
            "shop",
            self.name,
            "workers",
            Subscription(delivery_configuration=DeliveryConfiguration(delivery_mode="Queue")),
        ).result()

    def destination(self):
        return NamespaceTopicEventSubscriptionDestination(resource_id=self.jobs.id)

    def receive(self, count):
        base = f"{broker.http}/{SUBSCRIPTION}/{GROUP}/namespaces/shop"
        consumer = EventGridConsumerClient(base, key, namespace_topic=self.name, subscription="workers")
        self.addCleanup(consumer.close)
        events = []
        while len(events) < count:
            received = consumer.receive(max_events=count, max_wait_time=SHORT_WAIT)
            self.assertTrue(received, f"received {len(events)} of {count}")
            consumer.acknowledge(lock_tokens=[one.broker_properties.lock_token for one in received])
            events += [one.event for one in received]
        return sorted(events, key=lambda event: event.id)

    def publish(self, resource, keys, events):
        client = EventGridPublisherClient(
            broker.topic_endpoint(resource, "http"), AzureKeyCredential(keys.key1)
        )
        self.addCleanup(client.close)
        client.send(events)

    def test_a_subscription_lives_from_create_to_delete_in_every_form(self):
        topic = arm.topics.begin_create_or_update(GROUP, new_name("topic"), Topic(location="local")).result()
        domain = arm.domains.begin_create_or_update(
            GROUP, new_name("domain"), Domain(location="local")
        ).result()
        forms = [
            (arm.topic_event_subscriptions, (GROUP, topic.name)),
            (arm.event_subscriptions, (topic.id,)),
            (arm.domain_event_subscriptions, (GROUP, domain.name)),
            (arm.domain_topic_event_subscriptions, (GROUP, domain.name, "north")),
        ]
        for subscriptions, place in forms:
            place = (*place, "onward")
            info = EventSubscription(destination=self.destination())
            made = subscriptions.begin_create_or_update(*place, info).result()
            self.assertEqual(made.provisioning_state, "Succeeded")
            self.assertIsInstance(made.destination, NamespaceTopicEventSubscriptionDestination)
            self.assertEqual(made.destination.resource_id, self.jobs.id)
            self.assertEqual(made.event_delivery_schema, "CloudEventSchemaV1_0")
            self.assertEqual(subscriptions.get(*place).as_dict(), made.as_dict())

            update = EventSubscriptionUpdateParameters(
                labels=["one"], filter=EventSubscriptionFilter(subject_begins_with="orders/")
            )
            subscriptions.begin_update(*place, update).result()
            changed = subscriptions.get(*place)
            self.assertEqual(changed.labels, ["one"])
            self.assertEqual(changed.destination.resource_id, self.jobs.id)
            self.assertEqual(subscriptions.get_delivery_attributes(*place).value, [])

            path = "/" + new_name("hook")
            hook = WebHookEventSubscriptionDestination(endpoint_url=sink.url(path))
            subscriptions.begin_update(*place, EventSubscriptionUpdateParameters(destination=hook)).result()
            self.assertIsInstance(subscriptions.get(*place).destination, WebHookEventSubscriptionDestination)
            back = EventSubscriptionUpdateParameters(destination=self.destination())
            subscriptions.begin_update(*place, back).result()
            self.assertEqual(subscriptions.get(*place).destination.resource_id, self.jobs.id)

            subscriptions.begin_delete(*place).result()
            with self.assertRaises(ResourceNotFoundError):
                subscriptions.get(*place)

    def test_an_identity_around_the_destination_is_kept(self):
        topic = arm.topics.begin_create_or_update(GROUP, new_name("topic"), Topic(location="local")).result()
        wrapped = DeliveryWithResourceIdentity(
            identity=EventSubscriptionIdentity(type="SystemAssigned"), destination=self.destination()
        )
        made = arm.topic_event_subscriptions.begin_create_or_update(
            GROUP, topic.name, "onward", EventSubscription(delivery_with_resource_identity=wrapped)
        ).result()
        kept = made.delivery_with_resource_identity
        self.assertEqual(kept.identity.type, "SystemAssigned")
        self.assertEqual(kept.destination.resource_id, self.jobs.id)

    def test_events_of_both_schemas_arrive_as_cloud_events(self):
        grid = arm.topics.begin_create_or_update(GROUP, new_name("grid"), Topic(location="local")).result()
        cloud = arm.topics.begin_create_or_update(
            GROUP, new_name("cloud"), Topic(location="local", input_schema="CloudEventSchemaV1_0")
        ).result()
        for topic in (grid, cloud):
            arm.topic_event_subscriptions.begin_create_or_update(
                GROUP, topic.name, "onward", EventSubscription(destination=self.destination())
            ).result()
        own = EventGridEvent(
            subject="orders/1", event_type="order.paid", data={"n": 1}, data_version="1", id="a"
        )
        self.publish(grid, arm.topics.list_shared_access_keys(GROUP, grid.name), [own])
        sent = CloudEvent(source="/shop", type="order.paid", data={"n": 2}, id="b", extensions={"tenant": "x"})
        self.publish(cloud, arm.topics.list_shared_access_keys(GROUP, cloud.name), [sent])
        first, second = self.receive(2)
        self.assertEqual((first.id, first.type, first.subject), ("a", "order.paid", "orders/1"))
        self.assertEqual((first.source, first.data), (grid.id, {"n": 1}))
        self.assertEqual((second.id, second.source, second.data), ("b", "/shop", {"n": 2}))
        self.assertEqual(second.extensions, {"tenant": "x"})

    def test_a_topic_that_is_not_there_is_refused(self):
        topic = arm.topics.begin_create_or_update(GROUP, new_name("topic"), Topic(location="local")).result()
        nowhere = NamespaceTopicEventSubscriptionDestination(resource_id=self.jobs.id + "-none")
        with self.assertRaises(HttpResponseError) as refused:
            arm.topic_event_subscriptions.begin_create_or_update(
                GROUP, topic.name, "onward", EventSubscription(destination=nowhere)
            ).result()
        self.assertEqual(refused.exception.status_code, 400)
        self.assertIn("does not exist", refused.exception.message)
        with self.assertRaises(ResourceNotFoundError):
            arm.topic_event_subscriptions.get(GROUP, topic.name, "onward")


if __name__ == "__main__":
    unittest.main()
