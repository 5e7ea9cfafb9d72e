/** Models that have a name of their own: where they come from and what their bytes must be. */
import entries from "./registry.json" with { type: "json" };

/** A file inside a package of a package index. */
export interface PackageSource {
  readonly kind: "package";
  /** Name of the distribution on PyPI. */
  readonly package: string;
  readonly version: string;
  /** Size of the wheel, for the progress bar only. */
  readonly wheelBytes: number;
  /** Path of the model file inside the wheel. */
  readonly member: string;
}

/** A model with a name of its own. */
export interface RegistryEntry {
  readonly name: string;
  /** One line for people. */
  readonly title: string;
  /** SPDX identifier. */
  readonly licence: string;
  /** Where the licence and the model's description can be read. */
  readonly licenceUrl: string;
  readonly sizeBytes: number;
  /** SHA-256 of the model file, lower-case hexadecimal. */
  readonly sha256: string;
  readonly source: PackageSource;
}

/** All of them, in the order of the file. */
export const registry: readonly RegistryEntry[] = entries.map((entry) => ({
  ...entry,
  source: { ...entry.source, kind: "package" },
}));

/** The entry of a name; undefined if there is none. */
export function findInRegistry(name: string): RegistryEntry | undefined {
  return registry.find((entry) => entry.name === name.toLowerCase());
}
