/**
 * Processes that stay and measure in turn: for what is compared within seconds of each other, so that a machine that
 * others slow down slows down both. A child measures when it is told to, and does nothing meanwhile.
 */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { onCores } from "./cores.js";

/** A process that measures when it is told to. */
export type TurnTaker<T> = {
  /** Its id. */
  pid: number;
  /** One measurement; `what` goes to the child as it is. */
  turn(what: string): Promise<T>;
  /** Ends the process, once it has put its things away. */
  stop(): Promise<void>;
};

/** What a child does. */
export type Turns<T> = {
  turn(what: string): Promise<T>;
  close(): Promise<void>;
};

/** What a child is told: its workload first, then what to measure. */
type Message = { workload: object } | { what: string };

type Answer<T> = { measured: T } | { failed: string };

/** Scripts are bundled, as this file is then: each lies beside it under its own name. */
const bundled = import.meta.url.endsWith(".mjs");

/**
 * Starts a script that calls `takeTurns`; the workload is handed to it.
 *
 * @param cores cores that it keeps to, as taskset takes them; undefined: all
 */
export async function startTurns<T>(
  script: URL,
  workload: object,
  cores?: string,
): Promise<TurnTaker<T>> {
  const { command, args } = onCores(cores, process.execPath, bundled ? [] : ["--import", "tsx"]);
  const path = fileURLToPath(script);
  const child = fork(bundled ? path.replace(/\.ts$/, ".mjs") : path, [], {
    execPath: command,
    execArgv: args,
  });
  const exited = new Promise<string>((resolve) => {
    child.once("exit", (code, signal) => resolve(`ended with ${code ?? signal ?? "nothing"}`));
  });
  const ask = async (message: Message): Promise<T> => {
    const answered = new Promise<Answer<T>>((resolve) => {
      child.once("message", (answer) => resolve(answer as Answer<T>));
    });
    child.send(message);
    const answer = await Promise.race([
      answered,
      exited.then((how): Answer<T> => ({ failed: how })),
    ]);
    if ("failed" in answer) throw new Error(`${script.pathname}: ${answer.failed}`);
    return answer.measured;
  };
  const stop = async (): Promise<void> => {
    if (child.connected) child.disconnect();
    await exited;
  };
  try {
    await ask({ workload });
  } catch (error) {
    await stop();
    throw error;
  }
  return { pid: child.pid ?? 0, turn: (what) => ask({ what }), stop };
}

/** The child's side: opens, then measures at each message until its parent lets go of it. The workload is its word. */
export function takeTurns(open: (workload: never) => Promise<Turns<object>>): void {
  let turns: Turns<object> | undefined;
  const take = async (message: Message): Promise<unknown> => {
    if ("what" in message) return turns?.turn(message.what);
    turns = await open(message.workload as never);
    return undefined;
  };
  process.on("message", (message) => {
    take(message as Message).then(
      (measured) => process.send?.({ measured }),
      (error: unknown) =>
        process.send?.({ failed: error instanceof Error ? (error.stack ?? "") : String(error) }),
    );
  });
  process.once("disconnect", () => {
    void (async () => {
      await turns?.close();
      process.exit(0);
    })();
  });
}
