/**
 * Holds a conversation of ten turns with an instruct model, through a gateway and a worker process, and
 * writes it into the documentation: `npm run conversation -- --write`. See README.md.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { cpus, loadavg, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { packagePath } from "../../src/cli/repository.js";
import { createLeanedgeClient } from "../../src/client/index.js";
import type { PageStorage } from "../../src/engine/plan/plan.js";
import { resolveModel } from "../../src/pull/index.js";
import { startGateway } from "../../test/support/running-gateway.js";
import { converse, type Conversation } from "./converse.js";
import { renderPage } from "./page.js";
import { plainPlan } from "./plain-plan.js";
import { questions, system } from "./questions.js";
import { startWorkerProcess, type WorkerProcess } from "./worker-process.js";

const maxTokens = 256;
const storages: readonly PageStorage[] = ["f16", "int8", "int4", "int2"];

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    /** How archive pages are stored; the first one's answers are printed. */
    storages: { type: "string", default: "f16" },
    turns: { type: "string", default: String(questions.length) },
    write: { type: "boolean", default: false },
  },
});

const wanted = values.storages.split(",").map((name) => {
  const storage = storages.find((each) => each === name);
  if (storage === undefined) throw new Error(`no storage ${name}: ${storages.join(", ")}`);
  return storage;
});
const { path, fetched } = await resolveModel(values.model);
const id = fetched?.name ?? basename(path, ".gguf");
const folder = await mkdtemp(join(tmpdir(), "leanedge-conversation-"));
const workers: WorkerProcess[] = [];
const [load = 0] = loadavg();
try {
  for (const storage of wanted) {
    const plan = join(folder, `${storage}.json`);
    await writeFile(plan, await plainPlan(path, storage));
    workers.push(
      await startWorkerProcess(["--model", path, "--plan", plan, "--model-id", `model-${storage}`]),
    );
  }
  const gateway = await startGateway(
    ...workers.flatMap(({ model, url }) => ["--worker", `${model}=${url}`]),
  );
  const conversations: Conversation[] = [];
  try {
    const client = createLeanedgeClient({
      baseUrl: gateway.url,
      key: gateway.key,
      protocol: "connect",
    });
    for (const [index, worker] of workers.entries()) {
      conversations.push(
        await converse(client, {
          storage: wanted[index] ?? "f16",
          model: worker.model,
          system,
          questions: questions.slice(0, Number(values.turns)),
          maxTokens,
          log: (line) => console.log(line),
        }),
      );
    }
  } finally {
    await gateway.close();
  }
  const page = renderPage(
    {
      model: id,
      command: `npm run conversation -- --model ${values.model} --storages ${values.storages} --write`,
      date: new Date().toISOString().slice(0, 10),
      device: `${cpus()[0]?.model ?? "an unknown processor"}, ${cpus().length} cores, Node ${process.versions.node}; load average ${load.toFixed(1)} before the start`,
      file: fetched?.source ?? basename(path),
      system,
      maxTokens,
    },
    conversations,
  );
  if (values.write) await writeFile(packagePath("docs/conversations/smollm2.md"), page);
  else console.log(page);
} finally {
  for (const worker of workers) await worker.stop();
  await rm(folder, { recursive: true });
}
