/**
 * The ceiling that decoding runs against: a loop that only reads memory, as WASM SIMD, made byte by
 * byte here so that no build tool stands between the benchmark and its yardstick. Four 16-byte loads
 * a turn into four sums, no stores; what it reads per second is what weights could be read at.
 */

const i32 = 0x7f;
const v128 = 0x7b;

const bytesPerTurn = 64;
const pageBytes = 65_536;

function unsigned(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  do {
    const low = rest & 0x7f;
    rest >>>= 7;
    bytes.push(rest === 0 ? low : low | 0x80);
  } while (rest !== 0);
  return bytes;
}

/** Signed LEB128 of a non-negative constant. */
function constant(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (;;) {
    const low = rest & 0x7f;
    rest >>= 7;
    if (rest === 0 && (low & 0x40) === 0) return [...bytes, low];
    bytes.push(low | 0x80);
  }
}

function section(id: number, content: readonly number[]): number[] {
  return [id, ...unsigned(content.length), ...content];
}

function named(name: string): number[] {
  const bytes = [...new TextEncoder().encode(name)];
  return [...unsigned(bytes.length), ...bytes];
}

/**
 * A module with memory for `bytes` bytes, exported as `memory`, and `read(bytes, passes)`, which sums
 * the first `bytes` bytes (a multiple of 64, not 0) as 32-bit lanes `passes` times over.
 */
export function readLoopModule(bytes: number): Uint8Array<ArrayBuffer> {
  const [size, passes, at, sum] = [0, 1, 2, 3];
  const get = (local: number): number[] => [0x20, local];
  const set = (local: number): number[] => [0x21, local];
  const tee = (local: number): number[] => [0x22, local];
  const simd = (operation: number): number[] => [0xfd, ...unsigned(operation)];
  const load = (offset: number): number[] => [...simd(0), 4, ...unsigned(offset)];
  const addLanes = simd(0xae);
  const lane = (index: number): number[] => [...simd(0x1b), index];
  const accumulate = (index: number): number[] => [
    ...[...get(sum + index), ...get(at), ...load(16 * index)],
    ...[...addLanes, ...set(sum + index)],
  ];
  const body = [
    ...[2, 1, i32, 4, v128], // locals: at; four sums
    ...[0x03, 0x40], // loop, one turn a pass
    ...[0x41, 0, ...set(at)],
    ...[0x03, 0x40], // loop, one turn 64 bytes
    ...[0, 1, 2, 3].flatMap(accumulate),
    ...[...get(at), 0x41, ...constant(bytesPerTurn), 0x6a, ...tee(at)],
    ...[...get(size), 0x49, 0x0d, 0, 0x0b], // at < size: again
    ...[...get(passes), 0x41, 1, 0x6b, ...tee(passes), 0x0d, 0, 0x0b],
    ...[1, 2, 3].flatMap((index) => [
      ...[...get(sum), ...get(sum + index), ...addLanes, ...set(sum)],
    ]),
    ...[...get(sum), ...lane(0), ...get(sum), ...lane(1), 0x6a],
    ...[...get(sum), ...lane(2), 0x6a, ...get(sum), ...lane(3), 0x6a],
    0x0b,
  ];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, 2, i32, i32, 1, i32]),
    ...section(3, [1, 0]),
    ...section(5, [1, 0, ...unsigned(Math.ceil(bytes / pageBytes))]),
    ...section(7, [2, ...named("memory"), 2, 0, ...named("read"), 0, 0]),
    ...section(10, [1, ...unsigned(body.length), ...body]),
  ]);
}

/** What an instance of the module exports. */
export type ReadLoop = {
  memory: WebAssembly.Memory;
  read: (bytes: number, passes: number) => number;
};

/** Bytes of a buffer rounded down to whole turns of the loop. */
export function wholeTurns(bytes: number): number {
  return bytes - (bytes % bytesPerTurn);
}

/** Bytes of one measurement, and of the one before it that warms up. */
const measureBytes = 2e9;

/** Passes over a buffer that one measurement takes. */
export function readPasses(bytes: number): number {
  return Math.max(2, Math.ceil(measureBytes / bytes));
}

/**
 * Puts values into all of a loop's memory. Memory that was never written is one page of zeros, mapped
 * again and again: reading that is reading the first-level cache.
 */
export function touch({ memory }: ReadLoop): void {
  new Uint8Array(memory.buffer).fill(1);
}

/** Bytes a second that the loop reads, by the caller's own clock. */
export function readSpeed(loop: ReadLoop, bytes: number): number {
  const passes = readPasses(bytes);
  touch(loop);
  loop.read(bytes, passes);
  const start = performance.now();
  loop.read(bytes, passes);
  return (1000 * bytes * passes) / (performance.now() - start);
}

/** `readSpeed` of a buffer of `bytes` bytes in this process. */
export async function measureReads(bytes: number): Promise<number> {
  const { instance } = await WebAssembly.instantiate(readLoopModule(bytes));
  return readSpeed(instance.exports as unknown as ReadLoop, wholeTurns(bytes));
}
