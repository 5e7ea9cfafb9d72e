/** True for an error of the operating system with this code, such as ENOENT. */
export function isSystemError(cause: unknown, code: string): boolean {
  return cause instanceof Error && "code" in cause && cause.code === code;
}
