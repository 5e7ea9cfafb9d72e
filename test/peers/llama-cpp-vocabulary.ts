/** llama.cpp's tokenizer alone: it loads no weights, so a file with a vocabulary is enough. */
const moduleUrl = new URL(
  "../../bench/peers/node_modules/node-llama-cpp/dist/index.js",
  import.meta.url,
);

// The parts of node-llama-cpp 3.x that are used here; its own types need it installed.
type PeerModel = {
  tokenize(text: string, specialTokens: boolean): Iterable<number>;
  detokenize(tokens: readonly number[], specialTokens: boolean): string;
  isEogToken(token: number): boolean;
  dispose(): Promise<void>;
};
type PeerRuntime = {
  loadModel(options: { modelPath: string; vocabOnly: true }): Promise<PeerModel>;
  dispose(): Promise<void>;
};
type PeerModule = {
  getLlama(options: {
    gpu: false;
    build: "never";
    skipDownload: true;
    logLevel: "disabled";
    maxThreads: 1;
  }): Promise<PeerRuntime>;
};

/** The vocabulary of a model in llama.cpp. */
export class LlamaCppVocabulary {
  readonly #runtime: PeerRuntime;
  readonly #model: PeerModel;

  private constructor(runtime: PeerRuntime, model: PeerModel) {
    this.#runtime = runtime;
    this.#model = model;
  }

  /** Loads the vocabulary of a GGUF file. Throws when the peer is not installed or refuses it. */
  static async load(path: string): Promise<LlamaCppVocabulary> {
    const peer = (await import(moduleUrl.href)) as PeerModule;
    const runtime = await peer.getLlama({
      gpu: false,
      build: "never",
      skipDownload: true,
      logLevel: "disabled",
      maxThreads: 1,
    });
    return new LlamaCppVocabulary(
      runtime,
      await runtime.loadModel({ modelPath: path, vocabOnly: true }),
    );
  }

  /** Ids of a text, without BOS; `special`: names of control tokens are read as such. */
  tokenize(text: string, special: boolean): number[] {
    return [...this.#model.tokenize(text, special)];
  }

  /** Does generation end with this token? */
  endsGeneration(id: number): boolean {
    return this.#model.isEogToken(id);
  }

  /** Frees the model and the peer's runtime. */
  async dispose(): Promise<void> {
    await this.#model.dispose();
    await this.#runtime.dispose();
  }
}
