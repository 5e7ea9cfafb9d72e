/** Notices a download that brings nothing, or next to nothing: a server need not say that it is gone. */
import type { PullLimits } from "./limits.js";

/** A watch over one body. */
export interface StallWatch {
  /** Bytes came. */
  count(bytes: number): void;
  /** Ends the watch. */
  stop(): void;
}

/** Calls `onStall` as soon as less than `stallBytes` came in one period of `stallMs`. */
export function watchForStalls(
  { stallMs, stallBytes }: Pick<PullLimits, "stallMs" | "stallBytes">,
  onStall: (bytes: number) => void,
): StallWatch {
  let bytes = 0;
  const timer = setInterval(() => {
    if (bytes < stallBytes) {
      clearInterval(timer);
      onStall(bytes);
    }
    bytes = 0;
  }, stallMs);
  return {
    count: (more) => {
      bytes += more;
    },
    stop: () => clearInterval(timer),
  };
}
