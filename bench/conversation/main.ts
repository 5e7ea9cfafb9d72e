/**
 * Holds a conversation of ten turns with an instruct model, through a gateway and a worker process, and
 * writes it into the documentation: `npm run conversation -- --write`. See README.md.
 */
import { writeFile } from "node:fs/promises";
import { cpus, loadavg } from "node:os";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { packagePath } from "../../src/cli/repository.js";
import { resolveModel } from "../../src/pull/index.js";
import { holdConversations } from "./hold.js";
import { renderPage } from "./page.js";
import { questions, system } from "./questions.js";

const maxTokens = 256;

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    /** How archive pages are stored, or names of plans that ship; the first one's answers are printed. */
    storages: { type: "string", default: "f16" },
    turns: { type: "string", default: String(questions.length) },
    write: { type: "boolean", default: false },
  },
});

const { path, fetched } = await resolveModel(values.model);
const [load = 0] = loadavg();
const conversations = await holdConversations({
  modelPath: path,
  storages: values.storages.split(","),
  modelNames: [fetched?.name ?? basename(path, ".gguf")],
  system,
  questions: questions.slice(0, Number(values.turns)),
  maxTokens,
  log: (line) => console.log(line),
});
const page = renderPage(
  {
    model: fetched?.name ?? basename(path, ".gguf"),
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
