import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../test/oracle/random.js";
import { Scheduler, SchedulerError } from "./scheduler.js";

const layers = 8;

describe("Scheduler", () => {
  it("gives every decoding job one row in every step", () => {
    const scheduler = new Scheduler({ layers, cacheBytes: 100 });
    for (const id of [1, 2, 3]) scheduler.add({ id, rowsPending: 1, cacheBytesMax: 10 });
    expect(scheduler.next().shares).toEqual([1, 2, 3].map((id) => ({ id, workMax: layers })));
  });

  it("reads the shortest prompt first but keeps a share for the oldest", () => {
    const scheduler = new Scheduler({ layers, cacheBytes: 100, promptRowsMax: 64 });
    scheduler.add({ id: 1, rowsPending: 4096, cacheBytesMax: 10 });
    scheduler.add({ id: 2, rowsPending: 40, cacheBytesMax: 10 });
    const shares = new Map(scheduler.next().shares.map((s) => [s.id, s.workMax / layers]));
    expect(shares.get(1)).toBe(24);
    expect(shares.get(2)).toBe(40);
  });

  it("admits by bytes in order of arrival and lets nobody overtake", () => {
    const scheduler = new Scheduler({ layers, cacheBytes: 100 });
    scheduler.add({ id: 1, rowsPending: 1, cacheBytesMax: 60 });
    scheduler.add({ id: 2, rowsPending: 1, cacheBytesMax: 60 });
    scheduler.add({ id: 3, rowsPending: 1, cacheBytesMax: 10 });
    expect(scheduler.next().admitted).toEqual([1]);
    expect(scheduler.queuedBefore(3)).toBe(1);
    scheduler.remove(1);
    const plan = scheduler.next();
    expect(plan.admitted).toEqual([2, 3]);
    expect(plan.idleBytesMax).toBe(30);
  });

  it("refuses a job that could not run even alone", () => {
    const scheduler = new Scheduler({ layers, cacheBytes: 100 });
    expect(() => scheduler.add({ id: 1, rowsPending: 1, cacheBytesMax: 101 })).toThrow(
      "the sequence needs 101 bytes of cache, the engine has 100",
    );
  });

  it("refuses more waiting jobs than its bound", () => {
    const scheduler = new Scheduler({ layers, cacheBytes: 10, queuedMax: 2 });
    for (const id of [1, 2]) scheduler.add({ id, rowsPending: 1, cacheBytesMax: 10 });
    expect(() => scheduler.add({ id: 3, rowsPending: 1, cacheBytesMax: 10 })).toThrow(
      SchedulerError,
    );
  });

  it("forgets removed jobs wherever they are", () => {
    const scheduler = new Scheduler({ layers, cacheBytes: 100 });
    scheduler.add({ id: 1, rowsPending: 1, cacheBytesMax: 100 });
    scheduler.add({ id: 2, rowsPending: 1, cacheBytesMax: 100 });
    scheduler.next();
    scheduler.remove(2);
    scheduler.remove(1);
    scheduler.remove(7);
    expect([scheduler.running, scheduler.queued, scheduler.reservedBytes]).toEqual([0, 0, 0]);
  });

  it("reserves what the reading of a prompt takes, and gives it back with the first token", () => {
    const scheduler = new Scheduler({ layers, cacheBytes: 100 });
    scheduler.add({ id: 1, rowsPending: 70, cacheBytesMax: 30, readingBytesMax: 60 });
    scheduler.add({ id: 2, rowsPending: 70, cacheBytesMax: 30, readingBytesMax: 60 });
    expect(scheduler.next().admitted).toEqual([1]);
    expect(scheduler.reservedBytes).toBe(60);
    scheduler.report(1, 6, false);
    expect(scheduler.next().admitted).toEqual([]);
    scheduler.report(1, 1, true);
    expect(scheduler.reservedBytes).toBe(30);
    expect(scheduler.next()).toMatchObject({ admitted: [2], idleBytesMax: 10 });
    scheduler.remove(2);
    scheduler.remove(1);
    expect(scheduler.reservedBytes).toBe(0);
    const add = (): void => {
      scheduler.add({ id: 3, rowsPending: 2, cacheBytesMax: 1, readingBytesMax: 101 });
    };
    expect(add).toThrow("the sequence needs 101 bytes of cache, the engine has 100");
  });

  it("lets every job end, within bounds, over random arrivals, sizes and cancels", () => {
    for (let seed = 1; seed <= 50; seed++) {
      const source = new SeededRandom(seed);
      const next = (): number => source.uniform();
      const scheduler = new Scheduler({
        layers,
        cacheBytes: 1000,
        runningMax: 6,
        promptRowsMax: 32,
      });
      type Left = { rows: number; decode: number; bytes: number; reading: number };
      const left = new Map<number, Left>();
      const running = new Set<number>();
      let ended = 0;
      let born = 0;
      for (let step = 0; ended < 60; step++) {
        if (step > 20_000) throw new Error(`seed ${seed}: ${ended} jobs ended, and no more do`);
        if (born < 60 && next() < 0.3) {
          const rows = 1 + Math.floor(next() * 500);
          const bytes = 1 + Math.floor(next() * 1000);
          const reading = Math.floor(next() * 1000);
          born++;
          left.set(born, { rows, decode: 1 + Math.floor(next() * 20), bytes, reading });
          const sizes = { cacheBytesMax: bytes, readingBytesMax: reading };
          scheduler.add({ id: born, rowsPending: rows, ...sizes });
        }
        const plan = scheduler.next();
        for (const id of plan.admitted) running.add(id);
        // What the running jobs hold at most, by what they are at.
        const held = [...running].reduce((sum, id) => {
          const job = left.get(id);
          return sum + (job === undefined ? 0 : Math.max(job.bytes, job.reading));
        }, 0);
        if (held !== scheduler.reservedBytes)
          throw new Error(`seed ${seed}: ${held} bytes are held`);
        let promptRows = 0;
        for (const { id, workMax } of plan.shares) {
          const job = left.get(id);
          if (job === undefined) throw new Error(`step names job ${id}, which has ended`);
          const rows = workMax / layers;
          if (rows > job.rows) throw new Error(`job ${id} got ${rows} rows, it has ${job.rows}`);
          if (job.rows > 1) promptRows += rows;
          job.rows -= rows;
          const drewToken = job.rows === 0;
          if (drewToken) {
            job.decode--;
            job.rows = 1;
            job.reading = 0;
          }
          scheduler.report(id, job.rows, drewToken);
          if (job.decode <= 0 || next() < 0.005) {
            scheduler.remove(id);
            left.delete(id);
            ended++;
          }
        }
        const withinBounds =
          promptRows <= 32 && scheduler.running <= 6 && scheduler.reservedBytes <= 1000;
        if (!withinBounds) throw new Error(`seed ${seed}, step ${step}: a bound was broken`);
      }
      expect(scheduler.reservedBytes).toBe(0);
    }
  });
});
