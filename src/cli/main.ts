/** The `leanedge` command. Each sub-command is a file of its own; this one only names them. */
import { Command, InvalidArgumentError, Option } from "commander";
import { build } from "./build.js";
import { bundle, type BundleOptions } from "./bundle.js";
import { dev, type DevOptions } from "./dev.js";
import { addEvalCommands } from "./eval.js";
import { addKeyCommands } from "./keys.js";
import { addPoolCommands } from "./pool.js";
import { addPullCommands } from "./pull.js";
import { runProgram } from "./run-program.js";
import { spread } from "./spread.js";
import { addWorkerCommand } from "./worker.js";
import { sessionObjectsMax } from "../gateway/objects/shared-name.js";
import { processesMax } from "../gateway/processes/object-owner.js";

function wholeNumber(what: string, highest: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < 1 || value > highest) {
      throw new InvalidArgumentError(`"${text}" is not ${what}: 1 to ${highest}.`);
    }
    return value;
  };
}

const port = wholeNumber("a port", 65_535);
const processes = wholeNumber("a number of processes", processesMax);

function sessionObjectsOption(description: string): Option {
  return new Option("--session-objects <count>", description).argParser((text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value > sessionObjectsMax) {
      throw new InvalidArgumentError(`"${text}" is not a number from 0 to ${sessionObjectsMax}.`);
    }
    return value;
  });
}

/** Option of the commands that begin a storage. */
const sessionObjects = sessionObjectsOption(
  "keep the sessions in so many objects, 0: in one each (`leanedge spread` changes it; default: as many as processes)",
);
const mebibytes = wholeNumber("a size in MiB", 4_096);

function seconds(text: string): number {
  const value = Number(text);
  if (!(value >= 0 && value <= 3_600)) {
    throw new InvalidArgumentError(`"${text}" is not a time in seconds: 0 to 3600.`);
  }
  return value;
}

function hashedKey(text: string, before: readonly string[]): readonly string[] {
  if (!/^[A-Za-z0-9._-]{1,64}:[0-9a-fA-F]{64}$/.test(text)) {
    throw new InvalidArgumentError("It must read TENANT:SHA256, the hash in hexadecimal.");
  }
  return [...before, text];
}

const program = new Command("leanedge").description(
  "Serve long conversations with language models from the edge.",
);

program
  .command("dev")
  .description("run the gateway with the embedded model on this machine")
  .option("--port <port>", "HTTP port of the gateway", port, 8787)
  .option("--grpc-port <port>", "port of the gRPC front (HTTP/2 without TLS)", port, 8788)
  .option("--host <address>", "address to listen on", "127.0.0.1")
  .option("--state <folder>", "where sessions and the development key are kept", ".leanedge")
  .option(
    "--key <tenant:sha256>",
    "accept a key of your own, named by its hash (may be repeated)",
    hashedKey,
    [],
  )
  .option("--engine-memory <MiB>", "memory of the engine, weights included (default 88)", mebibytes)
  .option(
    "--plan <file>",
    "cache plan for the model (may be repeated: the first whose context range fits is taken), or none",
    (file: string, before: readonly string[]) => [...before, file],
    [],
  )
  .option(
    "--snapshot-idle <seconds>",
    "save a session's cache this long after its last turn (default 10)",
    seconds,
  )
  .option(
    "--worker <model=url>",
    "worker that serves a model, before the embedded engine (may be repeated)",
    (entry: string, before: readonly string[]) => [...before, entry],
    [],
  )
  .option("--worker-token-file <file>", "file with the token that workers ask for")
  .option("--pool-token-file <file>", "let workers register that show the token in this file")
  .option(
    "--admin-token-file <file>",
    "file with the token for `leanedge pool` and `leanedge keys`",
  )
  .option(
    "--limits <name=number,...>",
    "limits of keys that have none of their own, as LEANEDGE_LIMITS (docs/operations.md)",
    "",
  )
  .option(
    "--processes <count>",
    "serve with so many processes, a core each (`leanedge spread` changes it over the same sessions)",
    processes,
    1,
  )
  .addOption(sessionObjects)
  .option("--watch", "reload when a source of the gateway changes", false)
  .action((options: DevOptions) => dev(options));

program
  .command("build")
  .description("write the static assets (page, model shards) that the Worker serves")
  .option("--out <folder>", "folder to write", "dist/public")
  .action(async ({ out }: { out: string }) => {
    for (const line of await build(out)) console.log(line);
  });

program
  .command("bundle")
  .description("write the gateway for workerd (docs/operations.md, 'On workerd')")
  .option("--out <folder>", "folder to write; what is in it is removed", "dist/gateway")
  .option("--assets <folder>", "folder that `leanedge build` wrote", "dist/public")
  .option("--storage <folder>", "where workerd keeps sessions, keys and pools", ".leanedge/objects")
  .option("--listen <host:port>", "where workerd listens", "127.0.0.1:8080")
  .option(
    "--processes <count>",
    "serve with so many processes, a core each (`leanedge spread` changes it over the same sessions)",
    processes,
    1,
  )
  .addOption(sessionObjects)
  .action(async (options: BundleOptions) => {
    for (const line of await bundle(options)) console.log(line);
  });

program
  .command("spread")
  .description(
    "move a gateway's sessions to another number of processes, or of objects (none may run meanwhile)",
  )
  .option("--storage <folder>", "where they are kept", ".leanedge/objects")
  .requiredOption("--processes <count>", "how many will serve them", processes)
  .addOption(
    sessionObjectsOption(
      "keep them in so many objects (default: as many as processes where they share objects, else one each)",
    ),
  )
  .action((options: { storage: string; processes: number; sessionObjects?: number }) =>
    spread(options.storage, options.processes, options.sessionObjects),
  );

addEvalCommands(program, wholeNumber);
addKeyCommands(program);
addPoolCommands(program);
addPullCommands(program);
addWorkerCommand(program, wholeNumber);

await runProgram(() => program.parseAsync());
