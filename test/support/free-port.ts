/** Ports for the servers of tests. */
import { createServer } from "node:net";

/**
 * Ports that tests give to servers: below those that systems give to connections (from 32,768 on Linux), of which one could
 * take the port of a server before it starts, or while it starts again.
 */
const portMin = 10_000;
const portEnd = 32_768;
/** Tries to find one that is free; far more than servers on a machine. */
const portTriesMax = 1_000;
/** Distance of the ports at which processes begin that started one after the other: more than one of them takes. */
const portsOfProcess = 61;
let nextPort = portMin + ((process.pid * portsOfProcess) % (portEnd - portMin));

/** A TCP port of 127.0.0.1 that nobody listens on, and that this process has not given out lately. */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < portTriesMax; tries++) {
    const port = nextPort;
    nextPort = port + 1 < portEnd ? port + 1 : portMin;
    if (await isFree(port)) return port;
  }
  throw new Error(`none of ${portTriesMax} ports below ${nextPort} is free`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((done) => {
    const server = createServer();
    server.once("error", () => {
      done(false);
    });
    server.listen(port, "127.0.0.1", () => {
      server.close(() => {
        done(true);
      });
    });
  });
}
