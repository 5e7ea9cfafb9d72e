/** What the gateway uses of Node's own module, which workerd has as well; all of Node's declarations would contradict workerd's. */
declare module "node:crypto" {
  /** A hash that is fed piece by piece. */
  interface Hash {
    update(data: string | Uint8Array): Hash;
    digest(): Uint8Array<ArrayBuffer>;
    copy(): Hash;
  }
  export function createHash(algorithm: "sha256"): Hash;
  /** The hash of one piece. */
  export function hash(
    algorithm: "sha256",
    data: string | Uint8Array,
    encoding: "buffer",
  ): Uint8Array<ArrayBuffer>;
}
