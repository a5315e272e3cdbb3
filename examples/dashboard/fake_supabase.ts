// A fake of Supabase for the demo and the tests: it serves the function, reads of the cache, Realtime, and the
// page. Queries run as `authenticated` with the token's claims, like Supabase's, so that row-level security
// applies. Realtime gets its changes by logical replication of the real publication.
//
// Tokens are signed with one secret. What the page does not use of Supabase is missing.

import { jwtVerify } from "jose";
import postgres from "postgres";

type Sql = postgres.Sql<Record<string, unknown>>;
type Claims = Record<string, unknown>;

export interface FakeSupabaseOptions {
  /** For the owner of the tables, or another role that may replicate and switch to `authenticated`. */
  databaseUrl: string;
  jwtSecret: string;
  apiKey: string;
  /** The token that the page's sign-in form is filled with. */
  token?: string;
  /** The edge function. */
  bridge: (request: Request) => Promise<Response>;
  port?: number;
  staleMs?: number;
  /** Whether to serve the page, too; true. Bundling its script needs Deno 2.4 or later. */
  page?: boolean;
}

export interface FakeSupabase {
  origin: string;
  /** Undefined if the server does not have `wal_level = logical`. */
  realtime: Realtime | undefined;
  close: () => Promise<void>;
}

const HERE = new URL("./", import.meta.url);
const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
};

export async function startFakeSupabase(options: FakeSupabaseOptions): Promise<FakeSupabase> {
  const sql: Sql = postgres(options.databaseUrl, { max: 4, onnotice: () => {}, fetch_types: false });
  const secret = new TextEncoder().encode(options.jwtSecret);
  const verify = async (token: string): Promise<Claims> =>
    (await jwtVerify(token, secret, { algorithms: ["HS256"] })).payload;
  const [files, realtime] = await Promise.all([
    options.page === false ? new Map<string, string>() : readPageFiles(),
    Realtime.open(options.databaseUrl, sql, verify).catch(() => undefined),
  ]);

  async function handle(request: Request): Promise<Response> {
    const url = new URL(request.url);
    if (url.pathname.startsWith("/functions/v1/bridge/")) return await options.bridge(request);
    if (url.pathname === "/realtime/v1/websocket") {
      return realtime?.upgrade(request) ?? new Response("no logical replication", { status: 503 });
    }
    if (url.pathname === "/rest/v1/ctrader_cache") return await rows(request, url);
    if (url.pathname === "/config.json") {
      const { apiKey, token, staleMs } = options;
      return Response.json({ url: url.origin, apiKey, token, staleMs });
    }
    const name = url.pathname === "/" ? "index.html" : url.pathname.slice(1);
    const body = files.get(name);
    if (request.method !== "GET" || body === undefined) return new Response("not found", { status: 404 });
    return new Response(body, {
      headers: {
        "content-type": TYPES[name.slice(name.lastIndexOf("."))] ?? "application/octet-stream",
        "cache-control": "no-store",
        // The page loads nothing from other origins.
        "content-security-policy":
          "default-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
      },
    });
  }

  /** Answers the query that PostgREST would: `?select=*&user_key=eq.…`. */
  async function rows(request: Request, url: URL): Promise<Response> {
    let claims: Claims;
    try {
      claims = await verify(request.headers.get("authorization")?.replace(/^Bearer /i, "") ?? "");
    } catch {
      return Response.json({ message: "JWT invalid" }, { status: 401 });
    }
    const key = /^eq\.([0-9a-f]{64})$/.exec(url.searchParams.get("user_key") ?? "")?.[1] ?? null;
    try {
      const found = await asUser(sql, claims, (tx) =>
        tx`select to_jsonb(c) as row from public.ctrader_cache c
          where ${key}::text is null or user_key = ${key}`);
      return Response.json(found.map(({ row }) => row));
    } catch (error) {
      const { code } = error as { code?: string };
      return Response.json({ message: "permission denied" }, { status: code === "42501" ? 403 : 500 });
    }
  }

  const listening = { hostname: "127.0.0.1", port: options.port ?? 0, onListen: () => {} };
  const server = Deno.serve(listening, handle);
  return {
    origin: `http://127.0.0.1:${server.addr.port}`,
    realtime,
    close: async () => {
      await realtime?.close();
      await server.shutdown();
      await sql.end({ timeout: 1 });
    },
  };
}

/** Runs a query with the rights of a token's claims. */
async function asUser<T>(
  sql: Sql,
  claims: Claims,
  query: (tx: postgres.TransactionSql<Record<string, unknown>>) => Promise<T>,
): Promise<T> {
  return await sql.begin("read only", async (tx) => {
    const role = claims.role === "authenticated" ? "authenticated" : "anon";
    await tx`select set_config('role', ${role}, true),
      set_config('request.jwt.claims', ${JSON.stringify(claims)}, true)`;
    return await query(tx);
  }) as T;
}

/** Reads the page's files, and bundles its script for a browser. */
async function readPageFiles(): Promise<Map<string, string>> {
  const files = new Map<string, string>();
  for (const name of ["index.html", "style.css"]) {
    files.set(name, await Deno.readTextFile(new URL(name, HERE)));
  }
  const bundled = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", "app.ts"],
    cwd: HERE,
  }).output();
  if (!bundled.success) throw new Error(new TextDecoder().decode(bundled.stderr));
  files.set("app.js", new TextDecoder().decode(bundled.stdout));
  return files;
}

/** A channel that a client has joined. */
interface Subscription {
  socket: WebSocket;
  joinRef: string;
  topic: string;
  filter: string;
  claims: Claims;
}

const COLUMN_TYPES = `select attname as name, format_type(atttypid, null) as type from pg_attribute
  where attrelid = 'public.ctrader_cache'::regclass and attnum > 0 and not attisdropped order by attnum`;

/** Realtime's `postgres_changes` for the cache, in the protocol of Supabase's client. */
export class Realtime {
  readonly #sql: Sql;
  readonly #verify: (token: string) => Promise<Claims>;
  readonly #columns: unknown[];
  readonly #subscriptions = new Set<Subscription>();
  readonly #sockets = new Set<WebSocket>();
  #close: () => Promise<void> = () => Promise.resolve();
  #down = false;

  private constructor(sql: Sql, verify: (token: string) => Promise<Claims>, columns: unknown[]) {
    [this.#sql, this.#verify, this.#columns] = [sql, verify, columns];
  }

  static async open(
    databaseUrl: string,
    sql: Sql,
    verify: (token: string) => Promise<Claims>,
  ): Promise<Realtime> {
    const [{ level } = { level: "" }] = await sql`select current_setting('wal_level') as level`;
    if (level !== "logical") throw new Error("wal_level is not logical");
    const realtime = new Realtime(sql, verify, await sql.unsafe(COLUMN_TYPES));
    const replica = postgres(databaseUrl, {
      max: 1,
      publications: "supabase_realtime",
      onnotice: () => {},
      fetch_types: false,
    });
    const changes = await replica.subscribe("*:public.ctrader_cache", (row, { command }) => {
      if (row !== null) void realtime.#publishChange(command.toUpperCase(), row);
    });
    realtime.#close = async () => {
      changes.unsubscribe();
      await replica.end({ timeout: 1 });
    };
    return realtime;
  }

  upgrade(request: Request): Response {
    if (this.#down) return new Response("down", { status: 503 });
    const { socket, response } = Deno.upgradeWebSocket(request);
    this.#sockets.add(socket);
    socket.onmessage = ({ data }) => void this.#handleMessage(socket, String(data));
    socket.onclose = () => {
      this.#sockets.delete(socket);
      for (const subscription of this.#subscriptions) {
        if (subscription.socket === socket) this.#subscriptions.delete(subscription);
      }
    };
    return response;
  }

  /** The number of joined channels. */
  get channelCount(): number {
    return this.#subscriptions.size;
  }

  /** Takes Realtime down: it closes all connections and refuses new ones, until it is brought up again. */
  setDown(down: boolean): void {
    this.#down = down;
    if (down) { for (const socket of this.#sockets) socket.close(); }
  }

  async close(): Promise<void> {
    this.setDown(true);
    await this.#close();
  }

  async #handleMessage(socket: WebSocket, text: string): Promise<void> {
    const [joinRef, ref, topic, event, payload] = JSON.parse(text);
    const reply = (status: "ok" | "error", response: unknown) =>
      send(socket, [joinRef, ref, topic, "phx_reply", { status, response }]);
    if (event === "phx_join") {
      try {
        const claims = await this.#verify(payload.access_token);
        const wanted = payload.config.postgres_changes;
        reply("ok", { postgres_changes: wanted.map((one: object, id: number) => ({ id: id + 1, ...one })) });
        this.#subscriptions.add({ socket, joinRef, topic, filter: wanted[0]?.filter ?? "", claims });
        const ready = { status: "ok", extension: "postgres_changes", message: "Subscribed to PostgreSQL" };
        send(socket, [joinRef, null, topic, "system", ready]);
      } catch {
        reply("error", { reason: "Unauthorized" });
      }
    } else if (event === "phx_leave") {
      for (const subscription of this.#subscriptions) {
        if (subscription.socket === socket && subscription.topic === topic) {
          this.#subscriptions.delete(subscription);
        }
      }
      reply("ok", {});
    } else if (event === "heartbeat") {
      reply("ok", {});
    }
  }

  /** Sends a change to each subscriber who may read the row, which row-level security decides. */
  async #publishChange(type: string, change: postgres.Row): Promise<void> {
    for (const subscription of this.#subscriptions) {
      if (subscription.filter !== `user_key=eq.${change.user_key}`) continue;
      const [visible] = await asUser(
        this.#sql,
        subscription.claims,
        (tx) =>
          tx`select to_jsonb(c) as row from public.ctrader_cache c
          where user_key = ${change.user_key} and account_id = ${String(change.account_id)}`,
      )
        .catch(() => []);
      if (visible === undefined) continue;
      const data = {
        schema: "public",
        table: "ctrader_cache",
        type,
        commit_timestamp: new Date().toISOString(),
        columns: this.#columns,
        record: visible.row,
        old_record: { user_key: change.user_key, account_id: Number(change.account_id) },
        errors: null,
      };
      send(subscription.socket, [null, null, subscription.topic, "postgres_changes", { ids: [1], data }]);
    }
  }
}

function send(socket: WebSocket, message: unknown): void {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}
