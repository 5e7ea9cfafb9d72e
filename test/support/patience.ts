/**
 * How long tests wait for what must come to pass, where they name no time of their own: a state that comes at once on a quiet
 * machine takes seconds on one with other things to do, and a wait that is too short fails a test that nothing is wrong
 * with. Shorter than a test may take, so that the failure says what was waited for.
 */
import { vi } from "vitest";
import { patienceMs } from "./patience-ms.js";

const { waitFor } = vi;

// expect.poll() has a setting for it (the vitest.*.config.ts files); vi.waitFor() has none.
vi.waitFor = (callback, options) =>
  waitFor(callback, {
    timeout: patienceMs,
    ...(typeof options === "number" ? { timeout: options } : options),
  });
