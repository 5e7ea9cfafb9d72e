/** The page's elements by id, checked once when the page starts. */

/** The element of an id. Throws where the page's HTML does not have it, or as another kind. */
export function element<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`);
  return found;
}
