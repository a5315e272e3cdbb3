// The browser's side of the bridge: starts and stops streams through the edge function, and watches the
// user's rows, over Supabase Realtime while that works and by asking while it does not.
//
// It has no dependency: of Supabase's client it uses what `SupabaseLike` says.

/** A position of a row. Ids of 64 bits are strings, times RFC 3339; what is not set is null. */
export interface CachePosition {
  positionId: string;
  symbol: string | null;
  symbolId: string;
  side: "BUY" | "SELL";
  volume: number;
  lots: number | null;
  entryPrice: number | null;
  currentPrice: number | null;
  stopLoss: number | null;
  takeProfit: number | null;
  swap: number | null;
  commission: number | null;
  grossProfit: number | null;
  netProfit: number | null;
  usedMargin: number | null;
  openedAt: string | null;
  label: string | null;
  comment: string | null;
}

/** A pending order of a row. */
export interface CacheOrder {
  orderId: string;
  positionId: string | null;
  symbol: string | null;
  symbolId: string;
  side: "BUY" | "SELL";
  type: string;
  volume: number;
  lots: number | null;
  limitPrice: number | null;
  stopPrice: number | null;
  stopLoss: number | null;
  takeProfit: number | null;
  expiresAt: string | null;
  createdAt: string | null;
  label: string | null;
  comment: string | null;
}

export type CacheStatus = "pending" | "connecting" | "live" | "reconnecting" | "failed" | "stopped";

/** A row of `public.ctrader_cache`: an account as it is now. Amounts are in units of `currency`. */
export interface CacheRow {
  user_key: string;
  /** cTrader's `ctidTraderAccountId`; 0 while the primary account is not known. */
  account_id: number;
  trader_login: number | null;
  is_demo: boolean;
  /** The row follows the live stream, if it is also being written: see `WatchState.stale`. */
  is_connected: boolean;
  status: CacheStatus;
  /** Fit to show. */
  last_error: string | null;
  currency: string | null;
  balance: number | null;
  equity: number | null;
  unrealized_gross: number | null;
  unrealized_net: number | null;
  used_margin: number | null;
  free_margin: number | null;
  bonus: number | null;
  margin_level: number | null;
  position_count: number;
  order_count: number;
  positions: CachePosition[];
  orders: CacheOrder[];
  balance_version: number | null;
  event_at: string | null;
  updated_at: string;
  epoch: number;
  seq: number;
}

export interface Started {
  success: true;
  message: string;
  accountId: string;
  isDemo: boolean;
}

export interface Stopped {
  success: true;
  message: string;
  wasConnected: boolean;
}

export interface WebSocketStatus {
  connected: boolean;
  accountId: string | null;
  lastUpdate: string | null;
  balance: number | null;
  equity: number | null;
  positions: number;
}

export interface Connected {
  success: true;
  message: string;
  accounts: { accountId: string; isDemo: boolean; traderLogin: string | null; isPrimary: boolean }[];
}

export interface Disconnected {
  success: true;
  message: string;
  accounts: number;
}

/** What the edge function refused, and why; `status` is 0 when it could not be reached. */
export class BridgeError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.name = "BridgeError";
    this.status = status;
  }
}

/** What is used of a Supabase client. Its own types are another's with each release, and too deep to match. */
export interface SupabaseLike {
  // deno-lint-ignore no-explicit-any
  from(table: string): any;
  channel(name: string): ChannelLike;
  // deno-lint-ignore no-explicit-any
  removeChannel(channel: any): Promise<unknown>;
}

export interface ChannelLike {
  // deno-lint-ignore no-explicit-any
  on(type: any, filter: any, callback: (payload: any) => void): any;
}

export interface BridgeOptions {
  /** The project: `https://REF.supabase.co`. */
  url: string;
  /** The project's anonymous or publishable key. */
  apiKey: string;
  supabase: SupabaseLike;
  /** The signed-in user's token, now. */
  accessToken: () => Promise<string | null | undefined>;
  /** How often rows are asked for while Realtime does not work; 2000. */
  pollMs?: number;
  /** After how long without a newer row a connected one is stale; 10000. The bridge writes every 2000. */
  staleMs?: number;
  /** For tests. */
  fetch?: typeof fetch;
}

export interface WatchState {
  /** How rows come at the moment. */
  via: "realtime" | "polling";
  /** Rows were expected and did not come: what is shown may be old. */
  stale: boolean;
  /** Why rows could not be read the last time, or null. */
  error: string | null;
}

export interface WatchOptions {
  /** Called with each change of the state. */
  onState?: (state: WatchState) => void;
}

export interface CacheWatch {
  readonly state: WatchState;
  stop(): Promise<void>;
}

export interface WebSocketBridge {
  /** Starts streaming the user's account, the primary one if none is named. */
  startWebSocket(userId: string, accountId?: string): Promise<Started>;
  /** Stops one account, or all. */
  stopWebSocket(userId: string, accountId?: string): Promise<Stopped>;
  getWebSocketStatus(userId: string, accountId?: string): Promise<WebSocketStatus>;
  /** Calls `onRow` with each newer row of the user's until it is stopped. */
  watchCache(userId: string, onRow: (row: CacheRow) => void, options?: WatchOptions): CacheWatch;
  /** Answers the page of cTrader's to send the user to, and remembers which consent that is. */
  beginConnecting(userId: string): Promise<string>;
  /** On the page that cTrader sends the user back to: hands the code on. `address` is that page's. */
  finishConnecting(address?: string): Promise<Connected>;
  /** Stops everything of the user's and forgets their grants. */
  disconnect(userId: string): Promise<Disconnected>;
}

const POLL_MS = 2000;
const STALE_MS = 10_000;
const STATE_KEY = "websocket-bridge.consent";

export function createWebSocketBridge(options: BridgeOptions): WebSocketBridge {
  const call = async (method: "GET" | "POST", path: string, body?: Record<string, unknown>) => {
    const token = await options.accessToken();
    if (!token) throw new BridgeError(401, "sign in first");
    let response: Response;
    try {
      response = await (options.fetch ?? fetch)(
        `${options.url.replace(/\/+$/, "")}/functions/v1/bridge${path}`,
        {
          method,
          headers: {
            authorization: `Bearer ${token}`,
            apikey: options.apiKey,
            ...(body === undefined ? {} : { "content-type": "application/json" }),
          },
          body: body === undefined ? undefined : JSON.stringify(body),
        },
      );
    } catch {
      throw new BridgeError(0, "the bridge cannot be reached");
    }
    const answer = await response.json().catch(() => undefined);
    if (response.ok && answer !== undefined) return answer;
    throw new BridgeError(response.status, answer?.error ?? `the bridge answered ${response.status}`);
  };
  const query = (values: Record<string, string | undefined>) => {
    const given = Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined);
    return given.length === 0 ? "" : `?${new URLSearchParams(given)}`;
  };
  return {
    startWebSocket: (userId, accountId) => call("POST", "/api/start-websocket", { userId, accountId }),
    stopWebSocket: (userId, accountId) => call("POST", "/api/stop-websocket", { userId, accountId }),
    getWebSocketStatus: (userId, accountId) =>
      call("GET", `/api/websocket-status/${encodeURIComponent(userId)}${query({ accountId })}`),
    watchCache: (userId, onRow, watchOptions) => new Watch(options, userId, onRow, watchOptions?.onState),
    beginConnecting: async (userId) => {
      const { url, state } = await call("GET", `/api/ctrader/connect${query({ userId })}`);
      sessionStorage.setItem(STATE_KEY, state);
      return url;
    },
    finishConnecting: async (address) => {
      const given = new URL(address ?? location.href).searchParams;
      // cTrader does not always give the state back. One that was not begun in this tab is none.
      const state = given.get("state") ?? sessionStorage.getItem(STATE_KEY) ?? undefined;
      sessionStorage.removeItem(STATE_KEY);
      if (given.has("error")) throw new BridgeError(400, "the consent was not given");
      return await call(
        "GET",
        `/api/ctrader/callback${query({ code: given.get("code") ?? undefined, state })}`,
      );
    },
    disconnect: (userId) => call("POST", "/api/ctrader/disconnect", { userId }),
  };
}

/** What public tables carry instead of a user's id. */
export async function userKey(userId: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(userId));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What Realtime says of a change. */
interface Change {
  eventType: "INSERT" | "UPDATE" | "DELETE";
  new: Partial<CacheRow>;
  errors: unknown;
}

class Watch implements CacheWatch {
  state: WatchState = { via: "polling", stale: false, error: null };
  readonly #options: BridgeOptions;
  readonly #onRow: (row: CacheRow) => void;
  readonly #onState: ((state: WatchState) => void) | undefined;
  readonly #rows = new Map<number, CacheRow>();
  readonly #pollMs: number;
  readonly #staleMs: number;
  #key = "";
  #channel: ChannelLike | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;
  #reading = false;
  #stopped = false;
  /** By this page's own clock, when the newest row was written; clocks of others may differ. */
  #freshAt = performance.now();
  #readAt = -Infinity;

  constructor(
    options: BridgeOptions,
    userId: string,
    onRow: (row: CacheRow) => void,
    onState: ((state: WatchState) => void) | undefined,
  ) {
    this.#options = options;
    this.#onRow = onRow;
    this.#onState = onState;
    this.#pollMs = options.pollMs ?? POLL_MS;
    this.#staleMs = options.staleMs ?? STALE_MS;
    void this.#begin(userId);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#timer);
    if (this.#channel !== undefined) await this.#options.supabase.removeChannel(this.#channel);
  }

  async #begin(userId: string): Promise<void> {
    this.#key = await userKey(userId);
    if (this.#stopped) return;
    this.#timer = setInterval(() => this.#tick(), Math.min(this.#pollMs, 1000));
    const filter = `user_key=eq.${this.#key}`;
    this.#channel = this.#options.supabase.channel(`ctrader_cache ${this.#key} ${crypto.randomUUID()}`);
    this.#channel.on(
      "postgres_changes",
      { event: "*", schema: "public", table: "ctrader_cache", filter },
      (change: Change) => this.#changed(change),
    ).subscribe((status: string) => {
      if (this.#stopped) return;
      // Changes between the last one that was seen and now are in what is read then.
      if (status === "SUBSCRIBED") void this.#read();
      this.#say({ via: status === "SUBSCRIBED" ? "realtime" : "polling" });
    });
    await this.#read();
  }

  #tick(): void {
    const now = performance.now();
    // Realtime can go quiet without saying so.
    const wait = this.state.via === "polling" ? this.#pollMs : this.#staleMs / 2;
    const quiet = now - Math.max(this.#readAt, this.state.via === "realtime" ? this.#freshAt : -Infinity);
    if (quiet >= wait) void this.#read();
    this.#say({ stale: this.#stale(now) });
  }

  #stale(now: number): boolean {
    const expected = [...this.#rows.values()].some((row) => row.is_connected);
    return expected && now - this.#freshAt > this.#staleMs;
  }

  async #read(): Promise<void> {
    if (this.#reading || this.#stopped) return;
    this.#reading = true;
    this.#readAt = performance.now();
    try {
      const { data, error }: { data: CacheRow[] | null; error: { message: string } | null } = await this
        .#options.supabase.from("ctrader_cache").select("*").eq("user_key", this.#key);
      if (error !== null) throw new Error(error.message);
      for (const row of data ?? []) this.#take(row);
      this.#say({ error: null });
    } catch (error) {
      this.#say({ error: error instanceof Error ? error.message : String(error) });
    } finally {
      this.#reading = false;
    }
  }

  #changed(change: Change): void {
    const { account_id } = change.new;
    const known = account_id === undefined ? undefined : this.#rows.get(account_id);
    // A row that is too large comes without its large columns, and so does a large column that did not
    // change: what is known of it still holds then.
    if (change.errors || (change.eventType !== "DELETE" && known === undefined)) void this.#read();
    if (change.eventType === "DELETE" || change.errors || known === undefined) return;
    const given = Object.entries(change.new).filter(([, value]) => value !== undefined);
    this.#take({ ...known, ...Object.fromEntries(given) });
  }

  /** Rows may come twice and out of order: a later one is never followed by an earlier. */
  #take(row: CacheRow): void {
    if (this.#stopped) return;
    const known = this.#rows.get(row.account_id);
    if (known && (row.epoch < known.epoch || (row.epoch === known.epoch && row.seq <= known.seq))) return;
    this.#rows.set(row.account_id, row);
    const now = performance.now();
    // Of the first row it is not known when it came; from then on this page's clock alone counts.
    const age = known === undefined ? Math.max(0, Date.now() - Date.parse(row.updated_at)) : 0;
    this.#freshAt = known === undefined && this.#rows.size === 1
      ? now - age
      : Math.max(this.#freshAt, now - age);
    this.#onRow(row);
    this.#say({ stale: this.#stale(now) });
  }

  #say(news: Partial<WatchState>): void {
    const state = { ...this.state, ...news };
    const { via, stale, error } = this.state;
    if (this.#stopped || (via === state.via && stale === state.stale && error === state.error)) return;
    this.state = state;
    this.#onState?.(state);
  }
}

let configured: WebSocketBridge | undefined;

/** For apps with one project: afterwards the functions below work. */
export function configureWebSocketBridge(options: BridgeOptions): WebSocketBridge {
  return configured = createWebSocketBridge(options);
}

function bridge(): WebSocketBridge {
  if (configured === undefined) throw new BridgeError(0, "configureWebSocketBridge comes first");
  return configured;
}

export const startWebSocket: WebSocketBridge["startWebSocket"] = (...of) => bridge().startWebSocket(...of);
export const stopWebSocket: WebSocketBridge["stopWebSocket"] = (...of) => bridge().stopWebSocket(...of);
export const getWebSocketStatus: WebSocketBridge["getWebSocketStatus"] = (...of) =>
  bridge().getWebSocketStatus(...of);
export const watchCache: WebSocketBridge["watchCache"] = (...of) => bridge().watchCache(...of);
