/** Finding special tokens in text, and only where they may be. */

/** A piece of a prompt. */
export interface TextPiece {
  readonly text: string;
  /**
   * True: the text is a template's, and names of control tokens in it are those tokens. False: it
   * is somebody's message and stays plain text, whatever it looks like.
   */
  readonly special: boolean;
}

/** A run of text between special tokens, or a special token. */
export type Fragment = { readonly begin: number; readonly end: number } | number;

/** A token that is looked for in text before anything else. */
export interface SpecialToken {
  readonly id: number;
  readonly text: string;
  /** Found in messages too: user-defined tokens are mere words. */
  readonly everywhere: boolean;
}

/** Is [begin, end) inside one of the spans, which are in order and do not overlap? */
function isInside(
  spans: readonly (readonly [number, number])[],
  begin: number,
  end: number,
): boolean {
  let low = 0;
  let high = spans.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((spans[middle]?.[1] ?? 0) < end) low = middle + 1;
    else high = middle;
  }
  const span = spans[low];
  return span !== undefined && span[0] <= begin && end <= span[1];
}

/**
 * Cuts fragments at one token. The search never goes back, so that a text made of special tokens
 * costs no more than one that has none.
 */
function cutAt(
  text: string,
  fragments: Fragment[],
  token: SpecialToken,
  isAllowed: (begin: number, end: number) => boolean,
): Fragment[] {
  let found = text.indexOf(token.text);
  if (found < 0) return fragments;
  const cut: Fragment[] = [];
  for (const fragment of fragments) {
    if (typeof fragment === "number") {
      cut.push(fragment);
      continue;
    }
    let { begin } = fragment;
    let from = begin;
    for (;;) {
      if (found >= 0 && found < from) found = text.indexOf(token.text, from);
      if (found < 0 || found >= fragment.end) break;
      const end = found + token.text.length;
      if (end > fragment.end || !isAllowed(found, end)) {
        from = found + 1;
        continue;
      }
      if (found > begin) cut.push({ begin, end: found });
      cut.push(token.id);
      begin = end;
      from = end;
    }
    if (begin < fragment.end) cut.push({ begin, end: fragment.end });
  }
  return cut;
}

/**
 * Cuts the text of some pieces, put together, at its special tokens: longest token first, leftmost
 * first, as llama.cpp does. A control token counts only where all of it lies in one special piece,
 * so no message can complete one, and no two pieces can form one together.
 */
export function findSpecialTokens(
  pieces: readonly TextPiece[],
  tokens: readonly SpecialToken[],
): { text: string; fragments: readonly Fragment[] } {
  // A surrogate half that ends one piece must not pair with one that begins the next.
  const texts = pieces.map((piece) => piece.text.toWellFormed());
  const text = texts.join("");
  const spans: [number, number][] = [];
  let at = 0;
  for (const [index, piece] of pieces.entries()) {
    const end = at + (texts[index]?.length ?? 0);
    if (piece.special && end > at) spans.push([at, end]);
    at = end;
  }

  let fragments: Fragment[] = text.length === 0 ? [] : [{ begin: 0, end: text.length }];
  for (const token of tokens) {
    if (!token.everywhere && spans.length === 0) continue;
    const isAllowed = (begin: number, end: number): boolean =>
      token.everywhere || isInside(spans, begin, end);
    fragments = cutAt(text, fragments, token, isAllowed);
  }
  return { text, fragments };
}
