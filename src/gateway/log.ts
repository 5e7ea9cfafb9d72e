/** The gateway's log: lines of src/log/log-line.ts on the console, which Workers Logs and workerd take as they are. */
import { isLogged, logLine } from "../log/log-line.js";
import type { LogFields, LogLevel } from "../log/log-line.js";
import { systemClock } from "./objects/clock.js";

/** Level of this isolate; all requests of an isolate have one configuration. */
let least: LogLevel = "info";

/** Leaves out lines below a level. */
export function setLogLevel(level: LogLevel): void {
  least = level;
}

/** Writes a line. */
export function log(level: LogLevel, event: string, fields: LogFields): void {
  if (isLogged(level, least)) {
    console[level](logLine(level, "gateway", event, fields, systemClock.nowMs()));
  }
}
