import { connect, constants } from "node:http2";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { LogFields } from "../../log/log-line.js";
import { EngineError } from "../../engine/status.js";
import {
  GenerateRequestSchema,
  SegmentKind,
  UnavailableReason,
  WorkerUnavailableSchema,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import { progressIntervalMs } from "../limits.js";
import { lateEngine } from "../testing/late-engine.js";
import { ModelEngine, type ModelEngineOptions } from "../testing/model-engine.js";
import { restartsMax } from "./limits.js";
import type { WorkerProcess, WorkerProcessOptions } from "./run-worker.js";
import {
  ask,
  events,
  inlineTexts,
  loadModelEngine,
  localAddress,
  openClient,
  startModelProcess,
} from "./testing/model-process.js";

const running: WorkerProcess[] = [];

afterEach(async () => {
  for (const process of running.splice(0)) await process.close();
});

async function start(options: Partial<WorkerProcessOptions> = {}): Promise<WorkerProcess> {
  const process = await startModelProcess(options);
  running.push(process);
  return process;
}

/** A process whose engine does as it is told. */
function startOver(options: ModelEngineOptions, more: Partial<WorkerProcessOptions> = {}) {
  return start({ load: async () => loadModelEngine(options), ...more });
}

async function failure(promise: Promise<unknown>): Promise<ConnectError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof ConnectError)) throw new Error(`no RPC error: ${String(error)}`);
  return error;
}

function reasons(error: ConnectError): UnavailableReason[] {
  return error.findDetails(WorkerUnavailableSchema).map(({ reason }) => reason);
}

async function page(
  { url }: WorkerProcess,
  path: string,
): Promise<{ status: number; text: string }> {
  const response = await fetch(`${url}${path}`);
  return { status: response.status, text: await response.text() };
}

/** The value of a metric, its labels but for the model's name in order. */
async function metric(process: WorkerProcess, name: string): Promise<number> {
  const { text } = await page(process, "/metrics");
  const line = text.split("\n").find((each) => each.startsWith(`leanedge:${name}`));
  if (line === undefined) throw new Error(`no metric ${name}`);
  return Number(line.slice(line.lastIndexOf(" ") + 1));
}

/** Lets a test hold an engine's steps back. */
function holdSteps(): { onStep: () => void; stepMs: number } {
  const held = {
    stepMs: 0,
    onStep: (): void => {
      const end = performance.now() + held.stepMs;
      while (performance.now() < end);
    },
  };
  return held;
}

describe.each(["1.1", "2"] as const)("a worker process over HTTP/%s", (httpVersion) => {
  it("answers, and finds the earlier turn in its cache", async () => {
    const client = openClient(await start(), httpVersion);
    const first = await events(client.generate(ask("hello", 20)));
    expect(first.map(({ case: name }) => name)).toEqual(
      expect.arrayContaining(["accepted", "tokens", "finished"]),
    );
    const finished = first.at(-1);
    if (finished?.case !== "finished") throw new Error("the stream did not finish");
    const { prefix } = finished.value;
    const second = await events(client.generate({ ...ask("and again", 5), prefix }));
    const accepted = second[0];
    if (accepted?.case !== "accepted") throw new Error("the second turn was not accepted");
    expect(accepted.value.cachedTokens).toBe((prefix?.tokens ?? 0) - 1);
  });

  it("sends headers before it computes, and signs of life while it does", async () => {
    const model = loadModelEngine();
    // Longer than two of the silences after which a sign of life is sent.
    const { engine } = lateEngine(model.engine, 3 * progressIntervalMs);
    const client = openClient(
      await start({ load: async () => ({ ...model, engine }) }),
      httpVersion,
    );
    const order: string[] = [];
    const stream = client.generate(ask("hello", 1), {
      onHeader: () => order.push(`headers after ${model.engine.stats().steps} steps`),
    });
    for await (const { event } of stream) order.push(event.case ?? "");
    expect(order.slice(0, 4)).toEqual([
      "headers after 0 steps",
      "accepted",
      "progress",
      "progress",
    ]);
    expect(order.slice(-2)).toEqual(["tokens", "finished"]);
  });

  it("asks for its token in every call, and shows its pages without", async () => {
    const token = "a-token-of-some-length";
    const process = await start({ token });
    for (const shown of [undefined, "another-token-of-length"]) {
      const stranger = openClient(process, httpVersion, shown);
      const calls = [
        events(stranger.generate(ask("hello", 2))),
        stranger.getStatus({}),
        stranger.release({ sequenceId: "s", generation: 1n }),
        stranger.fork({ sequenceId: "s", newSequenceId: "t" }),
        stranger.restore((async function* () {})()),
        (async () => {
          for await (const piece of stranger.snapshot({ sequenceId: "s" }))
            expect(piece).toBeNull();
        })(),
      ];
      for (const error of await Promise.all(calls.map(failure))) {
        expect(error.code).toBe(Code.Unauthenticated);
      }
    }
    expect((await openClient(process, httpVersion, token).getStatus({})).worker).toBe("w1");
    expect((await page(process, "/health")).status).toBe(200);
    expect((await page(process, "/metrics")).status).toBe(200);
  });

  it("stops within one step when its client leaves", async () => {
    const held = holdSteps();
    held.stepMs = 5;
    const process = await startOver({ onStep: held.onStep });
    const client = openClient(process, httpVersion);
    const leaving = new AbortController();
    let tokens = 0;
    const gone = failure(
      (async () => {
        const stream = client.generate(ask("hello", 2_000), { signal: leaving.signal });
        for await (const { event } of stream) {
          if (event.case === "tokens") tokens += event.value.ids.length;
          if (tokens >= 3) leaving.abort();
        }
      })(),
    );
    expect((await gone).code).toBe(Code.Canceled);
    await expect.poll(async () => (await client.getStatus({})).running).toBe(0);
    const { steps } = await client.getStatus({});
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect((await client.getStatus({})).steps).toBe(steps);
    expect(Number(steps)).toBeLessThan(50);
  });
});

describe("a worker process", () => {
  it("without a token listens on this machine only", async () => {
    const address = { host: "0.0.0.0", port: 0, loopback: false };
    await expect(startModelProcess({ address })).rejects.toThrow(
      "a worker without a token listens on this machine only: 0.0.0.0 needs --token-file",
    );
    await start({ address, token: "a-token-of-some-length" });
  });

  it("leaves nothing behind when its port is taken", async () => {
    const { port } = await start();
    await expect(startModelProcess({ address: { ...localAddress, port } })).rejects.toThrow(
      "EADDRINUSE",
    );
  });

  it("has no other pages, and none that take more than a look", async () => {
    const process = await start();
    expect((await page(process, "/")).status).toBe(404);
    expect((await fetch(`${process.url}/metrics`, { method: "POST" })).status).toBe(405);
  });

  it("counts what its clients see", async () => {
    const process = await start();
    const client = openClient(process);
    await events(client.generate(ask("hello", 20)));
    await failure(events(client.generate({ ...ask("hello", 20), model: "another" })));
    expect(await metric(process, "prompt_tokens_total")).toBe("<u:hello><a:".length);
    expect(await metric(process, "generation_tokens_total")).toBe(20);
    expect(await metric(process, "prefix_cache_hits_total")).toBe(0);
    expect(await metric(process, 'request_success_total{finished_reason="length"')).toBe(1);
    expect(await metric(process, 'request_failures_total{code="not_found"')).toBe(1);
    expect(await metric(process, "time_to_first_token_seconds_count")).toBe(1);
    expect(await metric(process, "inter_token_latency_seconds_count")).toBe(19);
    expect(await metric(process, "e2e_request_latency_seconds_count")).toBe(1);
    expect(await metric(process, "step_duration_seconds_count")).toBe(20);
    expect(await metric(process, "num_sequences")).toBe(1);
    expect(await metric(process, "kv_cache_usage_perc")).toBeGreaterThan(0);
    expect(await metric(process, "num_requests_running")).toBe(0);
  });

  it("tells each call by its request id, with the engine's steps that it took, and no word of it", async () => {
    const calls: (readonly [string, LogFields])[] = [];
    const process = await start({ logCall: (level, fields) => calls.push([level, fields]) });
    const client = openClient(process);
    await events(client.generate({ ...ask("a secret word", 20), requestId: "first" }));
    await events(client.generate({ ...ask("and another", 5, "t"), requestId: "second" }));
    const stranger = { ...ask("a secret word", 5), model: "another", requestId: "third" };
    await failure(events(client.generate(stranger)));
    const leaver = new AbortController();
    const long = client.generate(
      { ...ask("a secret word", 3_000, "u"), requestId: "fourth" },
      { signal: leaver.signal },
    );
    for await (const { event } of long) {
      if (event.case === "tokens") break;
    }
    leaver.abort();
    await expect.poll(() => calls.length).toBe(4);
    expect(calls.map(([level, fields]) => [level, fields["request_id"]])).toEqual([
      ["info", "first"],
      ["info", "second"],
      ["warn", "third"],
      [expect.stringMatching(/^(info|warn)$/) as string, "fourth"],
    ]);
    const [first, second, third] = calls.map(([, fields]) => fields);
    expect(first).toMatchObject({ outcome: "length", generated_tokens: 20, first_step: 1 });
    expect(first?.["last_step"]).toBe(20);
    expect(second).toMatchObject({ outcome: "length", first_step: 21, last_step: 25 });
    expect(third).toMatchObject({ outcome: "not_found", generated_tokens: 0 });
    expect(JSON.stringify(calls)).not.toContain("secret");
  });

  it("labels its figures with the model's name and nothing that a caller sends", async () => {
    const process = await start();
    await events(openClient(process).generate(ask("hello", 2, "a-session-of-somebody")));
    const { text } = await page(process, "/metrics");
    const labels = new Set([...text.matchAll(/[{,](\w+)="/g)].map((match) => match[1]));
    expect(text).not.toContain("somebody");
    expect(
      [...labels]
        .filter((label) => !/^(type|space|kind|version|major|minor|patch)$/.test(label ?? ""))
        .sort(),
    ).toEqual(
      ["code", "finished_reason", "le", "model_name", "outcome", "quantile"].filter((label) =>
        labels.has(label),
      ),
    );
  });

  it("takes long prompts through its thread, as first and as further turns", async () => {
    const encode = vi.fn(inlineTexts.encode);
    const client = openClient(
      await startOver(
        { contextTokensMax: 100_000, cacheBytes: 1 << 24 },
        { texts: { ...inlineTexts, encode } },
      ),
    );
    const long = "long ".repeat(4_000);
    const first = await events(client.generate(ask(long, 3)));
    const [accepted, finished] = [first[0], first.at(-1)];
    if (accepted?.case !== "accepted" || finished?.case !== "finished")
      throw new Error("no answer");
    expect(accepted.value.promptIds.length).toBe(`<u:${long}><a:`.length);
    await events(client.generate({ ...ask(long, 3), prefix: finished.value.prefix }));
    expect(encode.mock.calls.map(([, continues]) => continues)).toEqual([false, true]);
    await events(client.generate(ask("short", 3, "t")));
    expect(encode).toHaveBeenCalledTimes(2);
  });

  it("ends the call of a reader that takes nothing, and gives its cache to others", async () => {
    const process = await start({ readerStallMs: 300 });
    // A reader with room for little more than the first event, which it never takes.
    const session = connect(process.url, { settings: { initialWindowSize: 64 } });
    const stream = session.request({
      ":method": "POST",
      ":path": "/leanedge.worker.v1.WorkerService/Generate",
      "content-type": "application/connect+proto",
    });
    const reset = new Promise((resolve) => {
      stream.once("close", () => resolve(stream.rstCode));
    });
    stream.on("error", () => undefined);
    const body = toBinary(GenerateRequestSchema, create(GenerateRequestSchema, ask("hello", 500)));
    const head = Buffer.alloc(5);
    head.writeUInt32BE(body.length, 1);
    stream.end(Buffer.concat([head, body]));

    await expect.poll(() => metric(process, "slow_readers_total")).toBe(1);
    stream.resume();
    expect(await reset).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    session.close();
    const status = openClient(process);
    await expect.poll(async () => (await status.getStatus({})).running).toBe(0);
    const { pages, pagesFree } = await status.getStatus({});
    expect(pagesFree).toBe(pages);
  });

  it("frees what clients held whose connections break", async () => {
    const held = holdSteps();
    held.stepMs = 2;
    const process = await startOver({ onStep: held.onStep });
    const calls = ["1.1", "2"].map(async (version, index) => {
      const client = openClient(process, version === "2" ? "2" : "1.1");
      const leaving = new AbortController();
      const stream = client.generate(ask("hello", 3_000, `s${index}`), { signal: leaving.signal });
      for await (const { event } of stream) if (event.case === "tokens") leaving.abort();
    });
    for (const { reason } of (await Promise.allSettled(calls)) as { reason?: unknown }[]) {
      expect(reason).toMatchObject({ code: Code.Canceled });
    }
    const status = openClient(process);
    await expect.poll(async () => (await status.getStatus({})).running).toBe(0);
    const { pages, pagesFree } = await status.getStatus({});
    expect(pagesFree).toBe(pages);
  });

  it("says how long a prompt may be", async () => {
    const client = openClient(await startOver({ contextTokensMax: 1_000 }));
    const error = await failure(events(client.generate(ask("long ".repeat(4_000), 3))));
    expect(error.code).toBe(Code.InvalidArgument);
    expect(error.rawMessage).toContain("the model's window is 1000 tokens");
  });
});

describe("a worker process that loses its engine", () => {
  /** Engines of which the first `losses` break in their third step. */
  function breaking(losses: number): Partial<WorkerProcessOptions> & { loads: () => number } {
    let loads = 0;
    return {
      loads: () => loads,
      load: async () => {
        const breaks = ++loads <= losses;
        let steps = 0;
        let lost = false;
        const onStep = (): void => {
          steps++;
          lost ||= breaks && steps >= 3;
          if (lost) throw new EngineError("deviceLost", "the engine stopped: unreachable");
        };
        return loadModelEngine({ onStep });
      },
    };
  }

  it("says so, starts it again, and replays what gateways bring", async () => {
    const process = await start(breaking(1));
    const client = openClient(process);
    const seen: GenerateEvent[] = [];
    const error = await failure(
      (async () => {
        for await (const { event } of client.generate(ask("hello", 20))) seen.push(event);
      })(),
    );
    expect(error.code).toBe(Code.Unavailable);
    expect(reasons(error)).toEqual([UnavailableReason.ENGINE_RESTARTING]);
    await expect.poll(async () => (await page(process, "/health")).status).toBe(200);
    expect(await metric(process, "engine_restarts_total")).toBe(1);

    // A gateway has the ids of the prompt and those that were sent; it goes on after them.
    const accepted = seen[0];
    if (accepted?.case !== "accepted") throw new Error("the call was not accepted");
    const sent = seen.flatMap((event) => (event.case === "tokens" ? event.value.ids : []));
    const { promptIds, promptTokens } = accepted.value;
    const resumed = await events(
      client.generate({
        ...ask("hello", 20),
        messages: [],
        log: [
          { kind: SegmentKind.PROMPT, ids: promptIds },
          ...(sent.length === 0 ? [] : [{ kind: SegmentKind.GENERATED, ids: sent }]),
        ],
        resume: { promptTokens, generatedTokens: sent.length, textBytes: 0n },
      }),
    );
    const log = [...promptIds];
    const answer = [
      ...sent,
      ...resumed.flatMap((event) => (event.case === "tokens" ? event.value.ids : [])),
    ];
    for (const id of answer) {
      expect(id).toBe(ModelEngine.nextToken(log, 0n, 256));
      log.push(id);
    }
    expect(answer.length).toBe(20);
  });

  it("refuses calls while the engine loads", async () => {
    const losses = breaking(1);
    let go: () => void = () => undefined;
    const process = await start({
      load: async () => {
        if (losses.loads() > 0) await new Promise<void>((resolve) => (go = resolve));
        return losses.load?.() ?? loadModelEngine();
      },
    });
    const client = openClient(process);
    await failure(events(client.generate(ask("hello", 20))));
    for (const call of [events(client.generate(ask("hello", 2))), client.getStatus({})]) {
      const error = await failure(call);
      expect([error.code, ...reasons(error)]).toEqual([
        Code.Unavailable,
        UnavailableReason.ENGINE_RESTARTING,
      ]);
    }
    expect(await page(process, "/health")).toMatchObject({ status: 503 });
    expect((await page(process, "/metrics")).status).toBe(200);
    go();
    await expect.poll(async () => (await page(process, "/health")).status).toBe(200);
    expect((await events(client.generate(ask("hello", 2)))).at(-1)?.case).toBe("finished");
  });

  it("gives up an engine that is lost again and again", async () => {
    const process = await start(breaking(Infinity));
    const givenUp = expect(process.givenUp).rejects.toThrow(
      `the engine was lost more than ${restartsMax} times`,
    );
    const client = openClient(process);
    for (let loss = 0; loss <= restartsMax; loss++) {
      await failure(events(client.generate(ask("hello", 20))));
      if (loss < restartsMax) {
        await expect.poll(async () => (await page(process, "/health")).status).toBe(200);
      }
    }
    await givenUp;
  });

  it("gives up an engine that does not start again", async () => {
    const losses = breaking(1);
    const process = await start({
      load: async () => {
        if (losses.loads() > 0) throw new Error("the model file is gone");
        return losses.load?.() ?? loadModelEngine();
      },
    });
    const givenUp = expect(process.givenUp).rejects.toThrow("the engine does not start again");
    await failure(events(openClient(process).generate(ask("hello", 20))));
    await givenUp;
  });
});

describe("a worker process that is told to stop", () => {
  it("lets what runs end, and refuses what is new", async () => {
    const held = holdSteps();
    held.stepMs = 10;
    const process = await startOver({ onStep: held.onStep });
    const client = openClient(process);
    const answer = events(client.generate(ask("hello", 30)));
    await expect.poll(async () => (await client.getStatus({})).running).toBe(1);
    const stopped = process.drain();
    expect((await client.getStatus({})).draining).toBe(true);
    expect(await page(process, "/health")).toMatchObject({ status: 503 });
    const error = await failure(events(client.generate(ask("hello", 2, "t"))));
    expect([error.code, ...reasons(error)]).toEqual([Code.Unavailable, UnavailableReason.DRAINING]);
    expect((await failure(client.fork({ sequenceId: "s", newSequenceId: "t" }))).code).toBe(
      Code.Unavailable,
    );
    const finished = (await answer).at(-1);
    if (finished?.case !== "finished") throw new Error("the running answer did not finish");
    expect(finished.value.generatedTokens).toBe(30);
    await stopped;
    await expect(page(process, "/health")).rejects.toThrow("fetch failed");
  });

  it("breaks off what does not end in time", async () => {
    const held = holdSteps();
    held.stepMs = 10;
    const lines: string[] = [];
    const process = await startOver(
      { onStep: held.onStep },
      { drainMs: 100, log: (line) => lines.push(line) },
    );
    const client = openClient(process);
    const broken = failure(events(client.generate(ask("hello", 3_000))));
    await expect.poll(async () => (await client.getStatus({})).running).toBe(1);
    const startMs = performance.now();
    await process.drain();
    // The answer by itself would take 30 seconds.
    expect(performance.now() - startMs).toBeLessThan(15_000);
    const error = await broken;
    expect([error.code, ...reasons(error)]).toEqual([Code.Unavailable, UnavailableReason.DRAINING]);
    expect(lines).toContain("1 calls did not end in 100 ms and are broken off");
  });

  it("stops soon where nothing runs", async () => {
    const process = await start();
    const startMs = performance.now();
    await process.drain();
    expect(performance.now() - startMs).toBeLessThan(2_500);
  });
});

type GenerateEvent = Awaited<ReturnType<typeof events>>[number];
