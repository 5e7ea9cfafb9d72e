/** How a running download looks: one line on a terminal, now and then a plain one elsewhere. */
import { createLogUpdate } from "log-update";
import type { PullReporter } from "../pull/index.js";

/** A line is drawn at most this often, in milliseconds: eyes see no more. */
const drawMs = 100;

/** The rate is that of the last so many milliseconds: an average over all hides that a line got slow. */
const rateWindowMs = 5_000;

/** Where there is no terminal, a line stands for this much: a tenth of the file, or half a minute. */
const plainShare = 0.1;
const plainMs = 30_000;

const barCells = 24;

/** What a line tells. */
export interface ProgressState {
  readonly what: string;
  readonly doneBytes: number;
  readonly totalBytes: number | undefined;
  /** Bytes per second; undefined until there is one. */
  readonly rate: number | undefined;
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3_600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3_600)} h ${Math.floor((whole % 3_600) / 60)} min`;
}

/** The numbers of a line, without a bar. */
export function progressText({ what, doneBytes, totalBytes, rate }: ProgressState): string {
  const parts =
    totalBytes === undefined || totalBytes === 0
      ? [`${megabytes(doneBytes)} MB`]
      : [
          `${Math.floor((100 * doneBytes) / totalBytes)} %`,
          `${megabytes(doneBytes)} of ${megabytes(totalBytes)} MB`,
        ];
  if (rate !== undefined && rate > 0) {
    parts.push(`${megabytes(rate)} MB/s`);
    if (totalBytes !== undefined && doneBytes < totalBytes) {
      parts.push(`${duration((totalBytes - doneBytes) / rate)} left`);
    }
  }
  return `${what}: ${parts.join(", ")}`;
}

/** A line with a bar, for a terminal. */
export function progressBar(state: ProgressState): string {
  const { doneBytes, totalBytes } = state;
  if (totalBytes === undefined || totalBytes === 0) return progressText(state);
  const full = Math.floor((barCells * Math.min(doneBytes, totalBytes)) / totalBytes);
  return `[${"#".repeat(full)}${"-".repeat(barCells - full)}] ${progressText(state)}`;
}

/** A reporter that writes to a stream, and the end of it. */
export interface StreamReporter extends PullReporter {
  /** Leaves the last state on the screen. */
  end(): void;
}

/** Counts what arrives, for a rate over the last few seconds. */
class RateMeter {
  #samples: { readonly atMs: number; readonly bytes: number }[] = [];

  rate(atMs: number, bytes: number): number | undefined {
    this.#samples = this.#samples.filter((sample) => atMs - sample.atMs <= rateWindowMs);
    this.#samples.push({ atMs, bytes });
    const [first] = this.#samples;
    if (first === undefined || atMs - first.atMs < 2 * drawMs) return undefined;
    return (1_000 * (bytes - first.bytes)) / (atMs - first.atMs);
  }
}

/**
 * A reporter for a stream. On a terminal one line is redrawn in place; log-update does that, and
 * gives the cursor back when the process ends, however it ends.
 */
export function streamReporter(
  stream: NodeJS.WriteStream,
  now: () => number = performance.now.bind(performance),
): StreamReporter {
  // Some terminals do not know how large they are: nothing can be redrawn in no rows.
  const redraws = stream.isTTY && stream.rows > 0 && process.env["TERM"] !== "dumb";
  return redraws ? terminalReporter(stream, now) : plainReporter(stream, now);
}

function terminalReporter(stream: NodeJS.WriteStream, now: () => number): StreamReporter {
  const line = createLogUpdate(stream);
  let meter = new RateMeter();
  let last = "";
  let drawnMs = -Infinity;
  return {
    note(text) {
      line.clear();
      stream.write(`${text}\n`);
      meter = new RateMeter();
    },
    progress(what, doneBytes, totalBytes) {
      const atMs = now();
      if (what !== last) meter = new RateMeter();
      else if (atMs - drawnMs < drawMs && doneBytes !== totalBytes) return;
      last = what;
      drawnMs = atMs;
      const rate = meter.rate(atMs, doneBytes);
      line(progressBar({ what, doneBytes, totalBytes, rate }));
    },
    end: () => line.done(),
  };
}

function plainReporter(stream: NodeJS.WriteStream, now: () => number): StreamReporter {
  let last = "";
  let nextShare = 0;
  let nextMs = 0;
  return {
    note: (text) => void stream.write(`${text}\n`),
    progress(what, doneBytes, totalBytes) {
      const share = totalBytes === undefined ? 0 : doneBytes / totalBytes;
      if (what !== last) {
        nextShare = 0;
        nextMs = 0;
      }
      if ((share < nextShare || totalBytes === undefined) && now() < nextMs) return;
      last = what;
      nextShare = Math.min(1, (Math.floor(share / plainShare) + 1) * plainShare);
      nextMs = now() + plainMs;
      stream.write(`${progressText({ what, doneBytes, totalBytes, rate: undefined })}\n`);
    },
    end: () => undefined,
  };
}
