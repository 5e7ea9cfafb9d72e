/** Workers in processes of their own (docs/worker.md), as the configuration names them. */

/** Addresses of the workers of each model. */
export type RemoteWorkers = ReadonlyMap<string, readonly string[]>;

/** Workers of all models together. */
const workersMax = 256;
const entryPattern = /^(?<model>[A-Za-z0-9._-]{1,128})=(?<url>\S+)$/;

/**
 * Reads `MODEL=URL` entries separated by commas; a model may stand there several times.
 *
 * @throws Error that names the entry and what is wrong with it
 */
export function parseRemoteWorkers(value: string | undefined): RemoteWorkers {
  const entries = value === undefined ? [] : value.split(",").map((entry) => entry.trim());
  if (entries.length > workersMax) {
    throw new Error(`LEANEDGE_WORKERS has ${entries.length} workers, at most ${workersMax}`);
  }
  const workers = new Map<string, string[]>();
  entries.forEach((entry, index) => {
    const { model, url } = entryPattern.exec(entry)?.groups ?? {};
    const address = url === undefined ? undefined : httpUrl(url);
    if (model === undefined || address === undefined) {
      throw new Error(
        `LEANEDGE_WORKERS[${index}] is "${entry}"; it must read MODEL=URL, the URL with http or https`,
      );
    }
    if (!isBare(address)) {
      // A password in it would be shown to all who read the configuration.
      throw new Error(`LEANEDGE_WORKERS[${index}] must name a host and a port, and nothing else`);
    }
    const known = workers.get(model) ?? [];
    if (known.includes(address.origin)) {
      throw new Error(`LEANEDGE_WORKERS names ${address.origin} twice for model "${model}"`);
    }
    workers.set(model, [...known, address.origin]);
  });
  return workers;
}

/** Whether a text is an http or https address of host and port, and nothing else. */
export function isOrigin(text: string): boolean {
  const url = httpUrl(text);
  return url !== undefined && isBare(url);
}

function httpUrl(text: string): URL | undefined {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  return url !== undefined && /^https?:$/.test(url.protocol) ? url : undefined;
}

function isBare({ pathname, search, hash, username, password }: URL): boolean {
  return pathname === "/" && `${search}${hash}${username}${password}` === "";
}
