/** Simulates a day and prints its table: `npm run bench:placement -- --write` puts it into the documentation. See README.md. */
import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { packagePath } from "../../src/cli/repository.js";
import { replaceSection } from "../support/section.js";
import { renderImages, renderTable } from "./page.js";
import { runDay } from "./run-day.js";
import { tinyDay, wholeDay } from "./workload.js";

const { values } = parseArgs({
  options: {
    tiny: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});
if (values.tiny && values.write) throw new Error("--tiny is for tests: its figures mean nothing");

const workload = values.tiny ? tinyDay : wholeDay;
const outcomes = runDay(workload, (line) => console.error(line));
const table = renderTable(outcomes, workload);
console.log(table);
if (values.write) {
  const page = packagePath("docs/placement.md");
  await writeFile(page, replaceSection(await readFile(page, "utf8"), "placement", table));
  for (const [name, image] of renderImages(outcomes, workload)) {
    await writeFile(packagePath(`docs/images/${name}`), image);
  }
}
