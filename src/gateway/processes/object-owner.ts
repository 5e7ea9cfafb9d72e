/** Which of several gateway processes keeps an object. */

/** The processes that serve one gateway together. */
export interface GatewayProcesses {
  /** This one, from 0. */
  readonly index: number;
  /** All of them. */
  readonly count: number;
}

/** Most processes of one gateway. */
export const processesMax = 64;

/** Reads `INDEX/COUNT`; undefined where it is unset or empty: there is one process. Throws where it says anything else. */
export function parseProcesses(text: string | undefined): GatewayProcesses | undefined {
  if (text === undefined || text === "") {
    return undefined;
  }
  const [, index = NaN, count = NaN] = (/^(\d{1,2})\/(\d{1,2})$/.exec(text) ?? []).map(Number);
  if (!(index < count && count <= processesMax)) {
    throw new Error(
      `LEANEDGE_PROCESS is "${text}", not INDEX/COUNT with an index below a count of at most ${processesMax}`,
    );
  }
  return count === 1 ? undefined : { index, count };
}

/**
 * The process that keeps the object of an id: an id is 64 hexadecimal digits of a hash, whose first eight decide. It is the
 * same for every process, and as long as their number stays the same.
 */
export function ownerOfId(id: string, count: number): number {
  const [digits] = /^[0-9a-f]{8}/.exec(id) ?? [];
  if (digits === undefined) {
    throw new Error(`"${id}" is no id of an object`);
  }
  return Number.parseInt(digits, 16) % count;
}

/** The process that has an engine, by its name `MODEL/INDEX`: a model's engines spread evenly, and store nothing. */
export function ownerOfEngine(name: string, count: number): number {
  const [, index] = /\/(\d+)$/.exec(name) ?? [];
  if (index === undefined) {
    throw new Error(`"${name}" is no name of an engine`);
  }
  return Number(index) % count;
}

/** The process that keeps the object of an index among those that sessions share: each has as many as any other, or one less. */
export function ownerOfShared(index: number, count: number): number {
  return index % count;
}
