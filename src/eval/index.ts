/** The evaluation, as the command uses it. */
export {
  choiceDefault,
  reportOf,
  runEvaluation,
  writeReport,
  writeSamples,
  type RunRequest,
  type SampleChoice,
} from "./command.js";
