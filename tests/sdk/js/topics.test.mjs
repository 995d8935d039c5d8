// Custom topics: managed with `@azure/arm-eventgrid`, published to with `@azure/eventgrid`, and what a
// webhook then gets.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { after, before, describe, test } from "node:test";

import { EventGridManagementClient } from "@azure/arm-eventgrid";
import { AzureKeyCredential, AzureSASCredential } from "@azure/core-auth";
import { EventGridPublisherClient, generateSharedAccessSignature } from "@azure/eventgrid";

import { GROUP, SUBSCRIPTION, Server, newName } from "./server.mjs";
import { Webhook } from "./webhook.mjs";

const HOUR = 3_600_000;
const broker = new Server();
const webhook = new Webhook();
let arm;

/** The management client refuses plain http with a token, so it always talks https. */
function management(token) {
  const credential = { getToken: async () => ({ token, expiresOnTimestamp: Date.now() + HOUR }) };
  const options = { endpoint: broker.https, ...broker.clientOptions("https") };
  return new EventGridManagementClient(credential, SUBSCRIPTION, options);
}

before(async () => {
  await Promise.all([broker.start(), webhook.start()]);
  arm = management(broker.token);
});
after(() => Promise.all([broker.stop(), webhook.stop()]));

const makeTopic = (properties = {}) =>
  arm.topics.beginCreateOrUpdateAndWait(GROUP, newName("topic"), { location: "local", ...properties });

const keys = (topic) => arm.topics.listSharedAccessKeys(GROUP, topic.name);

/** A webhook subscription to a topic, and the path at which its deliveries arrive. */
async function subscribe(topic, properties = {}) {
  const path = `/${newName("hook")}`;
  const destination = { endpointType: "WebHook", endpointUrl: webhook.url(path) };
  const info = { destination, ...properties };
  await arm.eventSubscriptions.beginCreateOrUpdateAndWait(topic.id, "billing", info);
  return path;
}

async function names(pages) {
  const found = [];
  for await (const one of pages) found.push(one.name);
  return found;
}

const refused = (statusCode, code) => (error) => {
  assert.equal(error.name, "RestError");
  assert.equal(error.statusCode, statusCode);
  assert.equal(error.code, code);
  return true;
};

describe("managing topics", () => {
  test("a topic lives from create to delete", async () => {
    const topic = await makeTopic({ inputSchema: "CloudEventSchemaV1_0", tags: { team: "billing" } });
    assert.equal(topic.provisioningState, "Succeeded");
    assert.equal(topic.inputSchema, "CloudEventSchemaV1_0");
    assert.match(topic.endpoint, /^https:.*\/api\/events$/);
    assert.deepEqual(await arm.topics.get(GROUP, topic.name), topic);
    assert.ok((await names(arm.topics.listByResourceGroup(GROUP))).includes(topic.name));
    assert.ok((await names(arm.topics.listBySubscription())).includes(topic.name));
    await arm.topics.beginUpdateAndWait(GROUP, topic.name, { tags: { team: "sales" } });
    assert.deepEqual((await arm.topics.get(GROUP, topic.name)).tags, { team: "sales" });
    await arm.topics.beginDeleteAndWait(GROUP, topic.name);
    await assert.rejects(arm.topics.get(GROUP, topic.name), refused(404, "ResourceNotFound"));
  });

  test("a key is replaced alone", async () => {
    const topic = await makeTopic();
    const first = await keys(topic);
    await arm.topics.beginRegenerateKeyAndWait(GROUP, topic.name, { keyName: "key1" });
    const second = await keys(topic);
    assert.notEqual(second.key1, first.key1);
    assert.equal(second.key2, first.key2);
  });

  test("an event subscription lives from create to delete, in either form", async () => {
    const topic = await makeTopic();
    const url = webhook.url(`/${newName("hook")}?code=secret`);
    const info = { destination: { endpointType: "WebHook", endpointUrl: url }, labels: ["one"] };
    const forms = [
      [arm.topicEventSubscriptions, [GROUP, topic.name, "nested"]],
      [arm.eventSubscriptions, [topic.id, "scoped"]],
    ];
    for (const [subscriptions, place] of forms) {
      const made = await subscriptions.beginCreateOrUpdateAndWait(...place, info);
      assert.equal(made.provisioningState, "Succeeded");
      assert.equal(made.topic.toLowerCase(), topic.id.toLowerCase());
      assert.equal(made.destination.endpointBaseUrl, url.split("?")[0]);
      assert.equal(made.destination.endpointUrl, undefined);
      assert.equal((await subscriptions.getFullUrl(...place)).endpointUrl, url);
      await subscriptions.beginUpdateAndWait(...place, { labels: ["two"] });
      assert.deepEqual((await subscriptions.get(...place)).labels, ["two"]);
    }
    const nested = await names(arm.topicEventSubscriptions.list(GROUP, topic.name));
    assert.deepEqual(nested.sort(), ["nested", "scoped"]);
    const byResource = arm.eventSubscriptions.listByResource(GROUP, "Microsoft.EventGrid", "topics", topic.name);
    assert.deepEqual((await names(byResource)).sort(), ["nested", "scoped"]);
    for (const [subscriptions, place] of forms) {
      await subscriptions.beginDeleteAndWait(...place);
      await assert.rejects(subscriptions.get(...place), refused(404, "ResourceNotFound"));
    }
  });

  test("an endpoint that does not agree is refused", async () => {
    const topic = await makeTopic();
    const destination = { endpointType: "WebHook", endpointUrl: webhook.url("/refuse") };
    const made = arm.eventSubscriptions.beginCreateOrUpdateAndWait(topic.id, "billing", { destination });
    await assert.rejects(made, refused(400, "Url validation"));
  });

  test("a wrong token is refused", async () => {
    const stranger = management("not-the-token-of-this-server");
    await assert.rejects(stranger.topics.get(GROUP, "orders"), refused(401, "Unauthorized"));
  });
});

for (const scheme of ["https", "http"]) {
  describe(`publishing over ${scheme}`, () => {
    const publisher = (topic, schema, credential, endpoint = topic.endpoint) =>
      new EventGridPublisherClient(
        broker.topicEndpoint(endpoint, scheme),
        schema,
        credential,
        broker.clientOptions(scheme),
      );
    const withKey = async (topic, schema) =>
      publisher(topic, schema, new AzureKeyCredential((await keys(topic)).key1));
    const signature = async (topic, credential, expiry) => {
      const endpoint = broker.topicEndpoint(topic.endpoint, scheme);
      return new AzureSASCredential(await generateSharedAccessSignature(endpoint, credential, expiry));
    };
    const eventGridEvent = (n = 1) => ({
      eventType: "order.paid",
      subject: "orders/7",
      dataVersion: "2.0",
      data: { n },
    });

    test("Event Grid events reach a webhook", async () => {
      const topic = await makeTopic();
      const path = await subscribe(topic);
      assert.deepEqual(
        webhook.handshakes(path).map((one) => [one.method, one.kind]),
        [["POST", "SubscriptionValidation"]],
      );
      const client = await withKey(topic, "EventGrid");
      const eventTime = new Date("2026-01-02T03:04:05.678Z");
      await client.send([{ ...eventGridEvent(1), id: "e-1", eventTime }]);
      const [{ headers, json }] = await webhook.deliveries(path);
      assert.equal(headers["content-type"], "application/json; charset=utf-8");
      assert.equal(headers["aeg-subscription-name"].toLowerCase(), "billing");
      assert.equal(headers["aeg-delivery-count"], "0");
      assert.equal(headers["aeg-event-type"], "Notification");
      assert.equal(headers["aeg-metadata-version"], "1");
      assert.equal(headers["aeg-data-version"], "2.0");
      assert.equal(headers["aeg-output-event-id"], "e-1");
      const [{ topic: source, eventTime: time, ...event }] = json;
      assert.equal(source.toLowerCase(), topic.id.toLowerCase());
      assert.equal(new Date(time).getTime(), eventTime.getTime());
      assert.deepEqual(event, { ...eventGridEvent(1), id: "e-1", metadataVersion: "1" });
      await client.send([eventGridEvent(2), eventGridEvent(3)]);
      const all = await webhook.deliveries(path, 3);
      assert.deepEqual(all.map((one) => one.json[0].data.n).sort(), [1, 2, 3]);
    });

    test("CloudEvents reach a webhook", async () => {
      const topic = await makeTopic({ inputSchema: "CloudEventSchemaV1_0" });
      const path = await subscribe(topic);
      assert.deepEqual(webhook.handshakes(path).map((one) => one.method), ["OPTIONS"]);
      const client = await withKey(topic, "CloudEvent");
      const data = Uint8Array.from({ length: 256 }, (_, byte) => byte);
      const common = { type: "order.paid", source: "/shop" };
      await client.send([
        { ...common, id: "c-1", subject: "s", data: { n: 1 }, extensionAttributes: { tenant: "blue" } },
        { ...common, id: "c-2", data, datacontenttype: "application/octet-stream" },
      ]);
      const found = await webhook.deliveries(path, 2);
      const byId = Object.fromEntries(found.map((one) => [one.json.id, one]));
      const { headers, json } = byId["c-1"];
      assert.equal(headers["content-type"], "application/cloudevents+json; charset=utf-8");
      assert.equal(headers["aeg-metadata-version"], "1.0");
      assert.equal(headers["aeg-output-event-id"], "c-1");
      assert.deepEqual(json.data, { n: 1 });
      assert.equal(json.tenant, "blue");
      assert.equal(json.subject, "s");
      assert.equal(json.datacontenttype, "application/json");
      assert.deepEqual(Buffer.from(byId["c-2"].json.data_base64, "base64"), Buffer.from(data));
    });

    test("custom events are delivered as they came", async () => {
      const inputSchemaMapping = {
        inputSchemaMappingType: "Json",
        id: { sourceField: "key" },
        eventType: { sourceField: "kind", defaultValue: "unknown" },
        subject: { defaultValue: "nothing" },
        dataVersion: { defaultValue: "3" },
      };
      const topic = await makeTopic({ inputSchema: "CustomEventSchema", inputSchemaMapping });
      const path = await subscribe(topic, { eventDeliverySchema: "CustomInputSchema" });
      const event = { key: "k1", kind: "order.paid", deep: { list: [1, 2.5, null] } };
      await (await withKey(topic, "Custom")).send([event]);
      const [{ headers, json }] = await webhook.deliveries(path);
      assert.equal(headers["aeg-output-event-id"], "k1");
      assert.deepEqual(json, [event]);
    });

    test("either key and a signature open a topic", async () => {
      const topic = await makeTopic();
      const path = await subscribe(topic);
      const { key1, key2 } = await keys(topic);
      const inAnHour = new Date(Date.now() + HOUR);
      const credentials = [
        new AzureKeyCredential(key1),
        new AzureKeyCredential(key2),
        await signature(topic, new AzureKeyCredential(key2), inAnHour),
      ];
      for (const [n, credential] of credentials.entries()) {
        await publisher(topic, "EventGrid", credential).send([eventGridEvent(n)]);
      }
      const found = await webhook.deliveries(path, 3);
      assert.deepEqual(found.map((one) => one.json[0].data.n).sort(), [0, 1, 2]);
    });

    test("a wrong key and an expired signature are refused", async () => {
      const topic = await makeTopic();
      const anHourAgo = new Date(Date.now() - HOUR);
      const { key1 } = await keys(topic);
      const credentials = [
        new AzureKeyCredential((await keys(await makeTopic())).key1),
        await signature(topic, new AzureKeyCredential(key1), anHourAgo),
      ];
      for (const credential of credentials) {
        const sent = publisher(topic, "EventGrid", credential).send([eventGridEvent()]);
        await assert.rejects(sent, refused(401, "Unauthorized"));
      }
    });

    test("an unknown topic is not found", async () => {
      const topic = await makeTopic();
      const credential = new AzureKeyCredential((await keys(topic)).key1);
      const nowhere = topic.endpoint.replace(topic.name, "nowhere");
      const sent = publisher(topic, "EventGrid", credential, nowhere).send([eventGridEvent()]);
      await assert.rejects(sent, refused(404, "ResourceNotFound"));
    });

    test("what is too large is refused", async () => {
      const topic = await makeTopic();
      const client = await withKey(topic, "EventGrid");
      for (const size of [1_100_000, 8_000_000]) {
        const sent = client.send([{ ...eventGridEvent(), data: { text: "x".repeat(size) } }]);
        await assert.rejects(sent, refused(413, "RequestEntityTooLarge"));
      }
      await client.send([eventGridEvent()]);
    });

    test("a malformed batch is refused as a whole", async () => {
      const topic = await makeTopic();
      const path = await subscribe(topic);
      const client = await withKey(topic, "EventGrid");
      // The client checks Event Grid events itself; custom ones it sends as they are.
      const unchecked = await withKey(topic, "Custom");
      const whole = { ...eventGridEvent(2), id: "e-1", eventTime: "2026-01-02T03:04:05Z" };
      await unchecked.send([whole]);
      for (const missing of ["id", "subject", "eventType", "eventTime"]) {
        const part = Object.fromEntries(Object.entries(whole).filter(([name]) => name !== missing));
        await assert.rejects(unchecked.send([whole, part]), refused(400, "BadRequest"), missing);
      }
      await client.send([eventGridEvent(3)]);
      const found = await webhook.deliveries(path, 2);
      assert.deepEqual(found.map((one) => one.json[0].data.n).sort(), [2, 3]);
      const cloudEvents = await withKey(topic, "CloudEvent");
      const sent = cloudEvents.send([{ type: "t", source: "/s", data: { n: 1 } }]);
      await assert.rejects(sent, (error) => error.statusCode === 400 || error.statusCode === 415);
    });
  });
}

test("the authority may be given by the environment", async () => {
  const topic = await makeTopic({ inputSchema: "CloudEventSchemaV1_0" });
  const path = await subscribe(topic);
  const script = fileURLToPath(new URL("send-with-extra-ca.mjs", import.meta.url));
  const { key1 } = await keys(topic);
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: broker.caFile };
  await promisify(execFile)(process.execPath, [script, topic.endpoint, key1], { env, timeout: 20_000 });
  assert.equal((await webhook.deliveries(path))[0].json.id, "by-environment");
});
