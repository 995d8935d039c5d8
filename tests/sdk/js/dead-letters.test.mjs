// Dead letters in a storage account, as blobs: Azurite, Microsoft's emulator, receives them, and they are read
// back with `@azure/storage-blob`. And in a bucket of what stands for S3 here (`s3.mjs`).

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as delay } from "node:timers/promises";
import { after, before, describe, test } from "node:test";

import { BlobServiceClient, StorageSharedKeyCredential } from "@azure/storage-blob";

import { S3 } from "./s3.mjs";
import { GROUP, SUBSCRIPTION, Server, newName } from "./server.mjs";
import { Webhook } from "./webhook.mjs";

const ACCOUNT = "letters1";
const KEY = Buffer.from("a key for tests, and for nothing else at all").toString("base64");
const START_MS_MAX = 60_000;
/** A letter that could not be written is written again after ten seconds. */
const LETTER_MS_MAX = 60_000;

/** An emulated storage account on a port of its own, in memory. */
class Azurite {
  #process;
  #root = mkdtempSync(join(tmpdir(), "gridwire-azurite-"));
  #onExit = () => {
    this.#process?.kill("SIGKILL");
    rmSync(this.#root, { recursive: true, force: true });
  };

  async start() {
    process.once("exit", this.#onExit);
    const program = fileURLToPath(import.meta.resolve("azurite/dist/src/blob/main.js"));
    const options = ["--blobHost", "127.0.0.1", "--blobPort", "0"];
    const more = ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"];
    this.#process = spawn(process.execPath, [program, ...options, ...more], {
      cwd: this.#root, // Whatever it writes besides blobs.
      env: { ...process.env, AZURITE_ACCOUNTS: `${ACCOUNT}:${KEY}` },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let said = "";
    const end = Date.now() + START_MS_MAX;
    this.#process.stdout.on("data", (text) => (said += text));
    for (;;) {
      const port = said.match(/successfully listen\w* (?:on|at) http:\/\/127\.0\.0\.1:(\d+)/)?.[1];
      if (port) {
        this.url = `http://127.0.0.1:${port}/${ACCOUNT}`;
        break;
      }
      const over = Date.now() > end || this.#process.exitCode !== null;
      if (over) throw new Error(`the emulator did not start:\n${said}`);
      await delay(20);
    }
    const credential = new StorageSharedKeyCredential(ACCOUNT, KEY);
    this.blobs = new BlobServiceClient(this.url, credential);
    return this;
  }

  /** Name and content of every blob of a container, once there are `count`. */
  async letters(container, count) {
    const client = this.blobs.getContainerClient(container);
    const end = Date.now() + LETTER_MS_MAX;
    for (;;) {
      const names = [];
      if (await client.exists()) for await (const blob of client.listBlobsFlat()) names.push(blob.name);
      if (names.length >= count) {
        const read = async (name) => [name, JSON.parse((await client.getBlobClient(name).downloadToBuffer()).toString())];
        return Promise.all(names.map(read));
      }
      if (Date.now() > end) throw new Error(`waited for ${count} letters, found ${names}`);
      await delay(50);
    }
  }

  async stop() {
    const ended = once(this.#process, "exit");
    this.#process.kill("SIGKILL");
    await ended;
    process.removeListener("exit", this.#onExit);
    this.#onExit();
  }
}

const azurite = new Azurite();
const s3 = new S3("eu-west-1", "AKIDTESTS", "a secret/for+tests");
const broker = new Server();
const webhook = new Webhook();
const files = mkdtempSync(join(tmpdir(), "gridwire-config-"));

before(async () => {
  await Promise.all([azurite.start(), s3.start(), webhook.start()]);
  const keyFile = join(files, "key");
  writeFileSync(keyFile, `${KEY}\n`);
  const config = join(files, "gridwire.toml");
  const azure = `[dead_letter.accounts.${ACCOUNT}]\nurl = "${azurite.url}"\nkey_file = "${keyFile}"\n`;
  const bucket = `[dead_letter.accounts.letters3]\nkind = "s3"\nurl = "${s3.url}"\nregion = "eu-west-1"\nkey = "AKIDTESTS:a secret/for+tests"\n`;
  writeFileSync(config, azure + bucket);
  await broker.start(["--config", config]);
});
after(async () => {
  await Promise.all([broker.stop(), webhook.stop()]);
  await Promise.all([azurite.stop(), s3.stop()]);
  rmSync(files, { recursive: true, force: true });
});

const account = (name) =>
  `/subscriptions/${SUBSCRIPTION}/resourceGroups/${GROUP}/providers/Microsoft.Storage/storageAccounts/${name}`;

/** A topic whose one subscription cannot deliver: everything becomes a dead letter in `container`. */
async function hopeless(schema, container, accountName = ACCOUNT) {
  const name = newName("topic");
  await broker.manage("PUT", `topics/${name}`, { location: "local", properties: { inputSchema: schema } });
  const deadLetterDestination = {
    endpointType: "StorageBlob",
    properties: { resourceId: account(accountName), blobContainerName: container },
  };
  const hook = `/later/${name}`;
  const destination = { endpointType: "WebHook", properties: { endpointUrl: webhook.url(hook) } };
  const properties = { destination, deadLetterDestination };
  const path = `topics/${name}/eventSubscriptions/billing`;
  const made = await broker.manage("PUT", path, { properties });
  // Validated, and from now on it refuses.
  webhook.refuse(hook);
  const { key1 } = await broker.manage("POST", `topics/${name}/listKeys`);
  return { name, key1, made, path, hook };
}

async function publish(topic, contentType, events) {
  const url = `${broker.http}/${SUBSCRIPTION}/${GROUP}/topics/${topic.name}/api/events`;
  const headers = { "aeg-sas-key": topic.key1, "content-type": contentType };
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(events) });
  assert.equal(response.status, 200, await response.text());
}

const gridEvent = {
  id: "e-1",
  subject: "orders/1",
  eventType: "order.paid",
  eventTime: "2026-03-01T12:00:00.5Z",
  dataVersion: "1.0",
  data: { amount: 12.5, note: "Grüße" },
};
const cloudEvent = { specversion: "1.0", id: "c-1", source: "/shop", type: "order.paid", subject: "orders/1", time: "2026-03-01T12:00:00Z", data: [1, "ß"] };
const NAME = /^BILLING\/\d{4}\/[1-9]\d?\/[1-9]\d?\/(?:0|[1-9]\d?)\/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json$/;

describe("dead letters in a storage account", () => {
  test("an Event Grid event becomes a blob as documented, once its container is there", async () => {
    const topic = await hopeless("EventGridSchema", "grid");
    const shown = topic.made.properties.deadLetterDestination.properties;
    assert.equal(shown.blobContainerName, "grid");
    assert.equal(shown.lettersAt, `${azurite.url}/grid`);
    await publish(topic, "application/json", [gridEvent]);
    // There is no container yet, so the first try fails; the next one comes ten seconds later.
    await webhook.deliveries(topic.hook);
    await azurite.blobs.getContainerClient("grid").createIfNotExists();
    const [[name, letter]] = await azurite.letters("grid", 1);
    assert.match(name, NAME);
    const { topic: from, metadataVersion, publishTime, lastDeliveryAttemptTime, ...rest } = letter[0];
    assert.match(from, new RegExp(`/topics/${topic.name}$`));
    assert.equal(metadataVersion, "1");
    assert.ok(Date.parse(publishTime) <= Date.parse(lastDeliveryAttemptTime));
    assert.deepEqual(rest, {
      ...gridEvent,
      deadLetterReason: "UndeliverableDueToHttpBadRequest",
      deliveryAttempts: 1,
      lastDeliveryOutcome: "BadRequest",
      lastHttpStatusCode: 400,
    });
    assert.equal(letter.length, 1);
  });

  test("CloudEvents become blobs, are listed, redriven once and marked", async () => {
    await azurite.blobs.getContainerClient("cloud").create();
    const topic = await hopeless("CloudEventSchemaV1_0", "cloud");
    const events = [1, 2, 3].map((number) => ({ ...cloudEvent, id: `c-${number}` }));
    await publish(topic, "application/cloudevents-batch+json", events);
    const letters = await azurite.letters("cloud", 3);
    for (const [name, [letter]] of letters) {
      assert.match(name, NAME);
      const { publishtime, lastdeliveryattempttime, ...rest } = letter;
      assert.ok(publishtime && lastdeliveryattempttime);
      assert.deepEqual(rest, {
        ...cloudEvent,
        id: letter.id,
        deadletterreason: "UndeliverableDueToHttpBadRequest",
        deliveryattempts: 1,
        lastdeliveryoutcome: "BadRequest",
        lasthttpstatuscode: 400,
      });
    }
    const listed = await broker.deadLetters("GET", topic.path, "?max=2");
    assert.equal(listed.deadLetters.length, 2);
    const rest = await broker.deadLetters("GET", topic.path, `?after=${listed.next}`);
    assert.deepEqual([...listed.deadLetters, ...rest.deadLetters].map((one) => one.eventId).sort(), ["c-1", "c-2", "c-3"]);
    const first = listed.deadLetters[0];
    const one = await broker.deadLetters("GET", topic.path, `/${first.id}`);
    assert.deepEqual(one.letter, letters.find(([name]) => name === first.path)[1]);

    webhook.accept(topic.hook);
    const before = (await webhook.deliveries(topic.hook, 3)).length;
    const job = await broker.deadLetters("POST", topic.path, ":redrive", {});
    const came = await webhook.deliveries(topic.hook, before + 3);
    assert.deepEqual(came.slice(before).map((one) => one.json.id).sort(), ["c-1", "c-2", "c-3"]);
    const done = await broker.job(job.id);
    assert.deepEqual([done.state, done.taken], ["done", 3]);
    const marked = await azurite.letters("cloud", 3);
    assert.deepEqual(marked.map(([name]) => name).sort(), letters.map(([name]) => name.replace(/json$/, "redriven")).sort());
    const purge = await broker.deadLetters("POST", topic.path, ":purge", { redriven: true });
    assert.equal((await broker.job(purge.id)).taken, 3);
    assert.deepEqual(await azurite.letters("cloud", 0), []);
  });

  test("in S3 they are objects, are listed, redriven once, marked and purged", async () => {
    s3.buckets.set("grid", new Map());
    const topic = await hopeless("EventGridSchema", "grid", "letters3");
    assert.equal(topic.made.properties.deadLetterDestination.properties.lettersAt, `${s3.url}/grid`);
    await publish(topic, "application/json", [1, 2, 3].map((number) => ({ ...gridEvent, id: `e-${number}` })));
    const objects = s3.buckets.get("grid");
    const end = Date.now() + LETTER_MS_MAX;
    while (objects.size < 3 && Date.now() < end) await delay(20);
    const names = [...objects.keys()].sort();
    assert.deepEqual(s3.refused, []);
    assert.equal(names.length, 3);
    for (const [name, content] of objects) {
      assert.match(name, NAME);
      const [letter] = JSON.parse(content.toString());
      assert.equal(letter.deadLetterReason, "UndeliverableDueToHttpBadRequest");
      assert.deepEqual(letter.data, gridEvent.data);
    }
    const first = await broker.deadLetters("GET", topic.path, "?max=2");
    const rest = await broker.deadLetters("GET", topic.path, `?after=${first.next}`);
    assert.deepEqual([...first.deadLetters, ...rest.deadLetters].map((one) => one.path), names);

    webhook.accept(topic.hook);
    const before = (await webhook.deliveries(topic.hook, 3)).length;
    const { id } = await broker.deadLetters("POST", topic.path, ":redrive", {});
    const came = await webhook.deliveries(topic.hook, before + 3);
    assert.deepEqual(came.slice(before).map((one) => one.json[0].id).sort(), ["e-1", "e-2", "e-3"]);
    assert.equal((await broker.job(id)).taken, 3);
    assert.deepEqual([...objects.keys()].sort(), names.map((name) => name.replace(/json$/, "redriven")));
    const purge = await broker.deadLetters("POST", topic.path, ":purge", { redriven: true });
    assert.equal((await broker.job(purge.id)).taken, 3);
    assert.deepEqual([objects.size, s3.refused], [0, []]);
  });

  test("an account that is not configured is a directory, and the subscription says so", async () => {
    const topic = await hopeless("EventGridSchema", "elsewhere", "letters2");
    const shown = topic.made.properties.deadLetterDestination.properties;
    assert.equal(shown.lettersAt, "deadletter/letters2/elsewhere in the data directory");
    const got = await broker.manage("GET", topic.path);
    assert.deepEqual(got.properties.deadLetterDestination.properties, shown);
  });
});
