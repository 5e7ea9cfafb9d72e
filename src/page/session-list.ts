/** The list of chats at the side. */
import type { LeanedgeClient } from "../client/index.js";
import { element } from "./elements.js";

const pageSize = 50;

/** What happens on the list. */
export interface SessionListHandlers {
  open(sessionId: string): void;
  remove(sessionId: string): void;
}

/** See the head of this file. */
export class SessionList {
  readonly #client: LeanedgeClient;
  readonly #handlers: SessionListHandlers;
  readonly #list = element("session-list", HTMLUListElement);
  readonly #more = element("more-sessions", HTMLButtonElement);
  #current = "";

  constructor(client: LeanedgeClient, handlers: SessionListHandlers) {
    this.#client = client;
    this.#handlers = handlers;
  }

  /** Reads the first page anew. */
  async refresh(current: string): Promise<void> {
    this.#current = current;
    const { sessions, nextPageToken } = await this.#client.sessions.listSessions({ pageSize });
    this.#list.replaceChildren(
      ...sessions.map(({ sessionId, title }) => this.#row(sessionId, title)),
    );
    this.#offerMore(nextPageToken);
  }

  #offerMore(token: string): void {
    this.#more.hidden = token === "";
    this.#more.onclick = () => {
      this.#more.hidden = true;
      this.#client.sessions.listSessions({ pageSize, pageToken: token }).then(
        ({ sessions, nextPageToken }) => {
          this.#list.append(...sessions.map(({ sessionId, title }) => this.#row(sessionId, title)));
          this.#offerMore(nextPageToken);
        },
        () => {
          this.#more.hidden = false;
        },
      );
    };
  }

  #row(sessionId: string, title: string): HTMLLIElement {
    const name = title === "" ? "New chat" : title;
    const open = button("open", name);
    open.setAttribute("aria-current", String(sessionId === this.#current));
    open.addEventListener("click", () => {
      this.#handlers.open(sessionId);
    });
    const remove = button("delete", "×");
    remove.setAttribute("aria-label", `Delete chat ${name}`);
    remove.addEventListener("click", () => {
      this.#handlers.remove(sessionId);
    });
    const row = document.createElement("li");
    row.append(open, remove);
    return row;
  }
}

function button(className: string, text: string): HTMLButtonElement {
  const made = document.createElement("button");
  made.type = "button";
  made.className = className;
  made.textContent = text;
  return made;
}
