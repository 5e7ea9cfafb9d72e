/**
 * Holds a conversation of ten turns with an instruct model, through a gateway and a worker process, and
 * writes it into the documentation: `npm run conversation -- --model smollm2-135m-instruct --write`.
 */
import { writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { packagePath } from "../../src/cli/repository.js";
import { createLeanedgeClient } from "../../src/client/index.js";
import { resolveModel } from "../../src/pull/index.js";
import { startGateway } from "../../test/support/running-gateway.js";
import { converse } from "./converse.js";
import { renderPage } from "./page.js";
import { questions, system } from "./questions.js";
import { startWorkerProcess } from "./worker-process.js";

const maxTokens = 256;

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    /** Cache plan of the worker. */
    plan: { type: "string" },
    turns: { type: "string", default: String(questions.length) },
    write: { type: "boolean", default: false },
  },
});

const { path, fetched } = await resolveModel(values.model);
const worker = await startWorkerProcess([
  "--model",
  path,
  ...(values.plan === undefined ? [] : ["--plan", values.plan]),
]);
try {
  const gateway = await startGateway("--worker", `${worker.model}=${worker.url}`);
  try {
    const client = createLeanedgeClient({
      baseUrl: gateway.url,
      key: gateway.key,
      protocol: "connect",
    });
    const conversation = await converse(client, {
      model: worker.model,
      system,
      questions: questions.slice(0, Number(values.turns)),
      maxTokens,
      log: (line) => console.log(line),
    });
    const plan = values.plan === undefined ? "" : ` --plan ${values.plan}`;
    const page = renderPage(
      {
        title: `A conversation with ${fetched?.name ?? basename(path, ".gguf")}`,
        command: `npm run conversation -- --model ${values.model}${plan} --write`,
        date: new Date().toISOString().slice(0, 10),
        device: `${cpus()[0]?.model ?? "an unknown processor"}, ${cpus().length} cores, Node ${process.versions.node}`,
        file: fetched?.source ?? basename(path),
        system,
        maxTokens,
      },
      conversation,
    );
    const target = join(packagePath("docs/conversations"), "smollm2.md");
    if (values.write) await writeFile(target, page);
    else console.log(page);
  } finally {
    await gateway.close();
  }
} finally {
  await worker.stop();
}
