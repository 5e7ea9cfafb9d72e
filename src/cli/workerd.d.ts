/** The package brings no types. */
declare module "workerd" {
  /** CommonJS: what it exports as `default` is the path of the program for this machine. */
  const workerd: { readonly default: string };
  export = workerd;
}
