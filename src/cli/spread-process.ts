/** The process of spread.ts: `spread-process.ts STORAGE PROCESSES`. */
import { runProgram } from "./run-program.js";
import { spreadObjects } from "./spread-objects.js";

const [, , storage = "", processes = ""] = process.argv;
await runProgram(async () => {
  const moved = await spreadObjects(storage, Number(processes));
  console.log(`${moved} objects moved in ${storage}, for a gateway of ${processes}`);
});
