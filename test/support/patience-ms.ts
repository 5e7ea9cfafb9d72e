/** Longest wait of expect.poll() and vi.waitFor() that name none, in milliseconds; see patience.ts. */
export const patienceMs = 20_000;
