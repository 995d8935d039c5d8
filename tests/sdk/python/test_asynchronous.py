"""The asynchronous clients: another transport, the same service."""

import logging
import unittest

from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, ResourceNotFoundError
from azure.core.messaging import CloudEvent
from azure.core.pipeline.policies import HeadersPolicy
from azure.eventgrid import EventGridEvent
from azure.eventgrid.aio import EventGridConsumerClient, EventGridPublisherClient
from azure.mgmt.eventgrid.aio import EventGridManagementClient
from azure.mgmt.eventgrid.models import (
    DeliveryConfiguration,
    EventSubscription,
    Namespace,
    NamespaceTopic,
    Subscription,
    Topic,
    WebHookEventSubscriptionDestination,
)

import server
import webhook
from server import GROUP, SUBSCRIPTION, AsyncStaticToken, new_name


def setUpModule():
    global broker, sink
    broker = server.start_for_module()
    sink = webhook.start_for_module()


# Debug mode, in which these tests run, reports every step that takes a tenth of a second.
logging.getLogger("asyncio").setLevel(logging.ERROR)


class Asynchronous:
    scheme = None

    async def asyncSetUp(self):
        credential = AsyncStaticToken(broker.token)
        if self.scheme == "https":
            self.options = {"connection_verify": broker.ca}
            arm = EventGridManagementClient(
                credential, SUBSCRIPTION, base_url=broker.https, connection_verify=broker.ca
            )
        else:
            self.options = {}
            headers = HeadersPolicy({"Authorization": f"Bearer {broker.token}"})
            arm = EventGridManagementClient(
                credential, SUBSCRIPTION, base_url=broker.http, authentication_policy=headers
            )
        self.arm = arm
        self.addAsyncCleanup(arm.close)

    async def done(self, poller):
        return await (await poller).result()

    async def test_a_topic_delivers_to_a_webhook(self):
        arm = self.arm
        name = new_name("topic")
        topic = await self.done(arm.topics.begin_create_or_update(GROUP, name, Topic(location="local")))
        path = "/" + new_name("hook")
        destination = WebHookEventSubscriptionDestination(endpoint_url=sink.url(path))
        await self.done(
            arm.topic_event_subscriptions.begin_create_or_update(
                GROUP, name, "billing", EventSubscription(destination=destination)
            )
        )
        listed = [one.name async for one in arm.topics.list_by_resource_group(GROUP)]
        self.assertIn(name, listed)
        keys = await arm.topics.list_shared_access_keys(GROUP, name)
        endpoint = broker.topic_endpoint(topic, self.scheme)
        event = EventGridEvent(subject="s", event_type="t", data={"n": 1}, data_version="1")
        async with EventGridPublisherClient(endpoint, AzureKeyCredential(keys.key1)) as publisher:
            await publisher.send(event, **self.options)
        (got,) = sink.deliveries(path)[0].json()
        self.assertEqual((got["id"], got["data"]), (str(event.id), {"n": 1}))
        async with EventGridPublisherClient(endpoint, AzureKeyCredential("d3Jvbmc=")) as publisher:
            with self.assertRaises(ClientAuthenticationError):
                await publisher.send(event, **self.options)
        await self.done(arm.topics.begin_delete(GROUP, name))
        with self.assertRaises(ResourceNotFoundError):
            await arm.topics.get(GROUP, name)

    async def test_a_namespace_topic_gives_what_it_was_sent(self):
        arm = self.arm
        name = new_name("ns")
        await self.done(arm.namespaces.begin_create_or_update(GROUP, name, Namespace(location="local")))
        await self.done(
            arm.namespace_topics.begin_create_or_update(GROUP, name, "jobs", NamespaceTopic())
        )
        await self.done(
            arm.namespace_topic_event_subscriptions.begin_create_or_update(
                GROUP,
                name,
                "jobs",
                "workers",
                Subscription(delivery_configuration=DeliveryConfiguration(delivery_mode="Queue")),
            )
        )
        keys = await arm.namespaces.list_shared_access_keys(GROUP, name)
        base = broker.https if self.scheme == "https" else broker.http
        endpoint = f"{base}/{SUBSCRIPTION}/{GROUP}/namespaces/{name}"
        credential = AzureKeyCredential(keys.key1)
        publisher = EventGridPublisherClient(endpoint, credential, namespace_topic="jobs", **self.options)
        consumer = EventGridConsumerClient(
            endpoint, credential, namespace_topic="jobs", subscription="workers", **self.options
        )
        async with publisher, consumer:
            sent = [CloudEvent(source="/shop", type="job", data={"n": number}) for number in range(4)]
            await publisher.send(sent)
            received = []
            while len(received) < 4:
                more = await consumer.receive(max_events=4 - len(received), max_wait_time=10)
                self.assertTrue(more)
                received += more
            self.assertEqual({one.event.id for one in received}, {one.id for one in sent})
            locks = [one.broker_properties.lock_token for one in received]
            calls = (consumer.renew_locks, consumer.acknowledge, consumer.release, consumer.reject)
            for lock, call in zip(locks, calls):
                result = await call(lock_tokens=[lock])
                self.assertEqual(result.succeeded_lock_tokens, [lock])
                self.assertEqual(result.failed_lock_tokens, [])


class AsynchronousOverHttps(Asynchronous, unittest.IsolatedAsyncioTestCase):
    scheme = "https"


class AsynchronousOverHttp(Asynchronous, unittest.IsolatedAsyncioTestCase):
    scheme = "http"


if __name__ == "__main__":
    unittest.main()
