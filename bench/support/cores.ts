/** Processes with cores of their own, on machines that have enough of them. */

/** Parts into which cores are split need so many each: a process has threads beside its main one. */
export const coresOfPartMin = 2;

/** A command line that keeps a program, and all that it starts, to a list of cores as taskset takes it; undefined: to none. */
export function onCores(
  cores: string | undefined,
  program: string,
  args: readonly string[],
): { command: string; args: string[] } {
  if (cores === undefined) return { command: program, args: [...args] };
  return { command: "taskset", args: ["--cpu-list", cores, program, ...args] };
}

/** The cores of a list such as `0-3,8`. Throws for what is none. */
export function coresOf(list: string): number[] {
  return list.split(",").flatMap((range) => {
    const { from, to } = /^(?<from>\d+)(?:-(?<to>\d+))?$/.exec(range)?.groups ?? {};
    const begin = Number(from);
    const end = Number(to ?? from);
    if (!(end >= begin)) throw new Error(`${list} is no list of cores`);
    return Array.from({ length: end - begin + 1 }, (_, index) => begin + index);
  });
}

/**
 * Splits cores into parts of the same size, one after the other; those that are left over are nobody's.
 *
 * @returns a list each, as taskset takes it; undefined where a part would have fewer than coresOfPartMin
 */
export function splitCores(cores: readonly number[], parts: number): string[] | undefined {
  const size = Math.floor(cores.length / parts);
  if (size < coresOfPartMin) return undefined;
  return Array.from({ length: parts }, (_, part) =>
    cores.slice(part * size, (part + 1) * size).join(","),
  );
}
