// The browser's side of the bridge: it starts and stops streams through the edge function, and watches the
// user's rows. Rows come over Supabase Realtime; while there is no Realtime subscription, they are polled.
//
// The module has no dependency: `SupabaseLike` is the part of Supabase's client that it uses.

import type {
  CacheRow,
  Connected,
  ConsentBegun,
  Disconnected,
  DisconnectRequest,
  Failed,
  Started,
  Stopped,
  StreamRequest,
  WebSocketStatus,
} from "./api.ts";

export type * from "./api.ts";

/** The function refused the request, or could not be reached: then `status` is 0. */
export class BridgeError extends Error {
  /** The HTTP status. */
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.name = "BridgeError";
    this.status = status;
  }
}

/**
 * The part of a Supabase client that this module uses. The client's own types change with each release, and
 * are too deep to match structurally.
 */
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
  /** The project's URL: `https://REF.supabase.co`. */
  url: string;
  /** The project's anonymous or publishable key. */
  apiKey: string;
  supabase: SupabaseLike;
  /** Returns the signed-in user's current token. */
  accessToken: () => Promise<string | null | undefined>;
  /** Milliseconds between two polls while there is no Realtime subscription; 2000. */
  pollMs?: number;
  /** Milliseconds without a newer row until a connected row is stale; 10000. The bridge writes every 2000. */
  staleMs?: number;
  /** A replacement of `fetch`, for tests. */
  fetch?: typeof fetch;
}

export interface WatchState {
  /** How rows come at the moment. */
  via: "realtime" | "polling";
  /** Rows were expected and did not come: what is shown may be out of date. */
  stale: boolean;
  /** Why the last attempt to read rows failed, or null if it succeeded. */
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

/** Every method that returns a promise rejects with a `BridgeError`. */
export interface WebSocketBridge {
  /** Starts the stream of the named account, or of the user's primary one. */
  startWebSocket(userId: string, accountId?: string): Promise<Started>;
  /** Stops the stream of the named account, or of every account of the user. */
  stopWebSocket(userId: string, accountId?: string): Promise<Stopped>;
  /** Reads the state of the named account, or of the user's primary one, once. */
  getWebSocketStatus(userId: string, accountId?: string): Promise<WebSocketStatus>;
  /** Calls `onRow` with each newer row of the user until it is stopped. */
  watchCache(userId: string, onRow: (row: CacheRow) => void, options?: WatchOptions): CacheWatch;
  /** Returns the URL of cTrader's consent page for this user, and keeps the consent's state in this tab. */
  beginConnecting(userId: string): Promise<string>;
  /**
   * Stores the accounts that the user gave access to. To be called on the page that cTrader redirects to;
   * `address` is that page's URL, by default the current one.
   */
  finishConnecting(address?: string): Promise<Connected>;
  /** Stops every stream of the user and deletes their grants. */
  disconnect(userId: string): Promise<Disconnected>;
}

const POLL_MS = 2000;
const STALE_MS = 10_000;
const CONSENT_STATE_KEY = "websocket-bridge.consent";

export function createWebSocketBridge(options: BridgeOptions): WebSocketBridge {
  async function call<Body>(
    method: "GET" | "POST",
    path: string,
    request?: StreamRequest | DisconnectRequest,
  ): Promise<Body> {
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
            ...(request === undefined ? {} : { "content-type": "application/json" }),
          },
          body: request === undefined ? undefined : JSON.stringify(request),
        },
      );
    } catch {
      throw new BridgeError(0, "the bridge cannot be reached");
    }
    const body: Body | Partial<Failed> | undefined = await response.json().catch(() => undefined);
    if (response.ok && body !== undefined) return body as Body;
    const { error } = (body ?? {}) as Partial<Failed>;
    throw new BridgeError(response.status, error ?? `the bridge answered ${response.status}`);
  }
  const queryString = (values: Record<string, string | undefined>) => {
    const given = Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined);
    return given.length === 0 ? "" : `?${new URLSearchParams(given)}`;
  };
  return {
    startWebSocket: (userId, accountId) => call("POST", "/api/start-websocket", { userId, accountId }),
    stopWebSocket: (userId, accountId) => call("POST", "/api/stop-websocket", { userId, accountId }),
    getWebSocketStatus: (userId, accountId) =>
      call("GET", `/api/websocket-status/${encodeURIComponent(userId)}${queryString({ accountId })}`),
    watchCache: (userId, onRow, watchOptions) =>
      new CacheWatcher(options, userId, onRow, watchOptions?.onState),
    beginConnecting: async (userId) => {
      const { url, state } = await call<ConsentBegun>(
        "GET",
        `/api/ctrader/connect${queryString({ userId })}`,
      );
      sessionStorage.setItem(CONSENT_STATE_KEY, state);
      return url;
    },
    finishConnecting: async (address) => {
      const parameters = new URL(address ?? location.href).searchParams;
      // cTrader does not always return the state. Then only a consent that this tab began can be finished.
      const state = parameters.get("state") ?? sessionStorage.getItem(CONSENT_STATE_KEY) ?? undefined;
      sessionStorage.removeItem(CONSENT_STATE_KEY);
      if (parameters.has("error")) throw new BridgeError(400, "the consent was not given");
      return await call(
        "GET",
        `/api/ctrader/callback${queryString({ code: parameters.get("code") ?? undefined, state })}`,
      );
    },
    disconnect: (userId) => call("POST", "/api/ctrader/disconnect", { userId }),
  };
}

/** Returns what public tables have in place of a user's id: its lower-case hex SHA-256. */
export async function userKey(userId: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(userId));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A change of a row, as Realtime sends it. */
interface RealtimeChange {
  eventType: "INSERT" | "UPDATE" | "DELETE";
  new: Partial<CacheRow>;
  errors: unknown;
}

class CacheWatcher implements CacheWatch {
  state: WatchState = { via: "polling", stale: false, error: null };
  readonly #options: BridgeOptions;
  readonly #onRow: (row: CacheRow) => void;
  readonly #onState: ((state: WatchState) => void) | undefined;
  /** The newest row of each account. */
  readonly #rows = new Map<number, CacheRow>();
  readonly #pollMs: number;
  readonly #staleMs: number;
  #userKey = "";
  #channel: ChannelLike | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;
  #reading = false;
  #stopped = false;
  /** When the newest row was written, by this page's clock: other clocks may differ. */
  #newestRowAt = performance.now();
  #lastReadAt = -Infinity;

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
    void this.#start(userId);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#timer);
    if (this.#channel !== undefined) await this.#options.supabase.removeChannel(this.#channel);
  }

  async #start(userId: string): Promise<void> {
    this.#userKey = await userKey(userId);
    if (this.#stopped) return;
    this.#timer = setInterval(() => this.#handleTimer(), Math.min(this.#pollMs, 1000));
    const filter = `user_key=eq.${this.#userKey}`;
    this.#channel = this.#options.supabase.channel(`ctrader_cache ${this.#userKey} ${crypto.randomUUID()}`);
    this.#channel.on(
      "postgres_changes",
      { event: "*", schema: "public", table: "ctrader_cache", filter },
      (change: RealtimeChange) => this.#handleChange(change),
    ).subscribe((status: string) => {
      if (this.#stopped) return;
      // Reading now also catches the changes since the last one that was received.
      if (status === "SUBSCRIBED") void this.#readRows();
      this.#updateState({ via: status === "SUBSCRIBED" ? "realtime" : "polling" });
    });
    await this.#readRows();
  }

  #handleTimer(): void {
    const now = performance.now();
    // A subscription can stop delivering without an error, so quiet ones are read from time to time.
    const interval = this.state.via === "polling" ? this.#pollMs : this.#staleMs / 2;
    const lastRowAt = this.state.via === "realtime" ? this.#newestRowAt : -Infinity;
    if (now - Math.max(this.#lastReadAt, lastRowAt) >= interval) void this.#readRows();
    this.#updateState({ stale: this.#isStale(now) });
  }

  #isStale(now: number): boolean {
    const rowsExpected = [...this.#rows.values()].some((row) => row.is_connected);
    return rowsExpected && now - this.#newestRowAt > this.#staleMs;
  }

  async #readRows(): Promise<void> {
    if (this.#reading || this.#stopped) return;
    this.#reading = true;
    this.#lastReadAt = performance.now();
    try {
      const { data, error }: { data: CacheRow[] | null; error: { message: string } | null } = await this
        .#options.supabase.from("ctrader_cache").select("*").eq("user_key", this.#userKey);
      if (error !== null) throw new Error(error.message);
      for (const row of data ?? []) this.#handleRow(row);
      this.#updateState({ error: null });
    } catch (error) {
      this.#updateState({ error: error instanceof Error ? error.message : String(error) });
    } finally {
      this.#reading = false;
    }
  }

  #handleChange(change: RealtimeChange): void {
    const { account_id } = change.new;
    const previous = account_id === undefined ? undefined : this.#rows.get(account_id);
    // Realtime leaves out the large columns of a row that is too large, and large columns that did not
    // change. Their previous values still hold then.
    if (change.errors || (change.eventType !== "DELETE" && previous === undefined)) void this.#readRows();
    if (change.eventType === "DELETE" || change.errors || previous === undefined) return;
    const given = Object.entries(change.new).filter(([, value]) => value !== undefined);
    this.#handleRow({ ...previous, ...Object.fromEntries(given) });
  }

  /** Passes a row on. Rows may come twice and out of order: one that is not newer is dropped. */
  #handleRow(row: CacheRow): void {
    if (this.#stopped) return;
    const previous = this.#rows.get(row.account_id);
    const isNewer = previous === undefined || row.epoch > previous.epoch ||
      (row.epoch === previous.epoch && row.seq > previous.seq);
    if (!isNewer) return;
    this.#rows.set(row.account_id, row);
    const now = performance.now();
    // The age of an account's first row is taken from its timestamp, later ones were written just now.
    const ageMs = previous === undefined ? Math.max(0, Date.now() - Date.parse(row.updated_at)) : 0;
    const isFirstRow = previous === undefined && this.#rows.size === 1;
    this.#newestRowAt = isFirstRow ? now - ageMs : Math.max(this.#newestRowAt, now - ageMs);
    this.#onRow(row);
    this.#updateState({ stale: this.#isStale(now) });
  }

  #updateState(changes: Partial<WatchState>): void {
    const state = { ...this.state, ...changes };
    const { via, stale, error } = this.state;
    if (this.#stopped || (via === state.via && stale === state.stale && error === state.error)) return;
    this.state = state;
    this.#onState?.(state);
  }
}

let configured: WebSocketBridge | undefined;

/** For apps with one project: configures the functions below. */
export function configureWebSocketBridge(options: BridgeOptions): WebSocketBridge {
  return configured = createWebSocketBridge(options);
}

function bridge(): WebSocketBridge {
  if (configured === undefined) throw new BridgeError(0, "configureWebSocketBridge comes first");
  return configured;
}

export const startWebSocket: WebSocketBridge["startWebSocket"] = (...args) =>
  bridge().startWebSocket(...args);
export const stopWebSocket: WebSocketBridge["stopWebSocket"] = (...args) => bridge().stopWebSocket(...args);
export const getWebSocketStatus: WebSocketBridge["getWebSocketStatus"] = (...args) =>
  bridge().getWebSocketStatus(...args);
export const watchCache: WebSocketBridge["watchCache"] = (...args) => bridge().watchCache(...args);
