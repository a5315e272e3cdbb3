// The environment of one test: a database and a vhost of its own on the real servers, keys that sign tokens, and
// on demand the simulated cTrader and the real worker as child processes. It is removed after the test.

import amqp from "amqplib";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import postgres from "postgres";
import { type Bridge, createBridge } from "../../bridge/bridge.ts";
import { readSettings } from "../../bridge/env.ts";
import { Child } from "./child.ts";
import { eventually, freePort, required } from "./services.ts";

const SUPABASE = await Deno.readTextFile(
  new URL("../../../../examples/dashboard/supabase.sql", import.meta.url),
);

export const LANCE = { sub: "0b0f2c52-0000-4000-8000-000000000000", email: "lance@example.org" };
export const OTHER = { sub: "5d1c88aa-0000-4000-8000-000000000000", email: "other@example.org" };
export const JWT_SECRET = "a-secret-of-the-tests-that-is-long-enough";
const HOUR = 3600;

/** Signing keys like those of a Supabase project. */
export const keys = {
  es256: await generateKeyPair("ES256", { extractable: true }),
  rs256: await generateKeyPair("RS256", { extractable: true }),
  stranger: await generateKeyPair("ES256", { extractable: true }),
};

export const jwks = {
  keys: [
    { ...await exportJWK(keys.es256.publicKey), kid: "es", alg: "ES256", use: "sig" },
    { ...await exportJWK(keys.rs256.publicKey), kid: "rs", alg: "RS256", use: "sig" },
  ],
};

type Claims = Record<string, unknown>;

export function sign(
  claims: Claims,
  { alg = "ES256", key, secs = HOUR }: { alg?: string; key?: CryptoKey | Uint8Array; secs?: number } = {},
): Promise<string> {
  const usual = alg === "HS256"
    ? new TextEncoder().encode(JWT_SECRET)
    : alg === "RS256"
    ? keys.rs256.privateKey
    : keys.es256.privateKey;
  return new SignJWT({ aud: "authenticated", role: "authenticated", ...claims })
    .setProtectedHeader({ alg, typ: "JWT", kid: alg === "HS256" ? undefined : alg.slice(0, 2).toLowerCase() })
    .setIssuedAt()
    .setExpirationTime(Math.floor(Date.now() / 1000) + secs)
    .sign(key ?? usual);
}

export const serviceToken = () => sign({ role: "service_role" }, { alg: "HS256" });

type Sql = postgres.Sql<Record<string, unknown>>;

export class World {
  /** Processes whose output is printed when the test fails. */
  readonly #children: Child[] = [];
  readonly #closers: (() => Promise<unknown> | unknown)[] = [];
  readonly name = `app_${crypto.randomUUID().replaceAll("-", "")}`;
  databaseUrl = "";
  amqpUrl = "";
  /** The test's own connections, as the owner. */
  sql!: Sql;
  #bridge: Bridge | undefined;
  #origin = "";

  static async create(): Promise<World> {
    const world = new World();
    try {
      await world.#database();
      await world.#vhost();
    } catch (error) {
      await world.close();
      throw error;
    }
    return world;
  }

  printOutput(): void {
    for (const child of this.#children) console.error(`--- output of the ${child.name}:\n${child.output}---`);
  }

  onClose(close: () => Promise<unknown> | unknown): void {
    this.#closers.push(close);
  }

  async close(): Promise<void> {
    const errors: unknown[] = [];
    for (const close of this.#closers.reverse()) {
      try {
        await close();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, "something is left behind");
  }

  async #database(): Promise<void> {
    const server = required("DATABASE_URL");
    const admin = connect(server);
    this.onClose(() => admin.end());
    await admin.unsafe(`create database ${this.name} template template0`);
    this.onClose(() => admin.unsafe(`drop database if exists ${this.name} with (force)`));
    const url = new URL(server);
    url.pathname = `/${this.name}`;
    this.databaseUrl = url.href;
    this.sql = connect(url.href);
    this.onClose(() => this.sql.end());
    await this.sql.unsafe(SUPABASE);
    const migrated = await new Deno.Command(required("BRIDGE_WORKER"), {
      args: ["migrate"],
      clearEnv: true,
      env: this.workerEnv(),
      stdin: "null",
    }).output();
    if (!migrated.success) throw new Error(new TextDecoder().decode(migrated.stderr));
  }

  async #vhost(): Promise<void> {
    const url = new URL(required("AMQP_URL"));
    await manage("PUT", `vhosts/${this.name}`);
    this.onClose(() => manage("DELETE", `vhosts/${this.name}`));
    await manage("PUT", `permissions/${this.name}/${url.username || "guest"}`, {
      configure: ".*",
      write: ".*",
      read: ".*",
    });
    url.pathname = `/${this.name}`;
    this.amqpUrl = url.href;
  }

  /** Returns the database's URL for one of the roles that the migrations create. */
  databaseUrlAs(role: string): string {
    return `${this.databaseUrl}?options=-c%20role%3D${role}`;
  }

  /** Returns the URL of a broker user that may only publish commands, like the function's. */
  async publisherUrl(): Promise<string> {
    await manage("PUT", `users/${this.name}`, { password: this.name, tags: "" });
    this.onClose(() => manage("DELETE", `users/${this.name}`));
    await manage("PUT", `permissions/${this.name}/${this.name}`, {
      configure: "^$",
      write: "^bridge\\.commands$",
      read: "^$",
    });
    const url = new URL(this.amqpUrl);
    [url.username, url.password] = [this.name, this.name];
    return url.href;
  }

  /** Declares what the worker declares, for tests without one. Returns a function that empties the queue. */
  async topology(
    { maxLength }: { maxLength?: number } = {},
  ): Promise<() => Promise<amqp.GetMessage[]>> {
    const model = await amqp.connect(this.amqpUrl, { noDelay: true });
    this.onClose(() => model.close());
    const channel = await model.createChannel();
    await channel.assertExchange("bridge.commands", "direct", { durable: true });
    await channel.assertQueue("bridge.commands", {
      durable: true,
      arguments: {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        ...(maxLength === undefined ? {} : { "x-max-length": maxLength }),
      },
    });
    for (const key of ["start", "stop"]) await channel.bindQueue("bridge.commands", "bridge.commands", key);
    return async () => {
      const messages = [];
      let message;
      while ((message = await channel.get("bridge.commands", { noAck: true }))) messages.push(message);
      return messages;
    };
  }

  /** Returns the URL of a transaction pooler in front of the database, which connects as the role. */
  async pooler(role: string): Promise<string> {
    const program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].find((path) => {
      try {
        return Deno.statSync(path).isFile;
      } catch {
        return false;
      }
    });
    if (program === undefined) throw new Error("pgbouncer is not installed: run scripts/test-app");
    const [server, port] = [new URL(this.databaseUrl), freePort()];
    const folder = await Deno.makeTempDir({ prefix: "pooler-" });
    this.onClose(() => Deno.remove(folder, { recursive: true }));
    const password = server.password === "" ? "" : `password=${decodeURIComponent(server.password)}`;
    await Deno.writeTextFile(
      `${folder}/pgbouncer.ini`,
      `[databases]
* = host=${server.hostname} port=${
        server.port || 5432
      } user=${server.username} ${password} connect_query='set role ${role}'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
`,
    );
    const args = [`${folder}/pgbouncer.ini`];
    if (Deno.uid() === 0) {
      // PgBouncer refuses to run as root. The user that it switches to needs the folder.
      await new Deno.Command("chown", { args: ["-R", "nobody", folder] }).output();
      args.unshift("--user", "nobody");
    }
    const child = new Child("pooler", program, args, {});
    this.#children.push(child);
    this.onClose(() => child.kill());
    await child.waitForOutput(/process up/);
    return `postgres://${server.username}@127.0.0.1:${port}/${this.name}`;
  }

  /** Returns the function's environment with additional variables. */
  async env(variables: Record<string, string> = {}): Promise<Record<string, string>> {
    return {
      DATABASE_URL: this.databaseUrlAs("bridge_app"),
      AMQP_URL: await this.publisherUrl(),
      SUPABASE_JWKS: JSON.stringify(jwks),
      JWT_SECRET,
      ...variables,
    };
  }

  /** Serves the function over HTTP. */
  async serve(variables: Record<string, string> = {}, flyPollMs = 50): Promise<Bridge> {
    const env = await this.env(variables);
    const bridge = createBridge(readSettings((name) => env[name]), flyPollMs);
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen: () => {} },
      (request) => bridge.fetch(request),
    );
    this.onClose(() => bridge.close());
    this.onClose(() => server.shutdown());
    this.#bridge = bridge;
    this.#origin = `http://127.0.0.1:${server.addr.port}`;
    return bridge;
  }

  get origin(): string {
    return this.#origin;
  }

  get bridge(): Bridge {
    if (this.#bridge === undefined) throw new Error("serve() comes first");
    return this.#bridge;
  }

  /** Sends a request to the function, with the path that Supabase's gateway passes on. */
  async call(
    method: string,
    path: string,
    { token, body, headers = {} }: {
      token?: string;
      body?: unknown;
      headers?: Record<string, string>;
    } = {},
  ): Promise<{ status: number; body: Record<string, unknown>; text: string; headers: Headers; ms: number }> {
    const started = performance.now();
    const response = await fetch(`${this.#origin}/bridge${path}`, {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
    });
    const text = await response.text();
    return {
      status: response.status,
      body: text === "" ? {} : JSON.parse(text),
      text,
      headers: response.headers,
      ms: performance.now() - started,
    };
  }

  /** Stores a user's grant, like the callback. */
  async connect(
    userId: string,
    accountId: number,
    { live = false, primary = true, token = "token-a" } = {},
  ): Promise<void> {
    await this.sql`insert into bridge.credentials
        (user_id, account_id, is_live, is_primary, access_token, refresh_token)
      values (${userId}, ${accountId}, ${live}, ${primary}, ${token}, ${`refresh-${token}`})`;
  }

  /** Writes a cache row, like a worker. */
  async row(
    userId: string,
    accountId: number,
    { connected = true, ageSecs = 0, balance = 10000, equity = 10050, positions = 2 } = {},
  ): Promise<void> {
    await this.sql`insert into public.ctrader_cache
        (user_key, account_id, is_connected, status, balance, equity, position_count, epoch, seq, updated_at)
      values (encode(sha256(convert_to(${userId}, 'UTF8')), 'hex'), ${accountId}, ${connected}, 'live',
        ${balance}, ${equity}, ${positions}, 1, 1, now() - ${ageSecs} * interval '1 second')
      on conflict (user_key, account_id) do update set
        is_connected = excluded.is_connected, updated_at = excluded.updated_at,
        balance = excluded.balance, equity = excluded.equity,
        seq = public.ctrader_cache.seq + 1`;
  }

  workerEnv(variables: Record<string, string> = {}): Record<string, string> {
    return {
      DATABASE_URL: this.databaseUrl,
      AMQP_URL: this.amqpUrl || "amqp://localhost",
      LOG_FORMAT: "json",
      ...variables,
    };
  }

  /** Starts the real worker with the rights of its role, and waits until it is ready. */
  async worker(sim: Simulator, variables: Record<string, string> = {}): Promise<Child> {
    const port = freePort();
    const child = new Child("worker", required("BRIDGE_WORKER"), ["worker"], {
      ...this.workerEnv(),
      DATABASE_URL: this.databaseUrlAs("bridge_worker"),
      CTRADER_CLIENT_ID: sim.clientId,
      CTRADER_CLIENT_SECRET: sim.clientSecret,
      CTRADER_DEMO_URL: sim.demoUrl,
      CTRADER_LIVE_URL: sim.liveUrl,
      WORKER_ID: "the-worker",
      PORT: String(port),
      ...variables,
    });
    this.#children.push(child);
    this.onClose(() => child.kill());
    await eventually("the worker to be ready", async () => {
      child.assertRunning();
      const response = await fetch(`http://127.0.0.1:${port}/readyz`);
      await response.body?.cancel();
      return response.ok;
    });
    return child;
  }

  async simulator(): Promise<Simulator> {
    const sim = new Simulator(freePort(), freePort());
    this.onClose(() => sim.stop());
    await sim.start();
    return sim;
  }
}

/** `examples/sim.rs` as a child process. It keeps its ports over a restart. */
export class Simulator {
  readonly demoUrl: string;
  readonly liveUrl: string;
  clientId = "";
  clientSecret = "";
  /** The token of account 5150705, which has positions. */
  tokenWithPositions = "";
  #child: Child | undefined;

  constructor(readonly demoPort: number, readonly livePort: number) {
    this.demoUrl = `ws://127.0.0.1:${demoPort}`;
    this.liveUrl = `ws://127.0.0.1:${livePort}`;
  }

  async start(): Promise<void> {
    const ports = ["--demo-port", String(this.demoPort), "--live-port", String(this.livePort)];
    const child = new Child("simulator", required("BRIDGE_SIM"), [...ports, "--ticks", "5"], {});
    this.#child = child;
    const output = await child.waitForOutput(/^ready$/m);
    const app = /^app\s+(\S+)\s+(\S+)$/m.exec(output);
    [this.clientId, this.clientSecret] = [app?.[1] ?? "", app?.[2] ?? ""];
    this.tokenWithPositions = /^account 5150705 token (\S+)/m.exec(output)?.[1] ?? "";
  }

  /** Kills the server, which closes nothing in order. */
  async stop(): Promise<void> {
    await this.#child?.kill();
    this.#child = undefined;
  }
}

function connect(url: string): Sql {
  return postgres(url, { max: 4, onnotice: () => {}, fetch_types: false });
}

async function manage(method: string, path: string, body?: unknown): Promise<void> {
  const base = new URL(required("AMQP_MANAGEMENT_URL"));
  const authorization = `Basic ${
    btoa(`${decodeURIComponent(base.username)}:${decodeURIComponent(base.password)}`)
  }`;
  [base.username, base.password] = ["", ""];
  const response = await fetch(new URL(`/api/${path}`, base), {
    method,
    headers: { authorization, "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  await response.body?.cancel();
  if (!response.ok && !(method === "DELETE" && response.status === 404)) {
    throw new Error(`the management API answered ${response.status} to ${method} ${path}`);
  }
}

export { manage };

/** Registers a test with an environment of its own. */
export function test(
  name: string,
  run: (world: World) => Promise<void>,
  options: Partial<Deno.TestDefinition> = {},
): void {
  Deno.test({ ...options, name, fn: () => inWorld(run) });
}

async function inWorld(run: (world: World) => Promise<void>): Promise<void> {
  const world = await World.create();
  let failure: unknown;
  try {
    await run(world);
  } catch (error) {
    failure = error;
    world.printOutput();
  }
  try {
    await world.close();
  } catch (error) {
    failure ??= error;
  }
  if (failure !== undefined) throw failure;
}
