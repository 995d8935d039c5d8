// As much of S3 as dead letters need, for tests: put, get, head, copy, list and delete in buckets addressed by path.
// Every request must be signed as AWS documents it (signature version 4), which is worked out here anew.

import { createHash, createHmac } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();
const xml = (text) => text.replace(/[<>&]/g, (one) => `&#${one.charCodeAt(0)};`);
const byName = ([a], [b]) => (a < b ? -1 : 1);

export class S3 {
  /** Bucket to objects, name to bytes. */
  buckets = new Map();
  /** Requests that were refused, and why. */
  refused = [];
  #region;
  #keyId;
  #secret;
  #server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const refusal = this.#refusal(request, body);
    const [status, headers, content] = refusal ? this.#refuse(request, 403, refusal) : this.#answer(request, body);
    response.writeHead(status, headers).end(request.method === "HEAD" ? undefined : content);
  });

  constructor(region, keyId, secret) {
    this.#region = region;
    this.#keyId = keyId;
    this.#secret = secret;
  }

  async start() {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    this.url = `http://127.0.0.1:${this.#server.address().port}`;
    return this;
  }

  async stop() {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  #refuse(request, status, why) {
    this.refused.push(`${request.method} ${request.url}: ${why}`);
    return [status, { "content-type": "application/xml" }, `<Error><Code>${xml(why)}</Code></Error>`];
  }

  /** Why a request is not to be trusted, if it is not. */
  #refusal({ method, url, headers }, body) {
    const shape = /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/;
    const [, keyId, day, region, names, signature] = headers.authorization?.match(shape) ?? [];
    if (keyId !== this.#keyId || region !== this.#region) return "InvalidAccessKeyId";
    const time = headers["x-amz-date"];
    if (!time?.startsWith(day)) return "AccessDenied";
    const digest = headers["x-amz-content-sha256"];
    if (digest !== sha256(body)) return "XAmzContentSHA256Mismatch";
    const { pathname, searchParams } = new URL(url, this.url);
    const encode = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`);
    const query = [...searchParams].map((pair) => pair.map(encode)).sort(byName).map((pair) => pair.join("=")).join("&");
    const signed = names.split(";").map((name) => `${name}:${headers[name]}\n`).join("");
    const canonical = [method, pathname, query, signed, names, digest].join("\n");
    const scope = `${day}/${region}/s3/aws4_request`;
    const text = ["AWS4-HMAC-SHA256", time, scope, sha256(canonical)].join("\n");
    const key = [day, region, "s3", "aws4_request"].reduce(hmac, `AWS4${this.#secret}`);
    return hmac(key, text).toString("hex") === signature ? undefined : "SignatureDoesNotMatch";
  }

  #answer(request, body) {
    const { method, headers } = request;
    const { pathname, searchParams } = new URL(request.url, this.url);
    const [, bucket, name] = decodeURIComponent(pathname).match(/^\/([^/]+)\/?(.*)$/);
    const objects = this.buckets.get(bucket);
    if (!objects) return this.#refuse(request, 404, "NoSuchBucket");
    if (method === "GET" && searchParams.get("list-type") === "2") return [200, {}, this.#list(objects, searchParams)];
    if (method === "POST" && searchParams.has("delete")) {
      const names = [...body.toString().matchAll(/<Key>([^<]*)<\/Key>/g)].map(([, key]) => key);
      for (const one of names) objects.delete(one);
      return [200, {}, `<DeleteResult>${names.map((one) => `<Deleted><Key>${xml(one)}</Key></Deleted>`).join("")}</DeleteResult>`];
    }
    const source = headers["x-amz-copy-source"];
    const from = source && objects.get(decodeURIComponent(source).slice(bucket.length + 1));
    const there = source ? from : objects.get(name);
    if (!there && (source || method !== "PUT")) return [404, {}, "<Error><Code>NoSuchKey</Code></Error>"];
    if (method === "PUT") objects.set(name, source ? from : body);
    if (method === "DELETE") objects.delete(name);
    const content = objects.get(name) ?? Buffer.alloc(0);
    const told = { etag: `"${sha256(content)}"`, "last-modified": new Date().toUTCString() };
    if (method !== "PUT") return [200, { ...told, "content-length": content.length }, content];
    return [200, told, source ? `<CopyObjectResult><ETag>${told.etag}</ETag></CopyObjectResult>` : ""];
  }

  /** One name a page, so that whoever lists has to turn them. */
  #list(objects, asked) {
    const prefix = asked.get("prefix") ?? "";
    const delimiter = asked.get("delimiter");
    const found = new Map();
    for (const [name, content] of objects) {
      if (!name.startsWith(prefix)) continue;
      const end = delimiter ? name.indexOf(delimiter, prefix.length) : -1;
      if (end < 0) found.set(name, `<Contents><Key>${xml(name)}</Key><Size>${content.length}</Size><LastModified>${new Date().toISOString()}</LastModified></Contents>`);
      else found.set(name.slice(0, end + 1), `<CommonPrefixes><Prefix>${xml(name.slice(0, end + 1))}</Prefix></CommonPrefixes>`);
    }
    const rest = [...found].sort(byName).filter(([name]) => name > (asked.get("continuation-token") ?? ""));
    const next = rest.length > 1 ? `<NextContinuationToken>${xml(rest[0][0])}</NextContinuationToken>` : "";
    return `<ListBucketResult>${rest.slice(0, 1).map(([, text]) => text).join("")}${next}</ListBucketResult>`;
  }
}
