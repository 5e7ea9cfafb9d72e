/** Where a worker listens, and whether others than this machine can reach it there. */
import { lookup } from "node:dns/promises";
import { BlockList, isIPv6 } from "node:net";

/** An address to listen on. */
export interface ListenAddress {
  /** IP address. */
  readonly host: string;
  /** 0 for any free port. */
  readonly port: number;
  /** Whether only this machine reaches it. */
  readonly loopback: boolean;
}

const loopbacks = new BlockList();
loopbacks.addSubnet("127.0.0.0", 8, "ipv4");
loopbacks.addAddress("::1", "ipv6");

const pattern = /^(?:\[(?<v6>[0-9a-fA-F:.]+)\]|(?<name>[^:[\]]+)):(?<port>\d{1,5})$/;

/**
 * Reads `HOST:PORT`; a name is looked up, and its first address taken. IPv6 addresses stand in brackets.
 *
 * @throws Error that names the text and what is wrong with it
 */
export async function listenAddress(text: string): Promise<ListenAddress> {
  const { v6, name, port: digits } = pattern.exec(text)?.groups ?? {};
  const port = Number(digits);
  const wanted = v6 ?? name;
  if (wanted === undefined || !(port <= 65_535)) {
    throw new Error(`"${text}" is not an address to listen on, it must read HOST:PORT`);
  }
  let host: string;
  try {
    host = (await lookup(wanted)).address;
  } catch (cause) {
    throw new Error(`"${text}" names a host that is not known`, { cause });
  }
  return { host, port, loopback: loopbacks.check(host, isIPv6(host) ? "ipv6" : "ipv4") };
}
