/**
 * What the scheduler promises, over random arrivals, sizes and cancels, against a model of an engine whose steps take a
 * declared time. Time is counted, not measured, so a failure comes again with its seed.
 */
import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../test/oracle/random.js";
import { deviceStepPromptRowsMax, oldestShare, stepPromptRowsMax } from "./limits.js";
import { Scheduler, type SchedulerOptions } from "./scheduler.js";

const layers = 8;

/** Declared times of a step, in microseconds: what reading the weights takes, and a row more. */
const stepUs = 4_000;
const rowUs = 250;

interface Simulated {
  readonly id: number;
  readonly prompt: number;
  readonly cacheBytes: number;
  /** Rows without K and V. */
  rows: number;
  /** Work that does not make up the prompt's whole last layer yet. */
  work: number;
  tokensLeft: number;
  readonly addedStep: number;
  readonly addedUs: number;
  admittedStep: number | undefined;
  firstTokenStep: number | undefined;
  firstTokenUs: number | undefined;
  lastTokenStep: number | undefined;
  lastTokenUs: number | undefined;
}

/** A scheduler, and the engine below it. */
class Simulation {
  readonly scheduler: Scheduler;
  readonly jobs = new Map<number, Simulated>();
  readonly ended: Simulated[] = [];
  readonly gapsUs: number[] = [];
  readonly admittedOrder: number[] = [];
  readonly stepsUs: number[] = [];
  step = 0;
  nowUs = 0;
  #lastId = 0;

  constructor(options: Partial<SchedulerOptions> = {}) {
    this.scheduler = new Scheduler({ layers, cacheBytes: 1e9, ...options });
  }

  add(prompt: number, tokens: number, cacheBytes = 1): Simulated {
    const job: Simulated = {
      id: ++this.#lastId,
      prompt,
      cacheBytes,
      rows: prompt,
      work: 0,
      tokensLeft: tokens,
      addedStep: this.step,
      addedUs: this.nowUs,
      admittedStep: undefined,
      firstTokenStep: undefined,
      firstTokenUs: undefined,
      lastTokenStep: undefined,
      lastTokenUs: undefined,
    };
    this.scheduler.add({ id: job.id, rowsPending: prompt, cacheBytesMax: cacheBytes });
    this.jobs.set(job.id, job);
    return job;
  }

  cancel(job: Simulated): void {
    this.scheduler.remove(job.id);
    this.jobs.delete(job.id);
  }

  /** Runs a step; returns the rows x layers of prompts in it. */
  run(): number {
    this.step++;
    const plan = this.scheduler.next();
    for (const id of plan.admitted) {
      const job = this.#job(id);
      job.admittedStep = this.step;
      this.admittedOrder.push(id);
    }
    const work = plan.shares.reduce((sum, { workMax }) => sum + workMax, 0);
    const us = work === 0 ? 0 : stepUs + (rowUs * work) / layers;
    this.nowUs += us;
    this.stepsUs.push(us);
    let promptWork = 0;
    for (const { id, workMax } of plan.shares) {
      const job = this.#job(id);
      if (job.rows > 1) promptWork += workMax;
      this.#advance(job, workMax);
    }
    return promptWork;
  }

  /** As an engine does it: a prompt goes through layer after layer, and its rows are done all at once. */
  #advance(job: Simulated, workMax: number): void {
    job.work += workMax;
    if (job.work < job.rows * layers) {
      this.scheduler.report(job.id, job.rows, false);
      return;
    }
    job.work = 0;
    job.rows = 1;
    this.scheduler.report(job.id, 1, true);
    if (job.lastTokenUs !== undefined) this.gapsUs.push(this.nowUs - job.lastTokenUs);
    job.firstTokenStep ??= this.step;
    job.firstTokenUs ??= this.nowUs;
    job.lastTokenStep = this.step;
    job.lastTokenUs = this.nowUs;
    if (--job.tokensLeft > 0) return;
    this.cancel(job);
    this.ended.push(job);
  }

  #job(id: number): Simulated {
    const job = this.jobs.get(id);
    if (job === undefined) throw new Error(`step ${this.step} names job ${id}, which is gone`);
    return job;
  }
}

/** The value below which a share of all lies. */
function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}

describe("a short prompt among long ones", () => {
  it.each([1, 16, 48])("of %i rows has its first token within 3 steps and its own", (rows) => {
    const simulation = new Simulation();
    for (let i = 0; i < 64; i++) simulation.add(1, 10_000);
    for (let i = 0; i < 4; i++) simulation.add(4_096, 100);
    // Somewhere in the middle of their prompts.
    for (let i = 0; i < 20; i++) simulation.run();
    const short = simulation.add(rows, 10);
    while (short.firstTokenStep === undefined) simulation.run();
    const own = Math.ceil(rows / (stepPromptRowsMax * (1 - oldestShare)));
    expect(short.firstTokenStep - short.addedStep).toBeLessThanOrEqual(3 + own);
  });

  it("does not keep the long ones from ending, however many short ones come", () => {
    const simulation = new Simulation();
    const long = [1, 2, 3, 4].map(() => simulation.add(4_096, 1));
    while (
      simulation.jobs.size > 0 &&
      long.some(({ firstTokenStep }) => firstTokenStep === undefined)
    ) {
      // As many rows of short prompts as a step takes, in every step.
      simulation.add(48, 1);
      simulation.run();
      if (simulation.step > 10_000) throw new Error("the long prompts starve");
    }
    const rowsOfOldest = stepPromptRowsMax * oldestShare;
    expect(simulation.step).toBeLessThanOrEqual(Math.ceil((4 * 4_096) / rowsOfOldest) + 4);
  });
});

describe("the steps", () => {
  it("give each decoding sequence a token in each, whatever is read beside it", () => {
    const simulation = new Simulation();
    const decoding = Array.from({ length: 64 }, () => simulation.add(1, 300));
    simulation.run();
    for (let i = 0; i < 4; i++) simulation.add(4_096, 100);
    for (let i = 0; i < 200; i++) {
      simulation.run();
      for (const { lastTokenStep } of decoding) expect(lastTokenStep).toBe(simulation.step);
    }
    // A step of the 64 alone; with prompt rows beside them it takes longer, by a bound.
    const aloneUs = stepUs + 64 * rowUs;
    expect(quantile(simulation.gapsUs, 0.99)).toBeLessThan(3 * aloneUs);
  });

  it("never read more rows of prompts than their budget", () => {
    const simulation = new Simulation();
    for (let i = 0; i < 100; i++) simulation.add(2 + i * 7, 3);
    while (simulation.jobs.size > 0) {
      expect(simulation.run()).toBeLessThanOrEqual(stepPromptRowsMax * layers);
    }
  });

  it("read prompts of 64 sequences on a GPU before the first answer of 256 tokens ends", () => {
    const simulation = new Simulation({ promptRowsMax: deviceStepPromptRowsMax });
    const jobs = Array.from({ length: 64 }, () => simulation.add(1_024, 256));
    while (jobs.some(({ firstTokenStep }) => firstTokenStep === undefined)) simulation.run();
    expect(simulation.jobs.size).toBe(64);
    expect(simulation.step).toBeLessThanOrEqual(66);
  });

  it("leave a cancelled job out from the next one on", () => {
    const simulation = new Simulation({ cacheBytes: 10 });
    const reading = simulation.add(4_096, 10, 6);
    const waiting = simulation.add(10, 10, 6);
    simulation.run();
    simulation.cancel(reading);
    // Its memory is free for who waits, in the very next step.
    simulation.run();
    expect(waiting.admittedStep).toBe(simulation.step);
    expect(simulation.scheduler.running).toBe(1);
  });
});

describe("over random arrivals, sizes and cancels", () => {
  const seeds = Array.from({ length: 40 }, (_, index) => index + 1);

  it.each(seeds)("nobody starves and nobody is overtaken in the queue (seed %i)", (seed) => {
    const source = new SeededRandom(seed);
    const noise = (): number => source.uniform();
    const cacheBytes = 2_000;
    const simulation = new Simulation({ cacheBytes, runningMax: 48, queuedMax: 1_000 });
    const upTo = (most: number): number => 1 + Math.floor(noise() ** 3 * most);
    const waitSteps: number[] = [];
    for (let step = 0; step < 600; step++) {
      while (noise() < 0.25) simulation.add(upTo(2_000), upTo(60), upTo(1_000));
      if (noise() < 0.05) {
        const jobs = [...simulation.jobs.values()];
        const victim = jobs[Math.floor(noise() * jobs.length)];
        if (victim !== undefined) simulation.cancel(victim);
      }
      simulation.run();
      expect(simulation.scheduler.reservedBytes).toBeLessThanOrEqual(cacheBytes);
      for (const job of simulation.jobs.values()) {
        if (job.lastTokenStep !== undefined) expect(job.lastTokenStep).toBe(simulation.step);
      }
    }
    // All that is left ends, in as many steps as its work takes at the least rate, and no more.
    const rowsLeft = [...simulation.jobs.values()].reduce(
      (sum, { rows, tokensLeft }) => sum + rows + 64 * tokensLeft,
      0,
    );
    const bound =
      simulation.step +
      Math.ceil(rowsLeft / (stepPromptRowsMax * oldestShare)) +
      simulation.jobs.size;
    while (simulation.jobs.size > 0) {
      simulation.run();
      if (simulation.step > bound) throw new Error(`${simulation.jobs.size} jobs do not end`);
    }
    for (const { admittedStep, addedStep } of simulation.ended) {
      waitSteps.push((admittedStep ?? Infinity) - addedStep);
    }
    expect(simulation.admittedOrder).toEqual([...simulation.admittedOrder].sort((a, b) => a - b));
    expect(waitSteps.every(Number.isFinite)).toBe(true);
    expect(simulation.scheduler.reservedBytes).toBe(0);
  });
});

describe("at 256 running sequences", () => {
  /** Microseconds a step that a scheduler takes itself: plan and reports. */
  function costUs(readers: number): number {
    const simulation = new Simulation();
    for (let i = 0; i < 256 - readers; i++) simulation.add(1, 1e9);
    for (let i = 0; i < readers; i++) simulation.add(1e6 + i, 1);
    simulation.run();
    const { scheduler } = simulation;
    const step = (): void => {
      for (const { id } of scheduler.next().shares)
        scheduler.report(id, simulation.jobs.get(id)?.rows ?? 1, false);
    };
    for (let i = 0; i < 200; i++) step();
    const rounds = Array.from({ length: 20 }, () => {
      const start = performance.now();
      for (let i = 0; i < 20; i++) step();
      return (performance.now() - start) * (1000 / 20);
    });
    // The best of many: what else the machine does is not what is measured.
    return Math.min(...rounds);
  }

  it.each([0, 128, 255])(
    "with %i of them reading takes under 300 microseconds a step",
    (readers) => {
      const us = costUs(readers);
      console.log(
        `scheduler: ${us.toFixed(0)} us a step at 256 sequences, ${readers} of them reading`,
      );
      expect(us).toBeLessThan(300);
    },
  );
});
