// A Gridwire process of its own for each test file, and the management calls that the tests start from.
//
// The program under test is the one named by GRIDWIRE_BIN. It runs on a temporary data directory and on
// ports of its own choice, which it writes to `addresses.json` once it is ready.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, openSync, closeSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

export const SUBSCRIPTION = "5b4b650e-28b9-4790-b3ab-ddbd88d727c4";
export const GROUP = "sdk-tests";

// A start takes well under a second; a slow machine that also compiles gets the rest.
const START_MS_MAX = 30_000;
const STOP_MS_MAX = 15_000;

export const newName = (prefix) => `${prefix}-${randomUUID().slice(0, 13)}`;

export class Server {
  #process;
  #root = mkdtempSync(join(tmpdir(), "gridwire-sdk-"));

  // Whatever ends this process ends the server with it.
  #onExit = () => {
    this.#process?.kill("SIGKILL");
    rmSync(this.#root, { recursive: true, force: true });
  };

  /** With `more` options of `serve`. */
  async start(more = []) {
    const program = process.env.GRIDWIRE_BIN;
    assert.ok(program, "GRIDWIRE_BIN must name the gridwire program; `cargo xtask test` sets it");
    process.once("exit", this.#onExit);
    for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(143));
    const dataDir = join(this.#root, "data");
    const log = openSync(join(this.#root, "log"), "a");
    const any = "127.0.0.1:0";
    const options = ["--data-dir", dataDir, "--http", any, "--https", any, "--admin", any];
    // The program reads every variable of its own name, and knows no GRIDWIRE_BIN.
    const foreign = Object.entries(process.env).filter(([name]) => !name.startsWith("GRIDWIRE_"));
    const settings = { env: Object.fromEntries(foreign), stdio: ["ignore", log, log] };
    this.#process = spawn(program, ["serve", "--dev", ...options, ...more], settings);
    closeSync(log);
    const failed = once(this.#process, "error").then(([error]) => Promise.reject(error));
    const addresses = await Promise.race([this.#addresses(dataDir), failed]);
    this.http = `http://${addresses.http}`;
    this.https = `https://${addresses.https}`;
    this.caFile = join(dataDir, "tls", "ca.pem");
    this.ca = readFileSync(this.caFile, "utf8");
    this.token = readFileSync(join(dataDir, "management.token"), "utf8").trim();
    return this;
  }

  async #addresses(dataDir) {
    const end = Date.now() + START_MS_MAX;
    while (Date.now() < end) {
      try {
        return JSON.parse(readFileSync(join(dataDir, "addresses.json"), "utf8"));
      } catch {
        const { exitCode, signalCode } = this.#process;
        if (exitCode !== null || signalCode !== null) {
          throw new Error(`the server ended with ${exitCode ?? signalCode}:\n${this.tail()}`);
        }
        await delay(20);
      }
    }
    throw new Error(`waited ${START_MS_MAX} ms for addresses.json:\n${this.tail()}`);
  }

  tail() {
    return readFileSync(join(this.#root, "log"), "utf8").slice(-4000);
  }

  async stop() {
    const child = this.#process;
    if (child && child.exitCode === null && child.signalCode === null) {
      const ended = once(child, "exit");
      child.kill("SIGTERM");
      const inTime = await Promise.race([ended.then(() => true), delay(STOP_MS_MAX, false, { ref: false })]);
      if (!inTime) child.kill("SIGKILL");
      await ended;
      assert.ok(inTime, `the server did not stop:\n${this.tail()}`);
    }
    process.removeListener("exit", this.#onExit);
    this.#onExit();
  }

  /** One management call without a client library: namespaces have none in JavaScript. */
  async manage(method, path, body) {
    const base = `${this.http}/subscriptions/${SUBSCRIPTION}/resourceGroups/${GROUP}/providers/Microsoft.EventGrid`;
    const response = await fetch(`${base}/${path}?api-version=2025-02-15`, {
      method,
      headers: { authorization: `Bearer ${this.token}`, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
    return text === "" ? undefined : JSON.parse(text);
  }

  /** A request for the dead letters of the event subscription at `path`. */
  async deadLetters(method, path, rest, body) {
    const id = `/subscriptions/${SUBSCRIPTION}/resourceGroups/${GROUP}/providers/Microsoft.EventGrid/${path}`;
    return this.#gridwire(method, `subscriptions/${encodeURIComponent(id)}/dead-letters${rest}`, body);
  }

  /** A job on dead letters, once it has ended. */
  async job(id) {
    const end = Date.now() + START_MS_MAX;
    for (;;) {
      const job = await this.#gridwire("GET", `dead-letter-jobs/${id}`);
      if (job.state !== "running") return job;
      assert.ok(Date.now() < end, `the job did not end: ${JSON.stringify(job)}`);
      await delay(50);
    }
  }

  async #gridwire(method, path, body) {
    const response = await fetch(`${this.http}/gridwire/v1/${path}`, {
      method,
      headers: { authorization: `Bearer ${this.token}`, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
    return JSON.parse(text);
  }

  /** The endpoint that the management API gave, on the listener wanted. */
  topicEndpoint(endpoint, scheme) {
    return scheme === "https" ? endpoint : endpoint.replace(new URL(endpoint).origin, this.http);
  }

  /** What a data plane client needs for a listener: http only with its consent, https with our authority. */
  clientOptions(scheme) {
    return scheme === "https" ? { tlsOptions: { ca: this.ca } } : { allowInsecureConnection: true };
  }
}
