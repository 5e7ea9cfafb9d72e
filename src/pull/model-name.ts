/** What a user may write for a model: a short name, a file of a hub's repository, or a URL. */
import { PullError, quote } from "./errors.js";
import { nameCharsMax } from "./limits.js";
import { findInRegistry, registry, type RegistryEntry } from "./registry.js";

/** A name of the registry. */
export interface RegistryName {
  readonly kind: "registry";
  readonly entry: RegistryEntry;
}

/** `owner/repository[:file or quantisation][@revision]` on a hub. */
export interface HubName {
  readonly kind: "hub";
  /** `owner/repository`. */
  readonly repository: string;
  /** File name or quantisation; unset if the repository is to have one GGUF file only. */
  readonly wanted: string | undefined;
  /** Branch, tag or commit. */
  readonly revision: string;
}

/** A file at an address. */
export interface UrlName {
  readonly kind: "url";
  readonly url: URL;
}

/** What a name means. */
export type ModelName = RegistryName | HubName | UrlName;

/** The branch that hubs read where none is named. */
export const defaultRevision = "main";

const part = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}";
const hubName = new RegExp(
  `^(?:hf:)?(?<repository>${part}/${part})(?::(?<wanted>[A-Za-z0-9][A-Za-z0-9._/-]*))?(?:@(?<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?$`,
);

/** Dots that climb folders have no place in a path of a repository. */
function climbs(path: string): boolean {
  return path.split("/").some((segment) => segment === "" || segment === "." || segment === "..");
}

/**
 * True for a URL that may be fetched: https, or http on this machine.
 */
export function isSafeUrl(url: URL): boolean {
  const loopback = ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
  return url.protocol === "https:" || (url.protocol === "http:" && loopback);
}

/**
 * Reads a name.
 *
 * @throws PullError `name`
 */
export function parseModelName(text: string): ModelName {
  if (text.length > nameCharsMax && !text.includes("://")) {
    throw new PullError(
      "name",
      `the name has ${text.length} characters, at most ${nameCharsMax} are allowed`,
    );
  }
  if (/^[a-z]+:\/\//i.test(text)) return { kind: "url", url: parseUrl(text) };
  const entry = findInRegistry(text);
  if (entry !== undefined) return { kind: "registry", entry };
  const { repository, wanted, revision } = hubName.exec(text)?.groups ?? {};
  if (repository === undefined || climbs(wanted ?? "x") || climbs(revision ?? "x")) {
    const known = registry.map(({ name }) => name).join(", ");
    throw new PullError(
      "name",
      `${quote(text)} is no model that can be fetched: write a known name (${known}), OWNER/REPOSITORY:FILE of a hub, or an https URL`,
    );
  }
  return { kind: "hub", repository, wanted, revision: revision ?? defaultRevision };
}

function parseUrl(text: string): URL {
  let url: URL;
  try {
    url = new URL(text);
  } catch (cause) {
    throw new PullError("name", `${quote(text)} is not a URL`, { cause });
  }
  if (!isSafeUrl(url)) {
    throw new PullError(
      "name",
      `${quote(text)} is not fetched: https only, or http on this machine`,
    );
  }
  if (url.username !== "" || url.password !== "") {
    // It would stand in the record and in every message.
    throw new PullError("name", "a URL with a password in it is not fetched");
  }
  url.hash = "";
  return url;
}

/** The name under which a fetched model is listed and kept: one for each file, whatever was written. */
export function canonicalName(name: ModelName, file?: string): string {
  switch (name.kind) {
    case "registry":
      return name.entry.name;
    case "hub": {
      const at = name.revision === defaultRevision ? "" : `@${name.revision}`;
      return `${name.repository}:${file ?? name.wanted ?? ""}${at}`;
    }
    case "url":
      return `${name.url.origin}${name.url.pathname}`;
  }
}
