/** WASM files that the bundler turns into compiled modules: workerd compiles none at run time. */
declare module "*.wasm" {
  const module: WebAssembly.Module;
  export default module;
}
