/**
 * The API key of this browser. It comes in the fragment of the address, which never leaves the
 * browser, or from the form; it is kept in local storage and taken out of the address bar.
 */
const storageKey = "leanedge.key";

/** The key, from the address or from an earlier visit. */
export function readAccessKey(): string | undefined {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const given = fragment.get("key");
  if (given !== null && given !== "") {
    saveAccessKey(given);
    fragment.delete("key");
    const rest = fragment.toString();
    history.replaceState(null, "", rest === "" ? location.pathname : `#${rest}`);
  }
  return localStorage.getItem(storageKey) ?? undefined;
}

/** Keeps a key for later visits. */
export function saveAccessKey(key: string): void {
  localStorage.setItem(storageKey, key);
}
