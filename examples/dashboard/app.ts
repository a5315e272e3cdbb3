// The example page: it signs in with a token, starts the stream, shows the account's rows, and marks them when
// they are out of date.

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

/** The project's configuration, from the server of the page. */
interface Config {
  url: string;
  apiKey: string;
  /** The token of the demo's user. */
  token?: string;
  staleMs?: number;
}

/** The number of the sparkline's points. */
const HISTORY_MAX = 120;

const STATUS_LABELS: Record<string, string> = {
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
/** The digits of each symbol's prices, so that their number does not change from row to row. */
const priceDigits = new Map<string, number>();
let chosenAccount: number | undefined;
let state: WatchState | undefined;

/** Returns the user's id from the token. The page does not verify the token, the server does. */
function readUserId(token: string): string {
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
  const userId = readUserId(token);
  const accessToken = () => Promise.resolve(token);
  const supabase = createClient(config.url, config.apiKey, { accessToken });
  configureWebSocketBridge({ ...config, supabase, accessToken });
  const watch = watchCache(userId, (row) => {
    rows.set(row.account_id, row);
    if (row.equity !== null && row.is_connected) {
      const history = histories.get(row.account_id) ?? [];
      histories.set(row.account_id, [...history, row.equity].slice(-HISTORY_MAX));
    }
    render();
  }, {
    onState: (newState) => {
      state = newState;
      render();
    },
  });
  session = { userId, watch };
  page.dataset.view = "account";
  element("#user").textContent = userId;
  render();
}

function signOut(): void {
  void session?.watch.stop();
  session = state = chosenAccount = undefined;
  [rows, histories] = [new Map(), new Map()];
  page.dataset.view = "sign-in";
}

/** Returns the row of the chosen account, or else of the first one that is connected. */
function shownRow(): CacheRow | undefined {
  const all = [...rows.values()].sort((a, b) => a.account_id - b.account_id);
  return rows.get(chosenAccount ?? -1) ?? all.find((row) => row.is_connected) ?? all.at(-1);
}

function money(row: CacheRow, amount: number | null, sign: "auto" | "exceptZero" = "auto"): string {
  if (amount === null) return "–";
  const digits = row.currency === "BTC" ? 8 : 2;
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: sign };
  return `${amount.toLocaleString("en", options)} ${row.currency ?? ""}`.trim();
}

function setSigned(target: Element, amount: number | null, text: string): void {
  target.textContent = text;
  target.classList.toggle("up", amount !== null && amount > 0);
  target.classList.toggle("down", amount !== null && amount < 0);
}

function render(): void {
  const row = shownRow();
  const status = row?.status ?? "none";
  const stale = state?.stale === true && row?.is_connected === true;
  page.dataset.status = status;
  page.toggleAttribute("data-stale", stale);
  page.toggleAttribute("data-old", row !== undefined && (stale || !row.is_connected));
  element("#status").textContent = stale ? "Stale" : STATUS_LABELS[status] ?? status;
  element("#login").textContent = row === undefined
    ? "No account yet"
    : `Account ${row.trader_login ?? row.account_id}`;
  const environment = element("#environment");
  environment.hidden = row === undefined;
  environment.textContent = row?.is_demo ? "Demo" : "Real";
  renderNotice(row, stale);
  renderAccountSwitcher();
  if (row !== undefined) {
    element("#equity").textContent = money(row, row.equity);
    setSigned(
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
    element("#positions").replaceChildren(...row.positions.map((position) => positionItem(row, position)));
    renderSparkline(histories.get(row.account_id) ?? []);
  }
  const running = row !== undefined && status !== "stopped";
  element<HTMLButtonElement>("#start").hidden = running;
  element<HTMLButtonElement>("#stop").hidden = !running;
  renderAge();
}

/** The bridge's messages begin with a lower-case letter and have no full stop. */
function sentence(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}.`;
}

function renderNotice(row: CacheRow | undefined, stale: boolean): void {
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

function renderAccountSwitcher(): void {
  const nav = element("#accounts");
  nav.hidden = rows.size < 2;
  nav.replaceChildren(
    ...[...rows.values()].sort((a, b) => a.account_id - b.account_id).map((row) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = String(row.trader_login ?? row.account_id);
      button.ariaPressed = String(row === shownRow());
      button.onclick = () => {
        chosenAccount = row.account_id;
        render();
      };
      return button;
    }),
  );
}

function positionItem(row: CacheRow, position: CachePosition): HTMLLIElement {
  const line = document.createElement("li");
  const part = (name: string, text: string) => {
    const span = document.createElement("span");
    span.className = name;
    // Text, never HTML: names and comments are written by the user.
    span.textContent = text;
    line.append(span);
    return span;
  };
  const size = position.lots === null ? position.volume : `${position.lots} lots`;
  part("symbol", `${position.symbol ?? position.symbolId}`);
  setSigned(
    part("amount", ""),
    position.netProfit,
    position.netProfit === null ? "–" : money({ ...row, currency: null }, position.netProfit, "exceptZero"),
  );
  part("prices", `${position.side === "BUY" ? "Buy" : "Sell"} ${size}`);
  const prices = [position.entryPrice, position.currentPrice];
  const seen = prices.map((price) => String(price ?? "").split(".")[1]?.length ?? 0);
  const digits = Math.max(...seen, priceDigits.get(position.symbolId) ?? 0);
  priceDigits.set(position.symbolId, digits);
  part("prices", prices.map((price) => price === null ? "–" : price.toFixed(digits)).join(" → "));
  return line;
}

function renderSparkline(history: number[]): void {
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

function renderAge(): void {
  const row = shownRow();
  if (row === undefined) {
    element("#age").textContent = "";
    return;
  }
  const time = new Date(row.updated_at).toLocaleTimeString("en-GB");
  element("#age").textContent = `Last update ${time}, ${
    state?.via === "realtime" ? "over Realtime" : "by asking every two seconds"
  }`;
}

function showError(section: string, error: unknown): void {
  element(`${section} .error`).textContent = error === undefined
    ? ""
    : error instanceof BridgeError
    ? sentence(error.message)
    : "That did not work.";
}

async function runAction(
  button: HTMLButtonElement,
  work: (userId: string) => Promise<unknown>,
): Promise<void> {
  if (session === undefined) return;
  button.disabled = true;
  try {
    await work(session.userId);
    showError("#account", undefined);
  } catch (error) {
    showError("#account", error);
  } finally {
    button.disabled = false;
  }
}

element("#sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    signIn(element<HTMLTextAreaElement>("#token").value.trim());
    showError("#sign-in", undefined);
  } catch {
    element("#sign-in .error").textContent = "This is not a token.";
  }
});
for (const [id, work] of [["#start", startWebSocket], ["#stop", stopWebSocket]] as const) {
  const button = element<HTMLButtonElement>(id);
  button.addEventListener("click", () => void runAction(button, (userId) => work(userId)));
}
element("#sign-out").addEventListener("click", signOut);

// The URL may contain a token, which does not stay in the address bar.
const initialToken = new URLSearchParams(location.hash.slice(1)).get("token") ?? config.token;
if (initialToken !== undefined) element<HTMLTextAreaElement>("#token").value = initialToken;
if (location.hash !== "") history.replaceState(null, "", location.pathname);
