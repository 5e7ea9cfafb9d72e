/** What worker-bench.ts leaves: `serving.json` and `serving.md`, or `serving-gateway` with a gateway before the worker. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { median } from "../../bench/support/stats.js";
import type { BareRun, LoadRun } from "../../bench/worker/workload.js";
import { runHead } from "./run-head.js";

/** One round: of the engine alone, of a worker with it, or of a gateway before that worker. */
export type Round = ({ name: "engine" } & BareRun) | ({ name: "worker" | "gateway" } & LoadRun);

/** What was measured. */
export type Setting = {
  /** Name of the model's shape, and type of its matrices. */
  shape: string;
  type: string;
  sessions: number;
  /** Tokens of each prompt and answer. */
  prompt: number;
  generate: number;
  /** Plans that were given: the first one is used. */
  plans: number;
  /** Rounds of a gateway are among them. */
  gateway: boolean;
};

/** Leaves what has been measured so far in the folder that OUT names. */
export async function writeResults(setting: Setting, rounds: readonly Round[]): Promise<void> {
  const out = process.env["OUT"] ?? "";
  if (out === "") return;
  const { shape, type, sessions, generate, prompt, plans, gateway } = setting;
  const of = (name: Round["name"], what: (round: Round) => number): number => {
    const values = rounds.filter((round) => round.name === name).map(what);
    return values.length === 0 ? NaN : median(values);
  };
  const speed = (name: Round["name"]): number => of(name, (round) => round.tokensPerSecond);
  const share = speed("worker") / speed("engine");
  const whole = of("engine", (r) => r.wholeMs) / of("worker", (r) => r.wholeMs);
  const name = gateway ? "serving-gateway" : "serving";
  const head = runHead(
    `node worker-bench.mjs --shape ${shape} --type ${type} --sessions ${sessions} --generate ${generate}${gateway ? " --gateway gateway" : ""}`,
  );
  const figures = {
    ...{ sessions, prompt, generate, plans, share, whole },
    ...(gateway
      ? {
          gatewayShare: speed("gateway") / speed("engine"),
          ofWorker: speed("gateway") / speed("worker"),
        }
      : {}),
  };
  await writeFile(
    join(out, `${name}.json`),
    `${JSON.stringify({ head, figures, rounds }, null, 1)}\n`,
  );
  const lines = [
    `# ${sessions} sessions on a worker with the CUDA engine${gateway ? ", through a gateway" : ""}`,
    "",
    `${head.device}, ${head.date}, commit \`${head.commit.slice(0, 12)}\` (kernels \`${head.kernels}\`), driver ${head.driver}, Node ${head.node}, \`${head.command}\`. ` +
      `${shape} shape, random weights (${type}), prompts of ${prompt} tokens, ${plans > 0 ? "the first plan" : "dense f16 cache"}.`,
    "",
    "| | tokens/s while all answer | ms a step | ms from the first call to the last token | first token, ms: p50 | p99 | of second turns: p50 | p99 | p99 gap, ms | second turns, in the cache |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ...rounds.map(row),
    "",
    `While all answer the worker gives ${percent(share)} of the engine's tokens (aimed at: 90 %); prompts included, ${percent(whole)}.`,
    ...(gateway
      ? [
          `Through the gateway clients get ${percent(speed("gateway") / speed("worker"))} of what they get from the worker, ${percent(speed("gateway") / speed("engine"))} of the engine's tokens.`,
        ]
      : []),
    "",
  ];
  await writeFile(join(out, `${name}.md`), lines.join("\n"));
}

function row(round: Round): string {
  const { name, tokensPerSecond, stepMs, wholeMs } = round;
  const cells = [name, tokensPerSecond.toFixed(0), stepMs.toFixed(2), wholeMs.toFixed(0)];
  if (round.name !== "engine") {
    const { firstTokenMs, secondTurnMs, gapMs, cachedShare } = round;
    for (const ms of [firstTokenMs.p50, firstTokenMs.p99, secondTurnMs.p50, secondTurnMs.p99]) {
      cells.push(ms.toFixed(0));
    }
    cells.push(gapMs.toFixed(1), percent(cachedShare));
  } else {
    cells.push(...Array.from({ length: 6 }, () => "-"));
  }
  return `| ${cells.join(" | ")} |`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
