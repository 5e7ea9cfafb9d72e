/**
 * Version of what a cache's numbers mean. Counted up with any change to the engine's arithmetic
 * that makes a replayed log give another cache: a saved cache of another version is not continued.
 */
export const cacheVersion = 1;
