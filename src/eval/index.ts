/** The evaluation, as the command uses it. */
export {
  batchMax,
  choiceDefault,
  runEvaluation,
  writeSamples,
  type RunRequest,
  type SampleChoice,
} from "./command.js";
export type { EngineChoice } from "./eval-engine.js";
export { packResults } from "./pack-results.js";
export { reportOf, writeReport } from "./report/index.js";
