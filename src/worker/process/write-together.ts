/**
 * What an answer says at one moment travels in one piece. The end of an answer comes with its last token, and often the
 * first one with the news that the prompt was accepted; each piece of its own costs whoever reads it a wake-up, in a gateway
 * more than all that is in it. Node's own `cork` is no help: where an answer ends while corked, its end overtakes the rest.
 */
import type { ServerResponse } from "node:http";
import { writeTogetherBytesMax } from "./limits.js";

type Written = (error?: Error | null) => void;

/** Lets the bytes that are written to a response within one turn of the event loop leave together, after it. */
export function writeTogether(response: ServerResponse): void {
  const write = response.write.bind(response);
  const end = response.end.bind(response);
  let waiting: Uint8Array[] = [];
  let bytes = 0;
  let told: Written[] = [];

  /** False where the reader has to take something first. */
  function flush(): boolean {
    if (waiting.length === 0) return true;
    const [first] = waiting;
    const together = waiting.length === 1 ? first : Buffer.concat(waiting, bytes);
    const heard = told;
    waiting = [];
    bytes = 0;
    told = [];
    // Nobody is there any more, and there is nobody to tell it to.
    if (response.destroyed) return false;
    return write(together, (error) => {
      for (const tell of heard) tell(error);
    });
  }

  response.write = (chunk: unknown, encoding?: BufferEncoding | Written, written?: Written) => {
    if (!(chunk instanceof Uint8Array) || response.destroyed || response.writableEnded) {
      flush();
      return typeof encoding === "string"
        ? write(chunk, encoding, written)
        : write(chunk, encoding);
    }
    if (waiting.length === 0) setImmediate(flush);
    waiting.push(chunk);
    bytes += chunk.byteLength;
    const tell = typeof encoding === "function" ? encoding : written;
    if (tell !== undefined) told.push(tell);
    return bytes < writeTogetherBytesMax || flush();
  };
  response.end = ((...args: Parameters<typeof end>) => {
    flush();
    return end(...args);
  }) as typeof end;
}
