/**
 * Writes src/engine/tokenizer/testdata/embedded-ids.json: the ids that llama.cpp gives for the
 * embedded model, so that `npm test` can judge our tokenizer where llama.cpp is not installed. Run it with
 * `npx tsx scripts/make-tokenizer-golden.ts` after `npm run peers`, when the model or the texts change.
 */
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { embeddedFile } from "../src/embedded-model.js";
import { openFileSource } from "../src/engine/gguf/file-source.js";
import { fingerprintSource } from "../src/engine/gguf/index.js";
import { trickyTexts } from "../src/engine/tokenizer/testing/texts.js";
import { LlamaCppVocabulary } from "../test/peers/llama-cpp-vocabulary.js";

const model = fileURLToPath(new URL(`../${embeddedFile}`, import.meta.url));
const target = fileURLToPath(
  new URL("../src/engine/tokenizer/testdata/embedded-ids.json", import.meta.url),
);

async function main(): Promise<void> {
  const source = await openFileSource(model);
  const fingerprint = await fingerprintSource(source);
  await source.close();
  const peer = await LlamaCppVocabulary.load(model);
  const cases = trickyTexts.map((text) => ({
    // JSON readers disagree about lone surrogates; both sides take them for U+FFFD.
    text: text.toWellFormed(),
    plain: peer.tokenize(text, false),
    special: peer.tokenize(text, true),
  }));
  await peer.dispose();
  const lines = cases.map((entry) => `    ${JSON.stringify(entry)}`).join(",\n");
  writeFileSync(target, `{\n  "fingerprint": "${fingerprint}",\n  "cases": [\n${lines}\n  ]\n}\n`);
  console.log(`${cases.length} texts written to ${target}`);
}

await main();
