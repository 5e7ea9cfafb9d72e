import { EngineError } from "../status.js";

/** A plan that is malformed, breaks a rule, or does not fit its model. */
export class PlanError extends EngineError {
  /**
   * @param path what is wrong, as a path into the file such as `kept[3][1]`; empty for the whole
   * @param problem what the value is and what it must be
   * @param value the offending value, 0 if it is no number
   * @param bound the bound that it broke, 0 if there is none
   */
  constructor(
    readonly path: string,
    problem: string,
    value = 0,
    bound = 0,
  ) {
    super(
      "invalidPlan",
      path === "" ? `plan ${problem}` : `plan: ${path} ${problem}`,
      value,
      bound,
    );
  }
}
