// Servers that are down, silent, full or not set up: the function answers 503 within three seconds, and leaves
// nothing half done.

import assert from "node:assert/strict";
import amqp from "amqplib";
import { LANCE, manage, sign, test, type World } from "./support/world.ts";
import { eventually, freePort } from "./support/services.ts";

const WITHIN_MS = 3000;

/** Listens on a port, accepts connections and never answers. */
function listenSilently(world: World): number {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const connections: Deno.Conn[] = [];
  const accepting = (async () => {
    for await (const connection of listener) connections.push(connection);
  })();
  world.onClose(async () => {
    listener.close();
    await accepting;
    for (const connection of connections) connection.close();
  });
  return (listener.addr as Deno.NetAddr).port;
}

/** Every route that publishes answers 503 in time, and the grant is still stored. */
async function assertUnavailable(world: World): Promise<void> {
  const token = await sign(LANCE);
  const body = { userId: LANCE.email };
  const paths = ["/api/start-websocket", "/api/stop-websocket", "/api/ctrader/disconnect"];
  await Promise.all(paths.map(async (path) => {
    const { status, body: answered, ms } = await world.call("POST", path, { token, body });
    assert.equal(status, 503, `${path}: ${JSON.stringify(answered)}`);
    assert.deepEqual(Object.keys(answered), ["success", "error"]);
    assert.ok(ms < WITHIN_MS, `${path}: ${ms} ms`);
  }));
  const [{ left } = { left: -1 }] = await world.sql`
    select (select count(*) from bridge.credentials)::int as left`;
  assert.equal(left, 1, "the grant is still there");
  await eventually("every transaction to be over", async () => {
    const open = await world.sql`select 1 from pg_stat_activity where datname = current_database()
      and application_name = 'edge function bridge' and state like 'idle in%'`;
    return open.length === 0;
  });
}

test("a broker that refuses connections gives 503 at once", async (world) => {
  await world.serve({ AMQP_URL: `amqp://guest:guest@127.0.0.1:${freePort()}` });
  await world.connect(LANCE.email, 1);
  await assertUnavailable(world);
  const health = await world.call("GET", "/health", { token: await sign(LANCE) });
  assert.deepEqual([health.status, health.body.status], [200, "degraded"]);
});

test("a broker that says nothing gives 503 within three seconds", async (world) => {
  await world.serve({ AMQP_URL: `amqp://guest:guest@127.0.0.1:${listenSilently(world)}` });
  await world.connect(LANCE.email, 1);
  await assertUnavailable(world);
});

test("a broker that knows another password gives 503, and the password stays inside", async (world) => {
  await world.serve({ AMQP_URL: world.amqpUrl.replace(/\/\/[^@]*@/, "//guest:hunter2@") });
  await world.connect(LANCE.email, 1);
  await assertUnavailable(world);
});

test("an exchange that no worker has declared gives 503", async (world) => {
  await world.serve();
  await world.connect(LANCE.email, 1);
  await assertUnavailable(world);
});

test("a command that reaches no queue gives 503", async (world) => {
  const model = await amqp.connect(world.amqpUrl);
  const channel = await model.createChannel();
  await channel.assertExchange("bridge.commands", "direct", { durable: true });
  await model.close();
  await world.serve();
  await world.connect(LANCE.email, 1);
  await assertUnavailable(world);
});

test("a queue that is full gives 503", async (world) => {
  const take = await world.topology({ maxLength: 1 });
  await world.serve();
  await world.connect(LANCE.email, 1);
  const token = await sign(LANCE);
  const body = { userId: LANCE.email };
  // A quorum queue exceeds its length limit a little before it rejects messages.
  await eventually("the queue to be full", async () => {
    const { status } = await world.call("POST", "/api/start-websocket", { token, body });
    return status === 503;
  });
  await assertUnavailable(world);
  assert.ok((await take()).length >= 1);
});

test("a warm connection that died is replaced within the same request", async (world) => {
  const take = await world.topology();
  await world.serve();
  await world.connect(LANCE.email, 1);
  const token = await sign(LANCE);
  const start = async () => {
    const body = { userId: LANCE.email };
    const { status, text } = await world.call("POST", "/api/start-websocket", { token, body });
    assert.equal(status, 200, text);
  };
  await start();
  // Closes the function's connections only, not the test's.
  await manage("DELETE", `connections/username/${world.name}`);
  await start();
  await start();
  assert.equal((await take()).length, 3);
});

test("a warm connection that went silent is replaced within three seconds", async (world) => {
  const take = await world.topology();
  const broker = new URL(world.amqpUrl);
  const proxy = await TcpProxy.listen(Number(broker.port));
  world.onClose(() => proxy.close());
  const url = new URL(await world.publisherUrl());
  url.port = String(proxy.port);
  await world.serve({ AMQP_URL: url.href });
  await world.connect(LANCE.email, 1);
  const start = async () =>
    await world.call("POST", "/api/start-websocket", {
      token: await sign(LANCE),
      body: { userId: LANCE.email },
    });
  for (let n = 0; n < 3; n++) assert.equal((await start()).status, 200);
  assert.equal(proxy.connectionCount, 1, "one connection serves them all");
  proxy.silence();
  // Every request notices that the connection is dead, and none may discard the new one of another.
  const again = await Promise.all(Array.from({ length: 10 }, start));
  for (const { status, text, ms } of again) {
    assert.deepEqual([status, ms < WITHIN_MS], [200, true], `${text} ${ms} ms`);
  }
  assert.equal(proxy.connectionCount, 2);
  const ids = (await take()).map((message) => message.properties.messageId);
  assert.equal(new Set(ids).size, 13);
});

test("a pool whose connections went silent is replaced within three seconds", async (world) => {
  const database = new URL(world.databaseUrlAs("bridge_app"));
  const proxy = await TcpProxy.listen(Number(database.port));
  world.onClose(() => proxy.close());
  database.port = String(proxy.port);
  await world.serve({ DATABASE_URL: database.href });
  const token = await sign(LANCE);
  const status = () => world.call("GET", `/api/websocket-status/${LANCE.email}`, { token });
  const several = () => Promise.all(Array.from({ length: 6 }, status));
  for (const { status } of await several()) assert.equal(status, 200);
  proxy.silence();
  for (const { status, ms, text } of await several()) {
    assert.deepEqual([status, ms < WITHIN_MS], [200, true], `${text} ${ms} ms`);
  }
  const after = await status();
  assert.deepEqual([after.status, after.ms < 1000], [200, true], "and the next ones at once");
});

test("many starts at once share one connection", async (world) => {
  const take = await world.topology();
  await world.serve();
  await world.connect(LANCE.email, 1);
  const token = await sign(LANCE);
  const body = { userId: LANCE.email };
  const answers = await Promise.all(
    Array.from({ length: 40 }, () => world.call("POST", "/api/start-websocket", { token, body })),
  );
  assert.deepEqual([...new Set(answers.map(({ status }) => status))], [200]);
  const commands = (await take()).map((message) => JSON.parse(message.content.toString()));
  assert.equal(new Set(commands.map(({ id }) => id)).size, 40);
  assert.equal(new Set(commands.map(({ issuedAt }) => issuedAt)).size, 40);
});

for (const how of ["refuses connections", "says nothing"] as const) {
  test(`a database that ${how} gives 503 within three seconds`, async (world) => {
    const take = await world.topology();
    const port = how === "says nothing" ? listenSilently(world) : freePort();
    await world.serve({ DATABASE_URL: `postgres://app:hunter2@127.0.0.1:${port}/x` });
    const token = await sign(LANCE);
    const body = { userId: LANCE.email };
    const calls = [
      ["POST", "/api/start-websocket"],
      ["POST", "/api/ctrader/disconnect"],
      ["GET", `/api/websocket-status/${LANCE.email}`],
      ["GET", "/health"],
    ] as const;
    await Promise.all(calls.map(async ([method, path]) => {
      const answer = await world.call(method, path, { token, body: method === "POST" ? body : undefined });
      assert.equal(answer.status, 503, answer.text);
      assert.ok(answer.ms < WITHIN_MS, `${path}: ${answer.ms} ms`);
      assert.doesNotMatch(answer.text, /hunter2|127\.0\.0\.1/);
    }));
    assert.deepEqual(await take(), []);
  });
}

/** A TCP proxy between the function and a server. It can silence its connections; new ones work again. */
class TcpProxy {
  readonly #listener: Deno.TcpListener;
  readonly #target: number;
  readonly #ends = new Set<Deno.Conn>();
  #generation: { silent: boolean } = { silent: false };
  /** The number of connections so far. */
  connectionCount = 0;

  private constructor(listener: Deno.TcpListener, target: number) {
    this.#listener = listener;
    this.#target = target;
    void this.#accept();
  }

  static listen(target: number): Promise<TcpProxy> {
    return Promise.resolve(new TcpProxy(Deno.listen({ hostname: "127.0.0.1", port: 0 }), target));
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  /** Stops forwarding on the current connections, without closing them. */
  silence(): void {
    this.#generation.silent = true;
    this.#generation = { silent: false };
  }

  close(): void {
    this.#listener.close();
    for (const end of this.#ends) {
      try {
        end.close();
      } catch {
        // The other side closed it.
      }
    }
  }

  async #accept(): Promise<void> {
    try {
      for await (const near of this.#listener) {
        this.connectionCount++;
        const far = await Deno.connect({ hostname: "127.0.0.1", port: this.#target });
        const generation = this.#generation;
        for (const [from, to] of [[near, far], [far, near]] as const) {
          this.#ends.add(from);
          void this.#forward(from, to, generation);
        }
      }
    } catch {
      // The listener was closed.
    }
  }

  async #forward(from: Deno.Conn, to: Deno.Conn, generation: { silent: boolean }): Promise<void> {
    const buffer = new Uint8Array(16_384);
    try {
      for (let read; (read = await from.read(buffer)) !== null;) {
        for (let at = 0; !generation.silent && at < read;) at += await to.write(buffer.subarray(at, read));
      }
    } catch {
      // One of the ends was closed.
    }
  }
}
