/** The process of spread.ts: `spread-process.ts STORAGE PROCESSES`. */
import { spreadObjects } from "./spread-objects.js";

const [, , storage = "", processes = ""] = process.argv;
try {
  const moved = await spreadObjects(storage, Number(processes));
  console.log(`${moved} objects moved in ${storage}, for a gateway of ${processes}`);
} catch (error) {
  console.error(`leanedge: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
