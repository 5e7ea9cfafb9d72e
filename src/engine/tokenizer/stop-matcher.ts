import { TokenizerError } from "./errors.js";
import { stopStringsMax, stopStringCharsMax } from "./limits.js";

/** What a matcher lets through. */
export interface StopOutput {
  /** Text that is certainly before any stop string. */
  readonly text: string;
  /** A stop string was found; the text from there on is gone. */
  readonly stopped: boolean;
}

/**
 * Looks for stop strings in text that comes in pieces. It holds back only what may still become a
 * stop string, less than stopStringCharsMax characters.
 */
export interface StopMatcher {
  /** Takes the next text. After a stop string was found, everything is swallowed. */
  push(text: string): StopOutput;
  /** Ends the text: gives what was held back and did not become a stop string. */
  flush(): string;
}

/** Where the first stop string begins, undefined for none. */
function firstStop(text: string, stops: readonly string[]): number | undefined {
  const places = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
  return places.length === 0 ? undefined : Math.min(...places);
}

/** Length of the longest end of `text` that a stop string begins with. */
function unfinished(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) longest = length;
    }
  }
  return longest;
}

/** A matcher for one answer. Throws TokenizerError `limit` for too many, too long or empty stop strings. */
export function createStopMatcher(stops: readonly string[]): StopMatcher {
  if (stops.length > stopStringsMax) {
    throw new TokenizerError("limit", `${stops.length} stop strings, at most ${stopStringsMax}`);
  }
  for (const stop of stops) {
    if (stop.length < 1 || stop.length > stopStringCharsMax) {
      throw new TokenizerError(
        "limit",
        `a stop string has ${stop.length} characters, 1 to ${stopStringCharsMax} allowed`,
      );
    }
  }
  let held = "";
  let stopped = false;
  return {
    push(text) {
      if (stopped) return { text: "", stopped };
      const all = held + text;
      const at = firstStop(all, stops);
      stopped = at !== undefined;
      const end = at ?? all.length - unfinished(all, stops);
      held = stopped ? "" : all.slice(end);
      return { text: all.slice(0, end), stopped };
    },
    flush() {
      const rest = held;
      held = "";
      return rest;
    },
  };
}
