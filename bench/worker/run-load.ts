/** A worker in a process of its own, and its clients in this one. */
import { readFileSync } from "node:fs";
import { embedded } from "../../src/embedded-model.js";
import { Role } from "../../src/gen/leanedge/v1/session_pb.js";
import {
  openWorkerClient,
  startWorkerProcess,
  type WorkerClient,
} from "../../test/support/worker-process.js";
import { isProgram } from "../support/child.js";
import { median } from "../support/stats.js";
import { takeTurns, type Turns } from "../support/turns.js";
import { allSessions, answer } from "./sessions.js";
import type { AmongOthersRun, LoadRun, Workload } from "./workload.js";

async function stepsOf(client: WorkerClient): Promise<number> {
  return Number((await client.getStatus({})).steps);
}

/** Starts a worker; a turn runs the workload, or a part of it, against it. */
export async function openLoad(workload: Workload): Promise<Turns<LoadRun | AmongOthersRun>> {
  const worker = await startWorkerProcess(
    ...["--model", workload.modelPath, "--model-id", embedded.model],
    ...["--memory", String(workload.memoryMib)],
  );
  const client = openWorkerClient(worker.url, "2");
  return {
    turn: async (what) => {
      if (what === "throughput") {
        return allSessions(client, worker.url, { ...workload, model: embedded.model });
      }
      return {
        ...(await shortAmongLong(client, workload)),
        cancelSteps: await stepsAfterCancel(client, workload.prompt),
        residentBytes: residentBytes(worker.pid),
      };
    },
    close: () => worker.kill(),
  };
}

/** A short prompt while four long ones are read and some sessions answer. */
async function shortAmongLong(
  client: WorkerClient,
  { prompt, longPrompt }: Workload,
): Promise<Pick<AmongOthersRun, "firstTokenSteps" | "firstTokenMs">> {
  const leaving = new AbortController();
  const background = [
    ...[1, 2, 3, 4].map((n) => ({ id: `long${n}`, text: longText(longPrompt, n), maxTokens: 4 })),
    ...[1, 2, 3, 4].map((n) => ({ id: `busy${n}`, text: prompt, maxTokens: 2_000 })),
  ].map((ask) => answer(client, embedded.model, ask, leaving.signal).catch(() => undefined));
  // The long ones are under way, and far from their ends.
  const before = await stepsOf(client);
  while ((await stepsOf(client)) < before + 12);
  const rounds: { steps: number; ms: number }[] = [];
  for (let round = 0; round < 3; round++) {
    const steps = await stepsOf(client);
    const startMs = performance.now();
    const ended = await answer(client, embedded.model, {
      id: `short${round}`,
      text: prompt,
      maxTokens: 1,
    });
    const after = await stepsOf(client);
    // Both looks wait for a step of their own at most.
    rounds.push({ steps: after - steps, ms: (ended.arrivedMs[0] ?? Infinity) - startMs });
  }
  leaving.abort();
  await Promise.all(background);
  return {
    firstTokenSteps: median(rounds.map(({ steps }) => steps)),
    firstTokenMs: median(rounds.map(({ ms }) => ms)),
  };
}

/** About so many tokens of text: a token is a short word or half of one. */
function longText(tokens: number, seed: number): string {
  return Array.from({ length: Math.floor(tokens / 2) }, (_, i) => `the ${(i * seed) % 10}`).join(
    " ",
  );
}

/** Engine steps between the moment that a client leaves and the last step for it. */
async function stepsAfterCancel(client: WorkerClient, text: string): Promise<number> {
  const leaving = new AbortController();
  let tokens = 0;
  const stream = client.generate(
    {
      sequenceId: "leaves",
      generation: 1n,
      model: embedded.model,
      messages: [{ role: Role.USER, text }],
      sampling: { maxTokens: 500, temperature: 0 },
    },
    { signal: leaving.signal },
  );
  // The only one that computes: a prompt in one step, then a token a step.
  const before = await stepsOf(client);
  try {
    for await (const { event } of stream) {
      if (event.case !== "tokens") continue;
      tokens += event.value.ids.length;
      if (tokens >= 10) leaving.abort();
    }
  } catch {
    // It was left.
  }
  while ((await client.getStatus({})).running > 0);
  return (await stepsOf(client)) - before - tokens;
}

function residentBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
}

if (isProgram(import.meta.url)) takeTurns(openLoad);
