/** The messages of the open chat, and the answer that is growing. */
import { FinishReason, Role, type TranscriptMessage } from "../gen/leanedge/v1/session_pb.js";
import { element } from "./elements.js";

const notes: Partial<Record<FinishReason, string>> = {
  [FinishReason.CANCELLED]: "stopped",
  [FinishReason.LENGTH]: "ended at its length limit",
  [FinishReason.ERROR]: "ended by an error",
};

/** An answer that is growing. */
export interface GrowingAnswer {
  append(text: string): void;
  finish(reason: FinishReason): void;
}

/** See the head of this file. */
export class MessageList {
  readonly #list = element("messages", HTMLOListElement);

  clear(): void {
    this.#list.replaceChildren();
  }

  /** Shows a stored message. */
  add({ message, finishReason }: TranscriptMessage): void {
    if (message === undefined || message.role === Role.SYSTEM) return;
    const item = this.#item(message.role === Role.USER ? "user" : "assistant", message.text);
    addNote(item, finishReason);
    this.#scrollToEnd();
  }

  /** Shows what the user has just sent. */
  addUserText(text: string): void {
    this.#item("user", text);
    this.#scrollToEnd();
  }

  /** Begins an answer. */
  beginAnswer(): GrowingAnswer {
    const item = this.#item("assistant", "");
    item.classList.add("running");
    // A screen reader hears the answer once it is whole, not letter by letter.
    item.setAttribute("aria-busy", "true");
    const text = document.createTextNode("");
    item.append(text);
    this.#scrollToEnd();
    return {
      append: (piece) => {
        const follows = this.#isAtEnd();
        text.appendData(piece);
        if (follows) this.#scrollToEnd();
      },
      finish: (reason) => {
        item.classList.remove("running");
        item.removeAttribute("aria-busy");
        addNote(item, reason);
      },
    };
  }

  #item(kind: "user" | "assistant", text: string): HTMLLIElement {
    const item = document.createElement("li");
    item.className = kind;
    const speaker = document.createElement("span");
    speaker.className = "visually-hidden";
    speaker.textContent = kind === "user" ? "You: " : "Model: ";
    item.append(speaker, text);
    this.#list.append(item);
    return item;
  }

  #isAtEnd(): boolean {
    const { scrollTop, clientHeight, scrollHeight } = this.#list;
    return scrollTop + clientHeight > scrollHeight - 48;
  }

  #scrollToEnd(): void {
    this.#list.scrollTop = this.#list.scrollHeight;
  }
}

function addNote(item: HTMLElement, reason: FinishReason): void {
  const text = notes[reason];
  if (text === undefined) return;
  const note = document.createElement("span");
  note.className = "note";
  note.textContent = text;
  item.append(note);
}
