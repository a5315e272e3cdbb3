// The example page: signs in with a token, starts the stream, shows what comes, and says when it is old.

import { createClient } from "@supabase/supabase-js";
import {
  BridgeError,
  type CachePosition,
  type CacheRow,
  type CacheWatch,
  configureWebSocketBridge,
  startWebSocket,
  stopWebSocket,
  watchCache,
  type WatchState,
} from "../../packages/websocket-bridge/src/websocket-bridge.ts";

/** What the server that has the page says of its project. */
interface Config {
  url: string;
  apiKey: string;
  /** Of a demo's user. */
  token?: string;
  staleMs?: number;
}

/** Points of the sparkline. */
const HISTORY_MAX = 120;

const WORDS: Record<string, string> = {
  none: "Not started",
  pending: "Waiting",
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  failed: "Failed",
  stopped: "Stopped",
};

function element<T extends Element = HTMLElement>(selector: string): T {
  const found = document.querySelector<T>(selector);
  if (found === null) throw new Error(`the page has no ${selector}`);
  return found;
}

const page = document.body;
const config: Config = await (await fetch("config.json")).json();
let session: { userId: string; watch: CacheWatch } | undefined;
let rows = new Map<number, CacheRow>();
let histories = new Map<number, number[]>();
/** Digits of each symbol's prices, so that they do not jump. */
const digitsSeen = new Map<string, number>();
let chosen: number | undefined;
let state: WatchState | undefined;

/** The user as the bridge knows them. The page believes the token; the server verifies it. */
function userOf(token: string): string {
  const claims = token.split(".")[1] ?? "";
  const bytes = Uint8Array.from(
    atob(claims.replaceAll("-", "+").replaceAll("_", "/")),
    (char) => char.charCodeAt(0),
  );
  const { email, sub } = JSON.parse(new TextDecoder().decode(bytes));
  const userId = email || sub;
  if (typeof userId !== "string") throw new Error("no user");
  return userId;
}

function signIn(token: string): void {
  const userId = userOf(token);
  const accessToken = () => Promise.resolve(token);
  const supabase = createClient(config.url, config.apiKey, { accessToken });
  configureWebSocketBridge({ ...config, supabase, accessToken });
  const watch = watchCache(userId, (row) => {
    rows.set(row.account_id, row);
    if (row.equity !== null && row.is_connected) {
      const history = histories.get(row.account_id) ?? [];
      histories.set(row.account_id, [...history, row.equity].slice(-HISTORY_MAX));
    }
    draw();
  }, {
    onState: (news) => {
      state = news;
      draw();
    },
  });
  session = { userId, watch };
  page.dataset.view = "account";
  element("#user").textContent = userId;
  draw();
}

function signOut(): void {
  void session?.watch.stop();
  session = state = chosen = undefined;
  [rows, histories] = [new Map(), new Map()];
  page.dataset.view = "sign-in";
}

/** The account that is shown: the chosen one, or the one that runs. */
function shown(): CacheRow | undefined {
  const all = [...rows.values()].sort((a, b) => a.account_id - b.account_id);
  return rows.get(chosen ?? -1) ?? all.find((row) => row.is_connected) ?? all.at(-1);
}

function money(row: CacheRow, amount: number | null, sign: "auto" | "exceptZero" = "auto"): string {
  if (amount === null) return "–";
  const digits = row.currency === "BTC" ? 8 : 2;
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: sign };
  return `${amount.toLocaleString("en", options)} ${row.currency ?? ""}`.trim();
}

function signed(target: Element, amount: number | null, text: string): void {
  target.textContent = text;
  target.classList.toggle("up", amount !== null && amount > 0);
  target.classList.toggle("down", amount !== null && amount < 0);
}

function draw(): void {
  const row = shown();
  const status = row?.status ?? "none";
  const stale = state?.stale === true && row?.is_connected === true;
  page.dataset.status = status;
  page.toggleAttribute("data-stale", stale);
  page.toggleAttribute("data-old", row !== undefined && (stale || !row.is_connected));
  element("#status").textContent = stale ? "Stale" : WORDS[status] ?? status;
  element("#login").textContent = row === undefined
    ? "No account yet"
    : `Account ${row.trader_login ?? row.account_id}`;
  const environment = element("#environment");
  environment.hidden = row === undefined;
  environment.textContent = row?.is_demo ? "Demo" : "Real";
  notice(row, stale);
  chips();
  if (row !== undefined) {
    element("#equity").textContent = money(row, row.equity);
    signed(
      element("#net"),
      row.unrealized_net,
      row.unrealized_net === null ? "" : `${money(row, row.unrealized_net, "exceptZero")} open`,
    );
    element("#balance").textContent = money(row, row.balance);
    element("#free-margin").textContent = money(row, row.free_margin);
    element("#used-margin").textContent = money(row, row.used_margin);
    element("#margin-level").textContent = row.margin_level === null
      ? "–"
      : `${
        row.margin_level.toLocaleString("en", {
          minimumFractionDigits: 1,
          maximumFractionDigits: 1,
        })
      } %`;
    element("#count").textContent = row.position_count > 0 ? `(${row.position_count})` : "";
    element("#positions").replaceChildren(...row.positions.map((position) => item(row, position)));
    sparkline(histories.get(row.account_id) ?? []);
  }
  const running = row !== undefined && status !== "stopped";
  element<HTMLButtonElement>("#start").hidden = running;
  element<HTMLButtonElement>("#stop").hidden = !running;
  age();
}

/** What the bridge says begins small and ends without a stop. */
function sentence(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}.`;
}

function notice(row: CacheRow | undefined, stale: boolean): void {
  const target = element("#notice");
  const text = state?.error
    ? `The figures can't be read at the moment: ${state.error}`
    : stale
    ? "These figures are old: nothing has come for a while."
    : row?.status === "reconnecting"
    ? `${sentence(row.last_error ?? "the connection to cTrader is down")} These are the last figures.`
    : row?.status === "failed"
    ? sentence(row.last_error ?? "the stream has failed")
    : "";
  target.textContent = text;
  target.hidden = text === "";
}

function chips(): void {
  const nav = element("#accounts");
  nav.hidden = rows.size < 2;
  nav.replaceChildren(
    ...[...rows.values()].sort((a, b) => a.account_id - b.account_id).map((row) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = String(row.trader_login ?? row.account_id);
      button.ariaPressed = String(row === shown());
      button.onclick = () => {
        chosen = row.account_id;
        draw();
      };
      return button;
    }),
  );
}

function item(row: CacheRow, position: CachePosition): HTMLLIElement {
  const line = document.createElement("li");
  const part = (name: string, text: string) => {
    const span = document.createElement("span");
    span.className = name;
    // Text, never HTML: names and comments are the user's.
    span.textContent = text;
    line.append(span);
    return span;
  };
  const size = position.lots === null ? position.volume : `${position.lots} lots`;
  part("symbol", `${position.symbol ?? position.symbolId}`);
  signed(
    part("amount", ""),
    position.netProfit,
    position.netProfit === null ? "–" : money({ ...row, currency: null }, position.netProfit, "exceptZero"),
  );
  part("prices", `${position.side === "BUY" ? "Buy" : "Sell"} ${size}`);
  const prices = [position.entryPrice, position.currentPrice];
  const seen = prices.map((price) => String(price ?? "").split(".")[1]?.length ?? 0);
  const digits = Math.max(...seen, digitsSeen.get(position.symbolId) ?? 0);
  digitsSeen.set(position.symbolId, digits);
  part("prices", prices.map((price) => price === null ? "–" : price.toFixed(digits)).join(" → "));
  return line;
}

function sparkline(history: number[]): void {
  const [width, height, edge] = [320, 84, 4];
  const [low, high] = [Math.min(...history), Math.max(...history)];
  const points = history.map((value, at) => {
    const x = history.length === 1 ? width : at / (history.length - 1) * width;
    const y = high === low ? height / 2 : edge + (high - value) / (high - low) * (height - 2 * edge);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  const line = points.length < 2 ? "" : `M${points.join("L")}`;
  element("#sparkline .line").setAttribute("d", line);
  element("#sparkline .area").setAttribute("d", line && `${line}V${height}H0Z`);
}

function age(): void {
  const row = shown();
  if (row === undefined) {
    element("#age").textContent = "";
    return;
  }
  const time = new Date(row.updated_at).toLocaleTimeString("en-GB");
  element("#age").textContent = `Last update ${time}, ${
    state?.via === "realtime" ? "over Realtime" : "by asking every two seconds"
  }`;
}

function say(where: string, error: unknown): void {
  element(`${where} .error`).textContent = error === undefined
    ? ""
    : error instanceof BridgeError
    ? sentence(error.message)
    : "That did not work.";
}

async function act(button: HTMLButtonElement, work: (userId: string) => Promise<unknown>): Promise<void> {
  if (session === undefined) return;
  button.disabled = true;
  try {
    await work(session.userId);
    say("#account", undefined);
  } catch (error) {
    say("#account", error);
  } finally {
    button.disabled = false;
  }
}

element("#sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    signIn(element<HTMLTextAreaElement>("#token").value.trim());
    say("#sign-in", undefined);
  } catch {
    element("#sign-in .error").textContent = "This is not a token.";
  }
});
for (const [id, work] of [["#start", startWebSocket], ["#stop", stopWebSocket]] as const) {
  const button = element<HTMLButtonElement>(id);
  button.addEventListener("click", () => void act(button, (userId) => work(userId)));
}
element("#sign-out").addEventListener("click", signOut);

// A token may come with the address; it does not stay in the address bar.
const given = new URLSearchParams(location.hash.slice(1)).get("token") ?? config.token;
if (given !== undefined) element<HTMLTextAreaElement>("#token").value = given;
if (location.hash !== "") history.replaceState(null, "", location.pathname);
