/** The descriptor on which a server listens, for processes that are started to have it, too. */
import type { Server } from "node:net";

/** Of a server that listens; Node has no name for it. */
export function serverFd(server: Server): number {
  return (server as unknown as { readonly _handle: { readonly fd: number } })._handle.fd;
}
