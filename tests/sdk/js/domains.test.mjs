// Domains: managed with `@azure/arm-eventgrid`, published to with `@azure/eventgrid`.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { EventGridManagementClient } from "@azure/arm-eventgrid";
import { AzureKeyCredential } from "@azure/core-auth";
import { EventGridPublisherClient } from "@azure/eventgrid";

import { GROUP, SUBSCRIPTION, Server, newName } from "./server.mjs";
import { Webhook } from "./webhook.mjs";

const broker = new Server();
const webhook = new Webhook();
let arm;

before(async () => {
  await Promise.all([broker.start(), webhook.start()]);
  const credential = {
    getToken: async () => ({ token: broker.token, expiresOnTimestamp: Date.now() + 3_600_000 }),
  };
  const options = { endpoint: broker.https, ...broker.clientOptions("https") };
  arm = new EventGridManagementClient(credential, SUBSCRIPTION, options);
});
after(() => Promise.all([broker.stop(), webhook.stop()]));

const makeDomain = (properties = {}) =>
  arm.domains.beginCreateOrUpdateAndWait(GROUP, newName("domain"), { location: "local", ...properties });

async function names(pages) {
  const found = [];
  for await (const one of pages) found.push(one.name);
  return found;
}

/** A webhook subscription to a domain's topic, and the path at which its deliveries arrive. */
async function subscribe(domain, topic) {
  const path = `/${newName("hook")}`;
  const info = { destination: { endpointType: "WebHook", endpointUrl: webhook.url(path) } };
  const place = [GROUP, domain.name, topic, "billing"];
  await arm.domainTopicEventSubscriptions.beginCreateOrUpdateAndWait(...place, info);
  return path;
}

async function publisher(domain, schema, scheme) {
  const { key1 } = await arm.domains.listSharedAccessKeys(GROUP, domain.name);
  const endpoint = broker.topicEndpoint(domain.endpoint, scheme);
  return new EventGridPublisherClient(
    endpoint,
    schema,
    new AzureKeyCredential(key1),
    broker.clientOptions(scheme),
  );
}

test("a domain and its topics live from create to delete", async () => {
  const domain = await makeDomain({ inputSchema: "CloudEventSchemaV1_0" });
  assert.equal(domain.provisioningState, "Succeeded");
  assert.equal(domain.autoDeleteTopicWithLastSubscription, true);
  assert.ok((await names(arm.domains.listByResourceGroup(GROUP))).includes(domain.name));
  await arm.domainTopics.beginCreateOrUpdateAndWait(GROUP, domain.name, "north");
  await subscribe(domain, "south");
  assert.deepEqual(await names(arm.domainTopics.listByDomain(GROUP, domain.name)), ["north", "south"]);
  const place = [GROUP, domain.name, "south", "billing"];
  assert.equal((await arm.domainTopicEventSubscriptions.get(...place)).topic, `${domain.id}/topics/south`);
  await arm.domainTopicEventSubscriptions.beginDeleteAndWait(...place);
  assert.deepEqual(await names(arm.domainTopics.listByDomain(GROUP, domain.name)), ["north"]);
  const keys = await arm.domains.regenerateKey(GROUP, domain.name, { keyName: "key2" });
  assert.ok(keys.key1 && keys.key2);
  await arm.domains.beginDeleteAndWait(GROUP, domain.name);
  await assert.rejects(arm.domains.get(GROUP, domain.name), { statusCode: 404 });
});

for (const scheme of ["https", "http"]) {
  test(`events reach their topics over ${scheme}`, async () => {
    const domain = await makeDomain();
    const [north, south] = await Promise.all([subscribe(domain, "north"), subscribe(domain, "south")]);
    const event = (topic) => ({
      eventType: "paid",
      subject: "orders",
      dataVersion: "1",
      data: { for: topic },
      topic,
    });
    const client = await publisher(domain, "EventGrid", scheme);
    await client.send([event("north"), event("south")]);
    for (const [path, topic] of [[north, "north"], [south, "south"]]) {
      const [delivery] = await webhook.deliveries(path);
      const [delivered] = delivery.json;
      assert.deepEqual(delivered.data, { for: topic });
      assert.equal(delivered.topic, `${domain.id}/topics/${topic}`);
    }
    const both = [event("north"), event("https://malls.example/")];
    await assert.rejects(client.send(both), { statusCode: 400, code: "BadRequest" });
  });

  test(`CloudEvents reach the topic that is their source over ${scheme}`, async () => {
    const domain = await makeDomain({ inputSchema: "CloudEventSchemaV1_0" });
    const north = await subscribe(domain, "north");
    const client = await publisher(domain, "CloudEvent", scheme);
    await client.send([
      { type: "paid", source: "south", data: { n: 1 } },
      { type: "paid", source: "north", data: { n: 2 } },
    ]);
    const [delivery] = await webhook.deliveries(north);
    const delivered = delivery.json;
    assert.deepEqual([delivered.source, delivered.data], ["north", { n: 2 }]);
  });
}
