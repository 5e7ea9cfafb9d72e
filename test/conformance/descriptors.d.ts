/** Files that wrangler bundles as bytes. */
declare module "*.binpb" {
  const bytes: ArrayBuffer;
  // eslint-disable-next-line no-restricted-syntax -- wrangler exports the bytes as the default.
  export default bytes;
}
