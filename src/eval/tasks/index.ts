/** RULER's thirteen tasks, by name. */
import { commonWordsTask } from "./common-words.js";
import { frequentWordsTask } from "./frequent-words.js";
import { needleTasks } from "./needles.js";
import { questionTasks } from "./questions.js";
import type { Task } from "./task.js";
import { trackingTask } from "./tracking.js";

/** All of them, in the paper's order. */
export const tasks: readonly Task[] = [
  ...needleTasks,
  trackingTask,
  commonWordsTask,
  frequentWordsTask,
  ...questionTasks,
];

/** The task of a name. @throws Error that lists the names */
export function taskOf(name: string): Task {
  const task = tasks.find((one) => one.name === name);
  if (task === undefined) {
    throw new Error(`no task ${name}: ${tasks.map((one) => one.name).join(", ")}`);
  }
  return task;
}
