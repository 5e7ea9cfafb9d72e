/** What `leanedge bundle` says to the script that starts the processes of a bundle (start-bundle.ts). */

/** Name of the file beside the script that holds it, as JSON. */
export const startFile = "start.json";

/** Its content. */
export interface BundleStart {
  readonly processes: number;
  /** An IPv6 address without brackets. */
  readonly host: string;
  readonly port: number;
  /** Folder that keeps the Durable Objects, absolute. */
  readonly storage: string;
  /** How many objects hold the sessions, 0 to 1024; unset: what the storage says. */
  readonly sessionObjects?: number | undefined;
}
