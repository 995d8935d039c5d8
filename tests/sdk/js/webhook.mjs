// A webhook that answers both handshakes and keeps what it was sent.

import { once } from "node:events";
import { createServer } from "node:http";
import { setTimeout as delay } from "node:timers/promises";

export class Webhook {
  #requests = [];
  #refusing = new Set();
  #server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks).toString();
    const { method, headers } = request;
    const path = request.url.split("?")[0];
    const kind = headers["aeg-event-type"];
    this.#requests.push({ method, path, headers, kind, json: body === "" ? undefined : JSON.parse(body) });
    if (path.startsWith("/refuse") || this.#refusing.has(path)) return response.writeHead(400).end();
    if (method === "OPTIONS") return response.writeHead(200, { "WebHook-Allowed-Origin": "*" }).end();
    if (kind !== "SubscriptionValidation") return response.writeHead(200).end();
    const { validationCode } = JSON.parse(body)[0].data;
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify({ validationResponse: validationCode }));
  });

  async start() {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return this;
  }

  url(path) {
    return `http://127.0.0.1:${this.#server.address().port}${path}`;
  }

  /** From now on, what comes to a path is answered 400. */
  refuse(path) {
    this.#refusing.add(path);
  }

  accept(path) {
    this.#refusing.delete(path);
  }

  handshakes(path) {
    return this.#requests.filter((one) => one.path === path && one.kind !== "Notification");
  }

  /** The deliveries to a path, once there are `count` of them. */
  async deliveries(path, count = 1, ms = 15_000) {
    const end = Date.now() + ms;
    for (;;) {
      const found = this.#requests.filter((one) => one.path === path && one.kind === "Notification");
      if (found.length >= count) return found;
      if (Date.now() > end) throw new Error(`waited ${ms} ms for ${count} deliveries, got ${found.length}`);
      await delay(10);
    }
  }

  async stop() {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }
}
