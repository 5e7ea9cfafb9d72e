/** The page served at `/`: wires the chat, the list of chats and the form together. */
import { Code, ConnectError } from "@connectrpc/connect";
import { createLeanedgeClient, type LeanedgeClient } from "../client/index.js";
import { readAccessKey, saveAccessKey } from "./access-key.js";
import { Chat, type ChatParts } from "./chat.js";
import { element } from "./elements.js";
import { LiveLine } from "./live-line.js";
import { MemoryTable } from "./memory-table.js";
import { MessageList } from "./message-list.js";
import { SessionList } from "./session-list.js";

const notice = element("notice", HTMLParagraphElement);
const composer = element("composer", HTMLFormElement);
const field = element("composer-text", HTMLTextAreaElement);
const sendButton = element("send", HTMLButtonElement);
const stopButton = element("stop", HTMLButtonElement);
const keyForm = element("key-form", HTMLFormElement);
const keyField = element("key-field", HTMLInputElement);
const menuButton = element("menu", HTMLButtonElement);
const sidebar = element("sessions", HTMLElement);

function showError(error: unknown): void {
  notice.hidden = error === undefined;
  if (error === undefined) return;
  notice.textContent = messageOf(error);
  if (error instanceof ConnectError && error.code === Code.Unauthenticated) {
    keyForm.hidden = false;
    composer.hidden = true;
  }
}

function messageOf(error: unknown): string {
  if (error instanceof ConnectError) return error.rawMessage;
  if (error instanceof Error) return error.message;
  return typeof error === "string" ? error : "something went wrong";
}

function showMenu(shown: boolean): void {
  sidebar.classList.toggle("shown", shown);
  menuButton.setAttribute("aria-expanded", String(shown));
}

function sessionInAddress(): string | undefined {
  return new URLSearchParams(location.hash.slice(1)).get("chat") ?? undefined;
}

function start(client: LeanedgeClient): void {
  const parts: ChatParts = {
    client,
    messages: new MessageList(),
    live: new LiveLine(),
    memory: new MemoryTable(),
    onBusy(busy) {
      sendButton.hidden = busy;
      stopButton.hidden = !busy;
      if (!busy) refreshList();
    },
    onError: showError,
  };
  let chat = new Chat(parts, sessionInAddress() ?? crypto.randomUUID());
  const list = new SessionList(client, {
    open(sessionId) {
      location.hash = `chat=${encodeURIComponent(sessionId)}`;
    },
    remove(sessionId) {
      client.sessions.deleteSession({ sessionId }).then(() => {
        if (sessionId === chat.sessionId) show(crypto.randomUUID());
        else refreshList();
      }, showError);
    },
  });

  function refreshList(): void {
    list.refresh(chat.sessionId).catch(showError);
  }

  function show(sessionId: string): void {
    chat.close();
    chat = new Chat(parts, sessionId);
    history.replaceState(null, "", `#chat=${encodeURIComponent(sessionId)}`);
    showError(undefined);
    showMenu(false);
    parts.onBusy(false);
    chat.open().catch(showError);
    field.focus();
  }

  addEventListener("hashchange", () => {
    const sessionId = sessionInAddress();
    if (sessionId !== undefined && sessionId !== chat.sessionId) show(sessionId);
  });
  element("new-session", HTMLButtonElement).addEventListener("click", () => {
    show(crypto.randomUUID());
  });
  stopButton.addEventListener("click", () => {
    chat.stop();
  });
  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (text === "" || sendButton.hidden) return;
    field.value = "";
    chat.send(text).catch(showError);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    composer.requestSubmit();
  });
  show(chat.sessionId);
}

menuButton.addEventListener("click", () => {
  showMenu(!sidebar.classList.contains("shown"));
});
keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  saveAccessKey(keyField.value.trim());
  location.reload();
});

const key = readAccessKey();
start(createLeanedgeClient({ baseUrl: location.origin, ...(key === undefined ? {} : { key }) }));
