/**
 * Holds the conversation of a first-time user with what `npm start` serves, and writes it into the documentation:
 * `npx tsx bench/conversation/first-use.ts --write`. See README.md.
 */
import { readFile, writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { packagePath } from "../../src/cli/repository.js";
import { createLeanedgeClient } from "../../src/client/index.js";
import { embedded } from "../../src/embedded-model.js";
import { startGateway } from "../../test/support/running-gateway.js";
import { converse } from "./converse.js";
import { renderFirstUse, renderReadme, withConversation } from "./first-use-page.js";
import { firstUse } from "./first-use-turns.js";

const command = "npx tsx bench/conversation/first-use.ts --write";
/** Longest answer; a story takes the most. */
const maxTokens = 256;

const { values } = parseArgs({ options: { write: { type: "boolean", default: false } } });
const gateway = await startGateway();
try {
  const client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
  const { turns } = await converse(client, {
    ...{ storage: "first-use", model: embedded.model, system: "", questions: firstUse, maxTokens },
    log: (line) => console.log(line),
  });
  const page = renderFirstUse(
    {
      ...{ model: embedded.model, plan: embedded.plan, command },
      date: new Date().toISOString().slice(0, 10),
      device: `${cpus()[0]?.model ?? "an unknown processor"}, ${cpus().length} cores, Node ${process.versions.node}`,
    },
    turns,
  );
  if (values.write) {
    await writeFile(packagePath("docs/conversations/first-use.md"), page);
    const readme = packagePath("README.md");
    const text = withConversation(await readFile(readme, "utf8"), renderReadme(turns));
    await writeFile(readme, text);
  }
} finally {
  await gateway.close();
}
