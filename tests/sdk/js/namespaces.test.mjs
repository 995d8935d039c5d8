// Namespace topics: published to and received from with `@azure/eventgrid-namespaces`.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { AzureKeyCredential } from "@azure/core-auth";
import { EventGridReceiverClient, EventGridSenderClient } from "@azure/eventgrid-namespaces";

import { GROUP, SUBSCRIPTION, Server, newName } from "./server.mjs";
import { Webhook } from "./webhook.mjs";

// The shortest that the service allows.
const SHORT_WAIT = 10;

const broker = new Server();
const webhook = new Webhook();
let hostname;
let keys;

before(async () => {
  await Promise.all([broker.start(), webhook.start()]);
  const namespace = await broker.manage("PUT", "namespaces/shop", { location: "local" });
  hostname = namespace.properties.topicsConfiguration.hostname;
  keys = await broker.manage("POST", "namespaces/shop/listKeys");
});
after(() => Promise.all([broker.stop(), webhook.stop()]));

const event = (n = 1) => ({ type: "job.created", source: "/shop", data: { n } });
const tokens = (received) => received.map((one) => one.brokerProperties.lockToken);

const refused = (statusCode) => (error) => {
  assert.equal(error.name, "RestError");
  assert.equal(Number(error.statusCode), statusCode);
  return true;
};

for (const scheme of ["https", "http"]) {
  describe(`namespace topics over ${scheme}`, () => {
    const endpoint = () =>
      scheme === "https"
        ? `https://${hostname}`
        : `${broker.http}/${SUBSCRIPTION}/${GROUP}/namespaces/shop`;
    const sender = (topic, key = keys.key1) =>
      new EventGridSenderClient(
        endpoint(),
        new AzureKeyCredential(key),
        topic,
        broker.clientOptions(scheme),
      );
    const receiver = (topic, subscription = "workers", key = keys.key2) =>
      new EventGridReceiverClient(
        endpoint(),
        new AzureKeyCredential(key),
        topic,
        subscription,
        broker.clientOptions(scheme),
      );

    /** A namespace topic with one pull subscription, and clients for both. */
    async function makeQueue() {
      const topic = newName("jobs");
      await broker.manage("PUT", `namespaces/shop/topics/${topic}`, { properties: {} });
      await broker.manage("PUT", `namespaces/shop/topics/${topic}/eventSubscriptions/workers`, {
        properties: { deliveryConfiguration: { deliveryMode: "Queue" } },
      });
      const queue = { topic, sender: sender(topic), receiver: receiver(topic) };
      queue.receive = async (count = 1) => {
        const received = [];
        while (received.length < count) {
          const options = { maxEvents: count - received.length, maxWaitTime: SHORT_WAIT };
          const { details } = await queue.receiver.receiveEvents(options);
          assert.ok(details.length > 0, `received ${received.length} of ${count}`);
          received.push(...details);
        }
        return received;
      };
      return queue;
    }

    function check(result, succeeded, failed = []) {
      assert.deepEqual(result.succeededLockTokens, succeeded);
      const codes = result.failedLockTokens.map((one) => [one.lockToken, one.error.code]);
      assert.deepEqual(codes, failed);
    }

    test("an event is received as it was published", async () => {
      const queue = await makeQueue();
      const time = new Date("2026-01-02T03:04:05.678Z");
      const sent = { ...event(), id: "j-1", subject: "jobs/1", time, dataSchema: "https://example.org/job" };
      await queue.sender.sendEvents(sent);
      const [{ brokerProperties, event: got }] = await queue.receive();
      assert.equal(brokerProperties.deliveryCount, 1);
      assert.equal(got.specVersion, "1.0");
      for (const name of Object.keys(sent)) assert.deepEqual(got[name], sent[name], name);
      const lock = [brokerProperties.lockToken];
      check(await queue.receiver.acknowledgeEvents(lock), lock);
    });

    test("an event without a subject has none when received", async () => {
      const queue = await makeQueue();
      await queue.sender.sendEvents(event());
      const [{ event: got }] = await queue.receive();
      assert.equal(got.subject, undefined);
      assert.equal(got.dataSchema, undefined);
      assert.ok(got.id);
    });

    test("a batch is received and acknowledged", async () => {
      const queue = await makeQueue();
      await queue.sender.sendEvents(Array.from({ length: 50 }, (_, n) => event(n)));
      const received = await queue.receive(50);
      assert.equal(new Set(received.map((one) => one.event.data.n)).size, 50);
      check(await queue.receiver.acknowledgeEvents(tokens(received)), tokens(received));
    });

    test("binary data stay the same", async () => {
      const queue = await makeQueue();
      const data = Uint8Array.from({ length: 256 }, (_, byte) => byte);
      await queue.sender.sendEvents({ ...event(), data, dataContentType: "application/octet-stream" });
      const [{ event: got }] = await queue.receive();
      // The client hands received bytes over as base64.
      assert.deepEqual(Buffer.from(got.data, "base64"), Buffer.from(data));
      assert.equal(got.dataContentType, "application/octet-stream");
    });

    test("a released event is received again", async () => {
      const queue = await makeQueue();
      await queue.sender.sendEvents(event());
      const lock = tokens(await queue.receive());
      check(await queue.receiver.releaseEvents(lock, { releaseDelay: "0" }), lock);
      const again = await queue.receive();
      assert.equal(again[0].brokerProperties.deliveryCount, 2);
      check(await queue.receiver.acknowledgeEvents(lock), [], [[lock[0], "TokenLost"]]);
      check(await queue.receiver.acknowledgeEvents(tokens(again)), tokens(again));
    });

    test("a rejected event is not received again", async () => {
      const queue = await makeQueue();
      await queue.sender.sendEvents([event(1), event(2)]);
      const [first] = await queue.receive();
      const lock = tokens([first]);
      check(await queue.receiver.rejectEvents(lock), lock);
      const [second] = await queue.receive();
      assert.notDeepEqual(second.event.data, first.event.data);
    });

    test("a lock is renewed, and each token gets its own result", async () => {
      const queue = await makeQueue();
      await queue.sender.sendEvents([event(1), event(2)]);
      const [one, two] = tokens(await queue.receive(2));
      check(await queue.receiver.renewEventLocks([one, two]), [one, two]);
      check(await queue.receiver.acknowledgeEvents([one]), [one]);
      const result = await queue.receiver.acknowledgeEvents([one, "nonsense", two]);
      const failed = Object.fromEntries(result.failedLockTokens.map((it) => [it.lockToken, it.error.code]));
      assert.deepEqual(failed, { [one]: "TokenLost", nonsense: "BadToken" });
      assert.deepEqual(result.succeededLockTokens, [two]);
      check(await queue.receiver.renewEventLocks([two]), [], [[two, "TokenLost"]]);
    });

    test("events are pushed to a webhook", async () => {
      const queue = await makeQueue();
      const path = `/${newName("push")}`;
      const destination = { endpointType: "WebHook", properties: { endpointUrl: webhook.url(path) } };
      await broker.manage("PUT", `namespaces/shop/topics/${queue.topic}/eventSubscriptions/pushed`, {
        properties: { deliveryConfiguration: { deliveryMode: "Push", push: { destination } } },
      });
      assert.deepEqual(webhook.handshakes(path).map((one) => one.method), ["OPTIONS"]);
      await queue.sender.sendEvents({ ...event(), id: "p-1" });
      const [{ headers, json }] = await webhook.deliveries(path);
      assert.equal(headers["content-type"], "application/cloudevents+json; charset=utf-8");
      assert.equal(headers["aeg-subscription-name"].toLowerCase(), "pushed");
      assert.deepEqual([json.id, json.data], ["p-1", { n: 1 }]);
    });

    test("a wrong key is refused", async () => {
      const { topic } = await makeQueue();
      const wrong = "d3Jvbmcga2V5IG9mIGEgbmFtZXNwYWNl";
      await assert.rejects(sender(topic, wrong).sendEvents(event()), refused(401));
      const stranger = receiver(topic, "workers", wrong);
      await assert.rejects(stranger.receiveEvents({ maxWaitTime: SHORT_WAIT }), refused(401));
      await assert.rejects(stranger.acknowledgeEvents(["any"]), refused(401));
    });

    test("what is unknown is not found", async () => {
      const { topic } = await makeQueue();
      await assert.rejects(sender("nowhere").sendEvents(event()), refused(404));
      await assert.rejects(receiver(topic, "nobody").receiveEvents({ maxWaitTime: SHORT_WAIT }), refused(404));
    });

    test("what is too large is refused", async () => {
      const queue = await makeQueue();
      for (const size of [1_100_000, 8_000_000]) {
        const sent = queue.sender.sendEvents({ ...event(), data: "x".repeat(size) });
        await assert.rejects(sent, refused(413));
      }
      await queue.sender.sendEvents(event());
    });

    test("a malformed batch is refused as a whole", async () => {
      const queue = await makeQueue();
      const sent = queue.sender.sendEvents([event(1), { ...event(2), type: undefined }]);
      await assert.rejects(sent, refused(400));
      await assert.rejects(queue.receiver.receiveEvents({ maxEvents: 101 }), refused(400));
      await queue.sender.sendEvents(event(3));
      assert.deepEqual((await queue.receive()).map((one) => one.event.data), [{ n: 3 }]);
    });
  });
}
