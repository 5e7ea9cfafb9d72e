/** The worker as a process of its own: what `leanedge worker` runs. */
export { readTokenFile } from "./bearer-token.js";
export { drainMsDefault } from "./limits.js";
export { listenAddress } from "./listen-address.js";
export { openModel } from "./load-model.js";
export { PromptTexts } from "./prompt-texts.js";
export { startWorkerProcess } from "./run-worker.js";
