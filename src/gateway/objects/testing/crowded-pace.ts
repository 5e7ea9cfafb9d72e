/** What makes a pace as it is where many sessions store at once and commits take long. */
import { commitOthersQuiet, commitPauseMsMax } from "../../limits.js";
import type { CommitPace } from "../commit-pace.js";

/**
 * Commits twice as many sessions at once as may be without a pause, some times over.
 *
 * @param ms how long each commit takes
 */
export async function crowd(
  pace: CommitPace,
  ms = commitPauseMsMax,
  sessions = 2 * commitOthersQuiet,
): Promise<void> {
  let nowMs = 0;
  for (let round = 0; round < 8; round++) {
    let durable = (): void => undefined;
    const moment = new Promise<void>((resolve) => (durable = resolve));
    const commits = Array.from({ length: sessions }, () =>
      pace.during(
        () => moment,
        () => nowMs,
      ),
    );
    nowMs += ms;
    durable();
    await Promise.all(commits);
  }
}
