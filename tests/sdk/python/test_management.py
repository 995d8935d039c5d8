"""Topics, namespaces and their subscriptions, managed with `azure-mgmt-eventgrid`."""

import unittest
from datetime import timedelta

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.mgmt.eventgrid.models import (
    DeliveryConfiguration,
    EventSubscription,
    EventSubscriptionFilter,
    EventSubscriptionUpdateParameters,
    FiltersConfiguration,
    Namespace,
    NamespaceRegenerateKeyRequest,
    NamespaceTopic,
    NamespaceTopicUpdateParameters,
    NamespaceUpdateParameters,
    PushInfo,
    QueueInfo,
    RetryPolicy,
    StringBeginsWithAdvancedFilter,
    StringInFilter,
    Subscription,
    SubscriptionUpdateParameters,
    Topic,
    TopicRegenerateKeyRequest,
    TopicUpdateParameters,
    WebHookEventSubscriptionDestination,
)

import server
import webhook
from server import GROUP, new_name


def setUpModule():
    global broker, sink
    broker = server.start_for_module()
    sink = webhook.start_for_module()


def names(pages):
    return [one.name for one in pages]


class Management:
    """Every test runs over both transports."""

    scheme = None

    def setUp(self):
        self.arm = broker.management(self.scheme)
        self.addCleanup(self.arm.close)

    def topic(self, **properties):
        return self.arm.topics.begin_create_or_update(
            GROUP, new_name("topic"), Topic(location="local", **properties)
        ).result()

    def namespace(self):
        return self.arm.namespaces.begin_create_or_update(
            GROUP, new_name("ns"), Namespace(location="local")
        ).result()

    def test_a_topic_lives_from_create_to_delete(self):
        topics = self.arm.topics
        topic = self.topic(input_schema="CloudEventSchemaV1_0", tags={"team": "billing"})
        self.assertEqual(topic.provisioning_state, "Succeeded")
        self.assertEqual(topic.input_schema, "CloudEventSchemaV1_0")
        self.assertEqual(topic.location, "local")
        self.assertEqual(topic.tags, {"team": "billing"})
        self.assertEqual(topic.type.lower(), "microsoft.eventgrid/topics")
        self.assertTrue(topic.endpoint.startswith("https://"), topic.endpoint)
        self.assertTrue(topic.endpoint.endswith("/api/events"), topic.endpoint)

        self.assertEqual(topics.get(GROUP, topic.name).as_dict(), topic.as_dict())
        self.assertIn(topic.name, names(topics.list_by_resource_group(GROUP)))
        self.assertIn(topic.name, names(topics.list_by_subscription()))

        topics.begin_update(GROUP, topic.name, TopicUpdateParameters(tags={"team": "sales"})).result()
        updated = topics.get(GROUP, topic.name)
        self.assertEqual(updated.tags, {"team": "sales"})
        self.assertEqual(updated.input_schema, "CloudEventSchemaV1_0")

        topics.begin_delete(GROUP, topic.name).result()
        with self.assertRaises(ResourceNotFoundError):
            topics.get(GROUP, topic.name)
        self.assertNotIn(topic.name, names(topics.list_by_resource_group(GROUP)))
        topics.begin_delete(GROUP, topic.name).result()

    def test_creating_a_topic_again_changes_nothing(self):
        topic = self.topic()
        again = self.arm.topics.begin_create_or_update(GROUP, topic.name, Topic(location="local")).result()
        self.assertEqual(again.as_dict(), topic.as_dict())

    def test_a_topic_key_is_replaced_alone(self):
        topic = self.topic()
        before = self.arm.topics.list_shared_access_keys(GROUP, topic.name)
        self.assertNotEqual(before.key1, before.key2)
        request = TopicRegenerateKeyRequest(key_name="key1")
        after = self.arm.topics.begin_regenerate_key(GROUP, topic.name, request).result()
        self.assertNotEqual(after.key1, before.key1)
        self.assertEqual(after.key2, before.key2)
        self.assertEqual(
            self.arm.topics.list_shared_access_keys(GROUP, topic.name).as_dict(), after.as_dict()
        )

    def test_lists_go_on_from_page_to_page(self):
        group = new_name("group")
        made = sorted(new_name("topic") for _ in range(3))
        for name in made:
            self.arm.topics.begin_create_or_update(group, name, Topic(location="local")).result()
        pages = [names(page) for page in self.arm.topics.list_by_resource_group(group, top=2).by_page()]
        self.assertEqual(len(pages), 2, pages)
        self.assertEqual(sorted(sum(pages, [])), made)

    def test_a_namespace_and_its_topics_live_from_create_to_delete(self):
        namespaces, topics = self.arm.namespaces, self.arm.namespace_topics
        namespace = self.namespace()
        self.assertEqual(namespace.provisioning_state, "Succeeded")
        self.assertNotIn("/", namespace.topics_configuration.hostname)
        self.assertEqual(namespaces.get(GROUP, namespace.name).as_dict(), namespace.as_dict())
        self.assertIn(namespace.name, names(namespaces.list_by_resource_group(GROUP)))
        self.assertIn(namespace.name, names(namespaces.list_by_subscription()))
        parameters = NamespaceUpdateParameters(tags={"stage": "test"})
        namespaces.begin_update(GROUP, namespace.name, parameters).result()
        self.assertEqual(namespaces.get(GROUP, namespace.name).tags, {"stage": "test"})

        topic = topics.begin_create_or_update(
            GROUP, namespace.name, "jobs", NamespaceTopic(event_retention_in_days=1)
        ).result()
        self.assertEqual(topic.provisioning_state, "Succeeded")
        self.assertEqual(topic.event_retention_in_days, 1)
        self.assertEqual(topic.input_schema, "CloudEventSchemaV1_0")
        self.assertEqual(topics.get(GROUP, namespace.name, "jobs").as_dict(), topic.as_dict())
        self.assertEqual(names(topics.list_by_namespace(GROUP, namespace.name)), ["jobs"])
        parameters = NamespaceTopicUpdateParameters(event_retention_in_days=2)
        topics.begin_update(GROUP, namespace.name, "jobs", parameters).result()
        self.assertEqual(topics.get(GROUP, namespace.name, "jobs").event_retention_in_days, 2)

        topics.begin_delete(GROUP, namespace.name, "jobs").result()
        with self.assertRaises(ResourceNotFoundError):
            topics.get(GROUP, namespace.name, "jobs")
        namespaces.begin_delete(GROUP, namespace.name).result()
        with self.assertRaises(ResourceNotFoundError):
            namespaces.get(GROUP, namespace.name)

    def test_a_namespace_key_is_replaced_alone(self):
        namespace = self.namespace()
        before = self.arm.namespaces.list_shared_access_keys(GROUP, namespace.name)
        request = NamespaceRegenerateKeyRequest(key_name="key2")
        self.arm.namespaces.begin_regenerate_key(GROUP, namespace.name, request).result()
        after = self.arm.namespaces.list_shared_access_keys(GROUP, namespace.name)
        self.assertEqual(after.key1, before.key1)
        self.assertNotEqual(after.key2, before.key2)

    def test_a_namespace_topic_has_keys_of_its_own(self):
        namespace = self.namespace()
        topics = self.arm.namespace_topics
        topics.begin_create_or_update(GROUP, namespace.name, "jobs", NamespaceTopic()).result()
        before = topics.list_shared_access_keys(GROUP, namespace.name, "jobs")
        request = TopicRegenerateKeyRequest(key_name="key1")
        topics.begin_regenerate_key(GROUP, namespace.name, "jobs", request).result()
        after = topics.list_shared_access_keys(GROUP, namespace.name, "jobs")
        self.assertNotEqual(after.key1, before.key1)
        self.assertEqual(after.key2, before.key2)

    def test_a_queue_subscription_lives_from_create_to_delete(self):
        namespace = self.namespace()
        self.arm.namespace_topics.begin_create_or_update(
            GROUP, namespace.name, "jobs", NamespaceTopic()
        ).result()
        subscriptions = self.arm.namespace_topic_event_subscriptions
        place = (GROUP, namespace.name, "jobs", "workers")
        queue = QueueInfo(
            receive_lock_duration_in_seconds=120, max_delivery_count=3, event_time_to_live=timedelta(days=1)
        )
        wanted = Subscription(
            delivery_configuration=DeliveryConfiguration(delivery_mode="Queue", queue=queue),
            event_delivery_schema="CloudEventSchemaV1_0",
            filters_configuration=FiltersConfiguration(
                included_event_types=["job.created"],
                filters=[StringInFilter(key="subject", values=["a", "b"])],
            ),
        )
        made = subscriptions.begin_create_or_update(*place, wanted).result()
        self.assertEqual(made.provisioning_state, "Succeeded")
        shown = made.delivery_configuration
        self.assertEqual(shown.delivery_mode, "Queue")
        self.assertEqual(shown.queue.receive_lock_duration_in_seconds, 120)
        self.assertEqual(shown.queue.max_delivery_count, 3)
        self.assertEqual(shown.queue.event_time_to_live, timedelta(days=1))
        self.assertEqual(made.filters_configuration.included_event_types, ["job.created"])
        self.assertEqual(made.filters_configuration.filters[0].values, ["a", "b"])
        self.assertEqual(subscriptions.get(*place).as_dict(), made.as_dict())
        self.assertEqual(names(subscriptions.list_by_namespace_topic(*place[:3])), ["workers"])

        change = SubscriptionUpdateParameters(
            filters_configuration=FiltersConfiguration(included_event_types=["job.done"])
        )
        subscriptions.begin_update(*place, change).result()
        changed = subscriptions.get(*place)
        self.assertEqual(changed.filters_configuration.included_event_types, ["job.done"])
        self.assertEqual(changed.delivery_configuration.queue.max_delivery_count, 3)

        subscriptions.begin_delete(*place).result()
        with self.assertRaises(ResourceNotFoundError):
            subscriptions.get(*place)

    def test_a_namespace_push_subscription_hides_its_secret(self):
        namespace = self.namespace()
        self.arm.namespace_topics.begin_create_or_update(
            GROUP, namespace.name, "jobs", NamespaceTopic()
        ).result()
        subscriptions = self.arm.namespace_topic_event_subscriptions
        place = (GROUP, namespace.name, "jobs", "pushed")
        url = sink.url("/" + new_name("push") + "?code=secret")
        push = PushInfo(
            max_delivery_count=4,
            event_time_to_live="PT10M",
            destination=WebHookEventSubscriptionDestination(endpoint_url=url),
        )
        made = subscriptions.begin_create_or_update(
            *place, Subscription(delivery_configuration=DeliveryConfiguration(delivery_mode="Push", push=push))
        ).result()
        destination = made.delivery_configuration.push.destination
        self.assertIsNone(destination.endpoint_url)
        self.assertEqual(destination.endpoint_base_url, url.split("?")[0])
        self.assertEqual(subscriptions.get_full_url(*place).endpoint_url, url)

    def webhook_subscription(self, url, **properties):
        return EventSubscription(
            destination=WebHookEventSubscriptionDestination(endpoint_url=url), **properties
        )

    def test_a_nested_event_subscription_lives_from_create_to_delete(self):
        topic = self.topic()
        subscriptions = self.arm.topic_event_subscriptions
        place = (GROUP, topic.name, "billing")
        url = sink.url("/" + new_name("hook") + "?code=secret")
        made = subscriptions.begin_create_or_update(
            *place,
            self.webhook_subscription(
                url,
                labels=["one"],
                retry_policy=RetryPolicy(max_delivery_attempts=5, event_time_to_live_in_minutes=60),
                filter=EventSubscriptionFilter(
                    subject_begins_with="orders/",
                    included_event_types=["order.paid"],
                    advanced_filters=[StringBeginsWithAdvancedFilter(key="data.kind", values=["x"])],
                ),
            ),
        ).result()
        self.assertEqual(made.provisioning_state, "Succeeded")
        self.assertEqual(made.topic.lower(), topic.id.lower())
        self.assertEqual(made.destination.endpoint_base_url, url.split("?")[0])
        self.assertIsNone(made.destination.endpoint_url)
        self.assertEqual(made.filter.subject_begins_with, "orders/")
        self.assertEqual(made.filter.advanced_filters[0].values, ["x"])
        self.assertEqual(made.retry_policy.max_delivery_attempts, 5)
        self.assertEqual(subscriptions.get(*place).as_dict(), made.as_dict())
        self.assertEqual(names(subscriptions.list(GROUP, topic.name)), ["billing"])
        self.assertEqual(subscriptions.get_full_url(*place).endpoint_url, url)

        change = EventSubscriptionUpdateParameters(
            labels=["two"], filter=EventSubscriptionFilter(subject_ends_with=".jpg")
        )
        subscriptions.begin_update(*place, change).result()
        changed = subscriptions.get(*place)
        self.assertEqual(changed.labels, ["two"])
        self.assertEqual(changed.filter.subject_ends_with, ".jpg")
        self.assertEqual(changed.retry_policy.max_delivery_attempts, 5)
        self.assertEqual(subscriptions.get_full_url(*place).endpoint_url, url)

        subscriptions.begin_delete(*place).result()
        with self.assertRaises(ResourceNotFoundError):
            subscriptions.get(*place)
        subscriptions.begin_delete(*place).result()

    def test_an_event_subscription_is_the_same_by_its_scope(self):
        topic = self.topic()
        subscriptions = self.arm.event_subscriptions
        url = sink.url("/" + new_name("hook") + "?code=secret")
        made = subscriptions.begin_create_or_update(
            topic.id, "scoped", self.webhook_subscription(url)
        ).result()
        self.assertEqual(made.name, "scoped")
        self.assertEqual(made.provisioning_state, "Succeeded")
        self.assertEqual(subscriptions.get(topic.id, "scoped").as_dict(), made.as_dict())
        self.assertEqual(subscriptions.get_full_url(topic.id, "scoped").endpoint_url, url)
        listed = subscriptions.list_by_resource(GROUP, "Microsoft.EventGrid", "topics", topic.name)
        self.assertEqual(names(listed), ["scoped"])
        self.assertEqual(self.arm.topic_event_subscriptions.get(GROUP, topic.name, "scoped").name, "scoped")

        change = EventSubscriptionUpdateParameters(labels=["late"])
        subscriptions.begin_update(topic.id, "scoped", change).result()
        self.assertEqual(subscriptions.get(topic.id, "scoped").labels, ["late"])
        subscriptions.begin_delete(topic.id, "scoped").result()
        with self.assertRaises(ResourceNotFoundError):
            subscriptions.get(topic.id, "scoped")

    def test_a_deleted_topic_takes_its_subscriptions_along(self):
        topic = self.topic()
        url = sink.url("/" + new_name("hook"))
        self.arm.event_subscriptions.begin_create_or_update(
            topic.id, "gone", self.webhook_subscription(url)
        ).result()
        self.arm.topics.begin_delete(GROUP, topic.name).result()
        self.arm.topics.begin_create_or_update(GROUP, topic.name, Topic(location="local")).result()
        self.assertEqual(names(self.arm.topic_event_subscriptions.list(GROUP, topic.name)), [])

    def test_an_unknown_resource_is_not_found(self):
        for call in (
            lambda: self.arm.topics.get(GROUP, "nowhere"),
            lambda: self.arm.namespaces.get(GROUP, "nowhere"),
            lambda: self.arm.namespace_topics.get(GROUP, "nowhere", "jobs"),
            lambda: self.arm.topics.list_shared_access_keys(GROUP, "nowhere"),
            lambda: self.arm.topic_event_subscriptions.begin_create_or_update(
                GROUP, "nowhere", "billing", self.webhook_subscription(sink.url("/nowhere"))
            ).result(),
        ):
            with self.assertRaises(ResourceNotFoundError) as caught:
                call()
            self.assertEqual(caught.exception.status_code, 404)
            self.assertEqual(caught.exception.error.code, "ResourceNotFound")

    def test_a_wrong_token_is_refused(self):
        with broker.management(self.scheme, token="not-the-token-of-this-server") as arm:
            with self.assertRaises(ClientAuthenticationError) as caught:
                arm.topics.get(GROUP, "orders")
            self.assertEqual(caught.exception.status_code, 401)
            with self.assertRaises(ClientAuthenticationError):
                arm.topics.begin_create_or_update(GROUP, "orders", Topic(location="local")).result()

    def test_what_is_not_a_valid_resource_is_refused(self):
        with self.assertRaises(HttpResponseError) as caught:
            self.arm.topics.begin_create_or_update(GROUP, "-", Topic(location="local")).result()
        self.assertEqual(caught.exception.status_code, 400)
        topic = self.topic(input_schema="CloudEventSchemaV1_0")
        wanted = self.webhook_subscription(sink.url("/schema"), event_delivery_schema="EventGridSchema")
        with self.assertRaises(HttpResponseError) as caught:
            self.arm.event_subscriptions.begin_create_or_update(topic.id, "billing", wanted).result()
        self.assertEqual(caught.exception.status_code, 400)

    def test_an_endpoint_that_does_not_agree_is_refused(self):
        topic = self.topic()
        for schema in ("EventGridSchema", "CloudEventSchemaV1_0"):
            wanted = self.webhook_subscription(sink.url("/refuse"), event_delivery_schema=schema)
            with self.assertRaises(HttpResponseError) as caught:
                self.arm.event_subscriptions.begin_create_or_update(topic.id, "billing", wanted).result()
            self.assertEqual(caught.exception.status_code, 400)
            self.assertEqual(caught.exception.error.code, "Url validation")
        with self.assertRaises(ResourceNotFoundError):
            self.arm.event_subscriptions.get(topic.id, "billing")


class ManagementOverHttps(Management, unittest.TestCase):
    scheme = "https"


class ManagementOverHttp(Management, unittest.TestCase):
    scheme = "http"


if __name__ == "__main__":
    unittest.main()
