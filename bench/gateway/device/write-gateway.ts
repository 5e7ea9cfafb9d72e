/** Writes the gateway's bundle and configuration into the folder that is named. */
import { writeGateway } from "../bundled-gateway.js";

const [, , folder] = process.argv;
if (folder === undefined) throw new Error("which folder?");
await writeGateway(folder);
