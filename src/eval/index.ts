/** The evaluation, as the command uses it. */
export {
  choiceDefault,
  runEvaluation,
  writeSamples,
  type RunRequest,
  type SampleChoice,
} from "./command.js";
export { reportOf, writeReport } from "./report/index.js";
