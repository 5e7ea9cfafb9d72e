import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { buildGguf, tinyModel } from "../engine/gguf/testing/build-gguf.js";
import type { PullErrorCode } from "./errors.js";
import { breakCountedMs, sha256Of, type Fault } from "./testing/hub-server.js";
import { TestPull, tinyModelBytes } from "./testing/test-pull.js";

const file = "owner--model--model-Q8_0";
const size = tinyModelBytes.length;
/** As the storage names these bytes. */
const etag = `"${sha256Of(tinyModelBytes).slice(0, 16)}"`;

let test: TestPull;
beforeEach(async () => {
  test = await TestPull.start();
});
afterEach(() => test.stop());

describe("a pull from a hub", () => {
  it("fetches the only model of a repository and writes down what it is", async () => {
    const model = await test.pull();
    expect(model).toMatchObject({
      name: "owner/model:model-Q8_0.gguf",
      licence: "apache-2.0",
      sizeBytes: size,
      sha256: sha256Of(tinyModelBytes),
      wasThere: false,
      path: join(test.folder, `${file}.gguf`),
    });
    expect(new Uint8Array(await readFile(model.path))).toEqual(tinyModelBytes);
    expect(await test.fileNames()).toEqual([`${file}.gguf`, `${file}.json`]);
    expect(test.heard.notes).toContain("Licence: apache-2.0");
    expect(test.heard.steps.at(-1)).toEqual({
      what: "fetching",
      doneBytes: size,
      totalBytes: size,
    });
  });

  it("pins the commit that the API named", async () => {
    await test.pull();
    expect(test.hub.hubSeen.map(({ path }) => path)).toEqual([
      "/api/models/owner/model/revision/main?blobs=true",
      "/owner/model/resolve/0123456789abcdef0123456789abcdef01234567/model-Q8_0.gguf",
    ]);
  });

  it("fetches nothing twice", async () => {
    await test.pull();
    const again = await test.pull();
    expect(again.wasThere).toBe(true);
    expect(test.hub.storageSeen).toHaveLength(1);
  });

  it("fetches a file again whose bytes changed at the hub", async () => {
    await test.pull();
    const other = buildGguf(tinyModel("qwen3"));
    test.hub.files.set("model-Q8_0.gguf", { bytes: other });
    expect((await test.pull()).sha256).toBe(sha256Of(other));
  });

  it.each([
    ["owner/model:Q8_0", "model-Q8_0.gguf"],
    ["owner/model:q4_0", "sub/model-q4_0.gguf"],
    ["hf:owner/model:sub/model-q4_0.gguf@main", "sub/model-q4_0.gguf"],
  ])("finds %s", async (name, path) => {
    test.hub.files.set("sub/model-q4_0.gguf", { bytes: tinyModelBytes });
    expect((await test.pull(name)).name).toBe(`owner/model:${path}`);
  });

  it.each<[string, PullErrorCode, RegExp]>([
    ["owner/model", "ambiguous", /choose :model-Q8_0.gguf, :model-Q4_K_M.gguf$/],
    ["owner/model:Q2_K", "not-found", /has no Q2_K: choose :model-Q8_0.gguf/],
    ["owner/model:f16-00001-of-00002.gguf", "not-found", /one part of a split model/],
    ["owner/none", "not-found", /does not have owner\/none@main \(404\)/],
    ["owner/model@lost", "not-found", /does not have owner\/model@lost/],
    ["../model:x", "name", /is no model that can be fetched/],
    ["owner/model:../../x.gguf", "name", /is no model that can be fetched/],
    ["smollm9", "name", /known name \(smollm2-135m-instruct/],
    ["ftp://example.com/x.gguf", "name", /https only/],
  ])("refuses %s", async (name, code, message) => {
    test.hub.files.set("model-Q4_K_M.gguf", { bytes: tinyModelBytes });
    test.hub.files.set("f16-00001-of-00002.gguf", { bytes: tinyModelBytes });
    const error = await test.pullFails(name);
    expect(error.message).toMatch(message);
    expect(error.code).toBe(code);
  });

  it("sends the key to the hub, and not to the storage that it redirects to", async () => {
    test.hub.requiredToken = "hf_secret";
    const denied = await test.pullFails();
    expect(denied.code).toBe("denied");
    expect(denied.message).toMatch(/gated.*HF_TOKEN: "ask first"$/);
    await test.pull("owner/model", { token: "hf_secret" });
    expect(test.hub.hubSeen.at(-1)?.authorization).toBe("Bearer hf_secret");
    expect(test.hub.storageSeen.map(({ authorization }) => authorization)).toEqual([undefined]);
  });

  it.each<[number, PullErrorCode, RegExp]>([
    [401, "denied", /answered 401 .* does not exist, or it needs a key/],
    [403, "denied", /answered 403/],
    [404, "not-found", /does not have/],
    [451, "unreachable", /answered 451/],
  ])("gives up at once on status %i", async (status, code, message) => {
    test.hub.storageFaults.push({ kind: "status", status });
    const error = await test.pullFails();
    expect(error.message).toMatch(message);
    expect(error.code).toBe(code);
    expect(test.hub.storageSeen).toHaveLength(1);
  });

  it.each([500, 502, 503, 504, 408])("tries again after status %i", async (status) => {
    test.hub.hubFaults.push({ kind: "status", status });
    test.hub.storageFaults.push({ kind: "status", status });
    await test.pull();
    const said = test.heard.notes.filter((note) => note.includes(` answered ${status} `));
    expect(said).toHaveLength(2);
  });

  it("ends after the last attempt", async () => {
    for (let i = 0; i < 4; i += 1) test.hub.storageFaults.push({ kind: "status", status: 503 });
    const error = await test.pullFails();
    expect(error.code).toBe("unreachable");
    expect(error.message).toMatch(/answered 503 .*\(after 3 attempts\)$/);
    expect(test.hub.storageSeen).toHaveLength(3);
  });

  it("waits as long as Retry-After says", async () => {
    const headers = { "retry-after": "1" };
    test.hub.hubFaults.push({ kind: "status", status: 429, headers });
    const before = performance.now();
    await test.pull();
    expect(performance.now() - before).toBeGreaterThan(950);
  });

  it("does not wait longer than is allowed", async () => {
    test.hub.hubFaults.push({ kind: "status", status: 429, headers: { "retry-after": "86400" } });
    const error = await test.pullFails();
    expect(error.code).toBe("rate-limited");
    expect(error.message).toMatch(/asks for a pause of 86400 s, at most 2 s are waited$/);
  });

  it("follows some redirects and not any number", async () => {
    test.hub.redirects = 9;
    await test.pull();
    test.hub.files.set("model-Q8_0.gguf", { bytes: buildGguf(tinyModel("qwen2")) });
    test.hub.redirects = 12;
    const error = await test.pullFails();
    expect(error.code).toBe("limit");
    expect(error.message).toMatch(/redirects more than 10 times/);
  });

  it("follows no redirect away from https", async () => {
    const headers = { location: "http://example.com/model.gguf" };
    test.hub.storageFaults.push({ kind: "status", status: 302, headers });
    expect((await test.pullFails()).message).toMatch(/not https$/);
  });

  it("wants a checksum where the hub has none, and takes the user's", async () => {
    test.hub.files.set("model-Q8_0.gguf", { bytes: tinyModelBytes, small: true });
    expect((await test.pullFails()).code).toBe("no-checksum");
    await test.pull("owner/model", { sha256: sha256Of(tinyModelBytes).toUpperCase() });
    expect(await test.fileNames()).toContain(`${file}.gguf`);
  });

  it("refuses before the first byte what is not the user's checksum", async () => {
    const error = await test.pullFails("owner/model", { sha256: "0".repeat(64) });
    expect(error.code).toBe("checksum");
    expect(test.hub.storageSeen).toHaveLength(0);
  });

  it("deletes bytes that are not those of the checksum", async () => {
    test.hub.apiOverride = (description) => ({
      ...description,
      siblings: [
        { rfilename: "model-Q8_0.gguf", lfs: { sha256: "1".repeat(64), size, pointerSize: 1 } },
      ],
    });
    test.hub.linkedEtag = "1".repeat(64);
    const error = await test.pullFails();
    expect(error.code).toBe("checksum");
    expect(error.message).toMatch(/expected 1{64}; it was deleted$/);
    expect(await test.fileNames()).toEqual([]);
  });

  it("notices on the way that the file is another one now", async () => {
    test.hub.linkedEtag = "2".repeat(64);
    const error = await test.pullFails();
    expect(error.code).toBe("changed");
    expect(error.message).toMatch(/has SHA-256 2{64} now/);
  });

  it("refuses a model that the engine does not serve, and says why", async () => {
    const bytes = buildGguf({ ...tinyModel(), version: 9 });
    test.hub.files.set("model-Q8_0.gguf", { bytes });
    const error = await test.pullFails();
    expect(error.code).toBe("refused-model");
    expect(error.message).toMatch(/no model for this engine: .*version/);
    expect(await test.fileNames()).toEqual([]);
  });

  it("refuses files over the limit, and disks without room, before the first byte", async () => {
    const large = await test.pullFails("owner/model", { limits: { fileBytesMax: 1_000 } });
    expect(large.code).toBe("limit");
    expect(large.message).toMatch(/bytes, at most 1000 are fetched$/);
    const full = await test.pullFails("owner/model", { limits: { diskSpareBytes: 2 ** 60 } });
    expect(full.code).toBe("disk");
    expect(full.message).toMatch(/bytes free; \d+ are to come/);
    expect(test.hub.storageSeen).toHaveLength(0);
  });

  it.each<[string, unknown]>([
    ["no object", "model"],
    ["no commit", { sha: "main", siblings: [] }],
    ["no files", { sha: "0".repeat(40) }],
  ])("refuses a description with %s", async (_, description) => {
    test.hub.apiOverride = () => description;
    const error = await test.pullFails();
    expect(error.code).toBe("unreachable");
    expect(error.message).toMatch(/has no commit and files$/);
  });

  it("shows nothing of a hub that a terminal would obey", async () => {
    test.hub.files.set("\u001b[2J.gguf", { bytes: tinyModelBytes });
    test.hub.apiOverride = (description) => ({
      ...description,
      cardData: { license: "mit\u001b[2J" },
      tags: ["license:mit\u202e", "license:bsd"],
    });
    const model = await test.pull();
    expect(model).toMatchObject({ name: "owner/model:model-Q8_0.gguf", licence: "bsd" });
    expect((await test.pullFails("owner/model:Q1_0")).message).not.toContain("\u001b");
  });

  it("reads no endless description", async () => {
    const error = await test.pullFails("owner/model", { limits: { apiBytesMax: 20 } });
    expect(error.code).toBe("limit");
  });
});

describe("an interrupted pull", () => {
  it.each<[string, Fault[]]>([
    ["breaks off", [{ kind: "break", afterBytes: 10_000 }]],
    ["stalls", [{ kind: "stall", afterBytes: 10_000 }]],
    ["ends too early", [{ kind: "short", afterBytes: 10_000 }]],
    ["trickles", [{ kind: "slow", pieceBytes: 4, pauseMs: 40 }]],
    [
      "breaks off and sends another range",
      [{ kind: "break", afterBytes: 9 }, { kind: "other-range" }],
    ],
    ["is silent", [{ kind: "silent" }]],
  ])("goes on when the storage %s", async (_, faults) => {
    test.hub.storageFaults.push(...faults);
    const { path } = await test.pull();
    expect(new Uint8Array(await readFile(path))).toEqual(tinyModelBytes);
    expect(test.hub.storageSeen).toHaveLength(faults.length + 1);
  });

  it("asks for the missing bytes only", async () => {
    test.hub.storageFaults.push({ kind: "break", afterBytes: 10_000, readMs: breakCountedMs });
    await test.pull();
    expect(test.hub.storageSeen[1]).toMatchObject({
      range: "bytes=10000-",
      ifRange: etag,
    });
  });

  it("survives more breaks than attempts, as long as bytes come", async () => {
    for (let i = 0; i < 8; i += 1)
      test.hub.storageFaults.push({ kind: "break", afterBytes: 1_000 });
    await test.pull();
    expect(test.hub.storageSeen).toHaveLength(9);
  });

  it("is bounded even if bytes come", async () => {
    for (let i = 0; i < 20; i += 1) test.hub.storageFaults.push({ kind: "break", afterBytes: 10 });
    expect((await test.pullFails()).message).toMatch(/\(after 12 attempts\)$/);
  });

  it("goes on in the next pull where it broke off", async () => {
    for (let i = 0; i < 3; i += 1)
      test.hub.storageFaults.push({
        kind: "break",
        afterBytes: i ? 0 : 700,
        readMs: breakCountedMs,
      });
    test.hub.storageFaults.push({ kind: "status", status: 404 });
    await test.pullFails();
    expect(await test.fileNames()).toEqual([`${file}.gguf.part`, `${file}.gguf.part.json`]);
    test.hub.storageSeen.length = 0;
    test.hub.storageFaults.length = 0;
    const { path } = await test.pull();
    expect(test.hub.storageSeen.map(({ range }) => range)).toEqual(["bytes=700-"]);
    expect(new Uint8Array(await readFile(path))).toEqual(tinyModelBytes);
    expect(await test.fileNames()).toEqual([`${file}.gguf`, `${file}.json`]);
  });

  it("needs no byte more when only the last step was missing", async () => {
    await leavePart(tinyModelBytes);
    await test.pull();
    expect(test.hub.storageSeen).toHaveLength(0);
  });

  it("starts again where the storage cannot resume", async () => {
    test.hub.storageFaults.push({ kind: "break", afterBytes: 10_000 }, { kind: "whole" });
    await test.pull();
    expect(test.heard.notes.join("\n")).toMatch(/cannot resume; fetching all of it again/);
  });

  it("fetches all of it again when the part is of other bytes", async () => {
    await leavePart(new Uint8Array(5_000).fill(7));
    const { path } = await test.pull();
    expect(test.heard.notes.join("\n")).toMatch(/bytes of an earlier pull do not fit/);
    expect(new Uint8Array(await readFile(path))).toEqual(tinyModelBytes);
  });

  it("pays no attention to a part that is longer than the file, or of another one", async () => {
    await leavePart(new Uint8Array(size + 1));
    await test.pull();
    expect(test.hub.storageSeen[0]?.range).toBeUndefined();
    await rm(join(test.folder, `${file}.json`));
    await leavePart(tinyModelBytes.subarray(0, 100), "another");
    await test.pull();
    expect(test.hub.storageSeen[1]?.range).toBeUndefined();
  });

  it.each([
    ["truncated", '{"source"'],
    ["of the wrong shape", "[]"],
  ])("starts again when the state of the part is %s", async (_, state) => {
    await leavePart(tinyModelBytes.subarray(0, 100));
    await writeFile(join(test.folder, `${file}.gguf.part.json`), state);
    await test.pull();
    expect(test.hub.storageSeen[0]?.range).toBeUndefined();
  });

  it("stops when it is told to, and keeps what it has", async () => {
    test.hub.storageFaults.push({ kind: "stall", afterBytes: 3_000 });
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 120);
    expect((await test.pullFails("owner/model", { signal: stop.signal })).code).toBe("stopped");
    expect(await test.fileNames()).toEqual([`${file}.gguf.part`, `${file}.gguf.part.json`]);
    expect(await readFile(join(test.folder, `${file}.gguf.part`))).toHaveLength(3_000);
  });

  it("refuses bodies that are longer than declared, or compressed", async () => {
    test.hub.storageFaults.push({ kind: "long", moreBytes: 10 });
    const long = await test.pullFails();
    expect(long.code).toBe("changed");
    expect(long.message).toMatch(/is longer than the \d+ bytes declared$/);
    await rm(join(test.folder, `${file}.gguf.part`));
    test.hub.storageFaults.push({ kind: "encoded" });
    expect((await test.pullFails()).message).toMatch(/sends .* as "gzip"/);
  });
});

async function leavePart(bytes: Uint8Array, source = "owner/model:model-Q8_0.gguf"): Promise<void> {
  const path = join(test.folder, `${file}.gguf.part`);
  await writeFile(path, bytes);
  await writeFile(
    `${path}.json`,
    JSON.stringify({ source, sha256: sha256Of(tinyModelBytes), etag }),
  );
}
