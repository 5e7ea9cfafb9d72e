/**
 * Logs of all parts in one form: a line is a JSON object with `time`, `level`, `part`, `event` and the event's own fields
 * in snake_case (docs/operations.md lists them). Fields are ids, names, numbers and messages of errors; no text of a
 * conversation and no key is ever one.
 */

/** How much a line matters, the least first. */
export const logLevels = ["debug", "info", "warn", "error"] as const;
/** See logLevels. */
export type LogLevel = (typeof logLevels)[number];

/** What an event says; undefined fields are left out. */
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>;

/** Longest field, in characters: a line stays one that people and log stores can take. */
const fieldCharsMax = 1_000;

/** One line, without its end. `part` names the program: `gateway` or `worker`. */
export function logLine(
  level: LogLevel,
  part: string,
  event: string,
  fields: LogFields,
  nowMs: number,
): string {
  const time = new Date(nowMs).toISOString();
  const shown = Object.entries(fields).map(([name, value]) => [
    name,
    typeof value === "string" ? value.slice(0, fieldCharsMax) : value,
  ]);
  return JSON.stringify({
    time,
    level,
    part,
    event,
    ...(Object.fromEntries(shown) as LogFields),
  });
}

/** What a line says of an error; `stack` for those that nobody expected. */
export function errorFields(error: unknown, detail: "message" | "stack" = "message"): LogFields {
  if (!(error instanceof Error)) {
    return { error: String(error) };
  }
  const { cause, message, name, stack } = error;
  return {
    error: message,
    error_name: name,
    ...(cause instanceof Error ? { error_cause: cause.message } : {}),
    ...(detail === "stack" && stack !== undefined ? { stack } : {}),
  };
}

/** The level that LEANEDGE_LOG_LEVEL names; `info` if it is unset or empty. Throws an Error for anything else. */
export function parseLogLevel(value: string | undefined): LogLevel {
  const named = value === undefined || value === "" ? "info" : value;
  const level = logLevels.find((known) => known === named);
  if (level === undefined) {
    throw new Error(`LEANEDGE_LOG_LEVEL is "${named}"; it must be ${logLevels.join(", ")}`);
  }
  return level;
}

/** Whether a line of a level is written where `least` is asked for. */
export function isLogged(level: LogLevel, least: LogLevel): boolean {
  return logLevels.indexOf(level) >= logLevels.indexOf(least);
}
