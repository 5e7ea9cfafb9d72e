import { Writable } from "node:stream";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { progressBar, progressText, streamReporter } from "./progress-line.js";

/** A stream that keeps what is written to it. */
function capture(isTTY: boolean, rows = 24): { stream: NodeJS.WriteStream; text: () => string } {
  let text = "";
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      text += chunk.toString("utf8");
      done();
    },
  });
  return {
    stream: Object.assign(stream, {
      isTTY,
      columns: 100,
      rows,
    }) as unknown as NodeJS.WriteStream,
    text: () => text,
  };
}

describe("a progress line", () => {
  beforeEach(() => void vi.stubEnv("TERM", "xterm"));
  afterEach(() => void vi.unstubAllEnvs());

  it("has a bar, numbers, a rate and a time", () => {
    const state = { what: "fetching", doneBytes: 25e6, totalBytes: 100e6, rate: 0.5e6 };
    expect(progressBar(state)).toBe(
      "[######------------------] fetching: 25 %, 25.0 of 100.0 MB, 0.5 MB/s, 2 min 30 s left",
    );
    expect(progressText({ ...state, doneBytes: 100e6 })).toBe(
      "fetching: 100 %, 100.0 of 100.0 MB, 0.5 MB/s",
    );
    expect(progressText({ ...state, rate: 0.01e6 })).toMatch(/2 h 5 min left$/);
  });

  it("does without a size", () => {
    const state = { what: "fetching", doneBytes: 1.2e6, totalBytes: undefined, rate: undefined };
    expect(progressBar(state)).toBe("fetching: 1.2 MB");
  });

  it("is redrawn in place on a terminal, at most ten times a second", () => {
    const { stream, text } = capture(true);
    let nowMs = 0;
    const reporter = streamReporter(stream, () => nowMs);
    reporter.note("Licence: MIT");
    for (; nowMs <= 1_000; nowMs += 10) reporter.progress("fetching", nowMs * 1_000, 2e6);
    reporter.progress("fetching", 2e6, 2e6);
    reporter.end();
    const drawn = text().match(/fetching/g) ?? [];
    expect(drawn.length).toBe(12);
    expect(text()).toContain("Licence: MIT\n");
    expect(text()).toContain("1.0 MB/s");
    expect(text()).toContain("100 %");
  });

  it.each([
    ["there is no terminal", false, 24],
    ["the terminal has no rows", true, 0],
  ])("is a plain line for every tenth where %s", (_, isTTY, rows) => {
    const { stream, text } = capture(isTTY, rows);
    const reporter = streamReporter(stream, () => 0);
    for (let done = 1; done <= 1_000; done += 1) reporter.progress("fetching", done, 1_000);
    const lines = text().trim().split("\n");
    expect(lines).toHaveLength(11);
    expect(text()).not.toContain("\u001b");
    expect(lines.at(-1)).toMatch(/^fetching: 100 %/);
  });

  it("is a plain line every half minute where there is no size either", () => {
    const { stream, text } = capture(false);
    let nowMs = 0;
    const reporter = streamReporter(stream, () => nowMs);
    for (; nowMs < 60_000; nowMs += 1_000) reporter.progress("fetching", nowMs, undefined);
    expect(text().trim().split("\n")).toHaveLength(2);
  });
});
