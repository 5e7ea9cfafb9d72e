/** The thread behind prompt-texts.ts: a model file's tokenizer and template, and nothing else of it. */
import { parentPort, workerData } from "node:worker_threads";
import { openFileSource } from "../../engine/gguf/file-source.js";
import { readModelFile } from "../../engine/gguf/model-file.js";
import { modelText } from "../../engine/load-engine.js";
import { createModelCodec } from "../model-codec.js";
import { TextCodecError } from "../text-codec.js";
import type { TextAnswer, TextTask } from "./prompt-texts.js";

const port = parentPort;
if (port === null || typeof workerData !== "string") {
  throw new Error("this file runs as a thread of prompt-texts.ts, with the path of a model file");
}
const source = await openFileSource(workerData);
const codec = createModelCodec({
  ...modelText(await readModelFile(source)),
  templateFingerprint: "",
});
await source.close();

function run({ id, continues, messages }: TextTask): TextAnswer {
  try {
    const ids = continues ? codec.encodeContinuation(messages) : codec.encodeFirst(messages);
    return { kind: "ids", id, ids: Uint32Array.from(ids) };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { kind: "failed", id, message, refused: error instanceof TextCodecError };
  }
}

port.on("message", (task: TextTask) => {
  port.postMessage(run(task));
});
port.postMessage({ kind: "ready" } satisfies TextAnswer);
