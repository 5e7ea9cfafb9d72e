/** The process of spread.ts: `spread-process.ts STORAGE PROCESSES [OBJECTS]`. */
import { runProgram } from "./run-program.js";
import { spreadObjects } from "./spread-objects.js";

const [, , storage = "", processes = "", asked] = process.argv;
await runProgram(async () => {
  const { sessions, objects } = await spreadObjects(
    storage,
    Number(processes),
    asked === undefined ? undefined : Number(asked),
  );
  if (sessions !== undefined) console.log(`${sessions} sessions moved to other objects`);
  console.log(`${objects} objects moved in ${storage}, for a gateway of ${processes}`);
});
