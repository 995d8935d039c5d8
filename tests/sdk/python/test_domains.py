"""Domains: managed with `azure-mgmt-eventgrid`, published to with `azure-eventgrid`."""

import os
import unittest
from datetime import datetime, timedelta, timezone
from unittest.mock import patch

from azure.core.credentials import AzureKeyCredential, AzureSasCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, EventGridPublisherClient, generate_sas
from azure.mgmt.eventgrid.models import (
    Domain,
    DomainRegenerateKeyRequest,
    DomainUpdateParameters,
    EventSubscription,
    EventSubscriptionUpdateParameters,
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


class Domains:
    """Every test runs over both transports."""

    scheme = None

    def setUp(self):
        self.arm = broker.management(self.scheme)
        self.addCleanup(self.arm.close)

    def domain(self, **properties):
        return self.arm.domains.begin_create_or_update(
            GROUP, new_name("domain"), Domain(location="local", **properties)
        ).result()

    def info(self):
        path = "/" + new_name("hook")
        destination = WebHookEventSubscriptionDestination(endpoint_url=sink.url(path))
        return path, EventSubscription(destination=destination)

    def publisher(self, domain, credential=None):
        if self.scheme == "https":
            # The constructor of the synchronous client drops `connection_verify`.
            environment = patch.dict(os.environ, REQUESTS_CA_BUNDLE=broker.ca)
            environment.start()
            self.addCleanup(environment.stop)
        key = self.arm.domains.list_shared_access_keys(GROUP, domain.name).key1
        client = EventGridPublisherClient(
            broker.topic_endpoint(domain, self.scheme), credential or AzureKeyCredential(key)
        )
        self.addCleanup(client.close)
        return client

    def test_a_domain_lives_from_create_to_delete(self):
        domains = self.arm.domains
        domain = self.domain(tags={"team": "malls"})
        self.assertEqual(domain.provisioning_state, "Succeeded")
        self.assertEqual(domain.type.lower(), "microsoft.eventgrid/domains")
        self.assertEqual(domain.input_schema, "EventGridSchema")
        self.assertTrue(domain.auto_create_topic_with_first_subscription)
        self.assertTrue(domain.endpoint.endswith(f"/domains/{domain.name}/api/events"), domain.endpoint)
        self.assertEqual(domains.get(GROUP, domain.name).as_dict(), domain.as_dict())
        self.assertIn(domain.name, names(domains.list_by_resource_group(GROUP)))
        self.assertIn(domain.name, names(domains.list_by_subscription()))
        update = DomainUpdateParameters(auto_delete_topic_with_last_subscription=False)
        domains.begin_update(GROUP, domain.name, update).result()
        self.assertFalse(domains.get(GROUP, domain.name).auto_delete_topic_with_last_subscription)
        before = domains.list_shared_access_keys(GROUP, domain.name)
        after = domains.regenerate_key(GROUP, domain.name, DomainRegenerateKeyRequest(key_name="key1"))
        self.assertNotEqual(before.key1, after.key1)
        self.assertEqual(before.key2, after.key2)
        domains.begin_delete(GROUP, domain.name).result()
        with self.assertRaises(ResourceNotFoundError):
            domains.get(GROUP, domain.name)

    def test_topics_of_a_domain_are_made_listed_and_deleted(self):
        domain = self.domain()
        topics = self.arm.domain_topics
        made = topics.begin_create_or_update(GROUP, domain.name, "north").result()
        self.assertEqual(made.provisioning_state, "Succeeded")
        self.assertEqual(made.id, f"{domain.id}/topics/north")
        for number in range(25):
            topics.begin_create_or_update(GROUP, domain.name, f"topic-{number:02}").result()
        listed = names(topics.list_by_domain(GROUP, domain.name))
        self.assertEqual(listed, ["north"] + [f"topic-{number:02}" for number in range(25)])
        self.assertEqual(names(topics.list_by_domain(GROUP, domain.name, filter="contains(name,'ort')")), ["north"])
        topics.begin_delete(GROUP, domain.name, "north").result()
        with self.assertRaises(ResourceNotFoundError):
            topics.get(GROUP, domain.name, "north")

    def test_subscriptions_live_from_create_to_delete_in_every_form(self):
        domain = self.domain()
        arm = self.arm
        forms = [
            (arm.domain_event_subscriptions, (GROUP, domain.name), domain.id),
            (arm.event_subscriptions, (domain.id,), domain.id),
            (arm.domain_topic_event_subscriptions, (GROUP, domain.name, "north"), f"{domain.id}/topics/north"),
            (arm.event_subscriptions, (f"{domain.id}/topics/north",), f"{domain.id}/topics/north"),
        ]
        for subscriptions, place, source in forms:
            path, info = self.info()
            place = (*place, "billing")
            made = subscriptions.begin_create_or_update(*place, info).result()
            self.assertEqual(made.provisioning_state, "Succeeded")
            self.assertEqual(made.topic, source)
            self.assertEqual(subscriptions.get_full_url(*place).endpoint_url, sink.url(path))
            self.assertEqual(subscriptions.get_delivery_attributes(*place).value, [])
            update = EventSubscriptionUpdateParameters(labels=["one"])
            subscriptions.begin_update(*place, update).result()
            self.assertEqual(subscriptions.get(*place).labels, ["one"])
            if source == domain.id:
                self.assertEqual(names(arm.domain_event_subscriptions.list(GROUP, domain.name)), ["billing"])
                by_resource = arm.event_subscriptions.list_by_resource(
                    GROUP, "Microsoft.EventGrid", "domains", domain.name
                )
                self.assertEqual(names(by_resource), ["billing"])
            else:
                nested = arm.domain_topic_event_subscriptions.list(GROUP, domain.name, "north")
                self.assertEqual(names(nested), ["billing"])
                scope = arm.event_subscriptions.list_by_domain_topic(GROUP, domain.name, "north")
                self.assertEqual(names(scope), ["billing"])
            subscriptions.begin_delete(*place).result()
            with self.assertRaises(ResourceNotFoundError):
                subscriptions.get(*place)
        # The last one took its topic with it.
        self.assertEqual(names(arm.domain_topics.list_by_domain(GROUP, domain.name)), [])

    def test_event_grid_events_reach_their_topics(self):
        domain = self.domain()
        all_path, info = self.info()
        self.arm.event_subscriptions.begin_create_or_update(domain.id, "all", info).result()
        north, info = self.info()
        place = (GROUP, domain.name, "north", "own")
        self.arm.domain_topic_event_subscriptions.begin_create_or_update(*place, info).result()

        def event(topic, number):
            return EventGridEvent(
                subject="orders", event_type="paid", data={"n": number}, data_version="1", topic=topic
            )

        self.publisher(domain).send([event("north", 1), event("south", 2)])
        delivered = sink.deliveries(north)[0].json()[0]
        self.assertEqual(delivered["data"], {"n": 1})
        self.assertEqual(delivered["topic"], f"{domain.id}/topics/north")
        topics = {one.json()[0]["topic"] for one in sink.deliveries(all_path, 2)}
        self.assertEqual(topics, {f"{domain.id}/topics/north", f"{domain.id}/topics/south"})
        with self.assertRaises(HttpResponseError) as refused:
            self.publisher(domain).send([event("north", 3), event("https://x.example/", 4)])
        self.assertEqual(refused.exception.status_code, 400)
        self.assertIn("just the name of the domain topic", str(refused.exception))

    def test_cloud_events_reach_the_topic_that_is_their_source(self):
        domain = self.domain(input_schema="CloudEventSchemaV1_0")
        north, info = self.info()
        place = (GROUP, domain.name, "north", "own")
        self.arm.domain_topic_event_subscriptions.begin_create_or_update(*place, info).result()
        endpoint = broker.topic_endpoint(domain, self.scheme)
        key = self.arm.domains.list_shared_access_keys(GROUP, domain.name).key2
        expiry = datetime.now(timezone.utc) + timedelta(hours=1)
        publisher = self.publisher(domain, AzureSasCredential(generate_sas(endpoint, key, expiry)))
        publisher.send([CloudEvent(source=to, type="paid", data=to) for to in ("north", "south")])
        delivered = sink.deliveries(north)[0].json()
        self.assertEqual((delivered["source"], delivered["data"]), ("north", "north"))


class DomainsOverHttps(Domains, unittest.TestCase):
    scheme = "https"


class DomainsOverHttp(Domains, unittest.TestCase):
    scheme = "http"


if __name__ == "__main__":
    unittest.main()
