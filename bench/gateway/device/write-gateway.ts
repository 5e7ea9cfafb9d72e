/** Writes the gateway's bundle and configurations into the folder that is named, for the numbers of processes that follow. */
import { writeGateway } from "../bundled-gateway.js";

const [, , folder, ...processes] = process.argv;
if (folder === undefined) throw new Error("which folder?");
await writeGateway(folder, processes.map(Number));
