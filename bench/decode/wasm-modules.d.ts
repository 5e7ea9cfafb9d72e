/** WASM files that wrangler's bundler turns into compiled modules. */
declare module "*.wasm" {
  const module: WebAssembly.Module;
  export default module;
}
