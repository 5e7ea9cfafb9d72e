/**
 * Errors of an engine: the same table as engine/include/leanedge/status.h (status.test.ts compares
 * them). Layers above map a name to an RPC code in one place.
 */

/** Names of what can go wrong, with the values that cross the boundary. */
export const engineStatus = {
  ok: 0,
  invalidArgument: -1,
  invalidModel: -2,
  invalidPlan: -3,
  outOfMemory: -4,
  outOfPages: -5,
  contextFull: -6,
  tooManySequences: -7,
  wrongState: -8,
  invalidSnapshot: -9,
  notFinite: -10,
  deviceLost: -11,
  unimplemented: -12,
} as const;

/** Name of a status. */
export type EngineStatusName = keyof typeof engineStatus;

const namesByValue = new Map<number, EngineStatusName>(
  (Object.keys(engineStatus) as EngineStatusName[]).map((name) => [engineStatus[name], name]),
);

/** Name of a status value; undefined for values that the table does not have. */
export function engineStatusName(value: number): EngineStatusName | undefined {
  return namesByValue.get(value);
}

/** An engine's refusal: what, which value, which bound. */
export class EngineError extends Error {
  override readonly name = "EngineError";

  /**
   * @param status what went wrong
   * @param message names thing, value and bound
   * @param value the offending value, 0 if it is no number
   * @param bound the bound that it broke, 0 if there is none
   */
  constructor(
    readonly status: EngineStatusName,
    message: string,
    readonly value = 0,
    readonly bound = 0,
  ) {
    super(message);
  }
}
