// The routes against real Postgres and RabbitMQ. Each response has exactly the documented fields.

import assert from "node:assert/strict";
import { Child } from "./support/child.ts";
import { LANCE, OTHER, serviceToken, sign, test, type World } from "./support/world.ts";

async function lance(world: World): Promise<string> {
  await world.serve({ ALLOWED_ORIGINS: "https://app.example.org, http://localhost:3000" });
  return await sign(LANCE);
}

test("a start is confirmed by the broker and says which account is meant", async (world) => {
  const take = await world.topology();
  const token = await lance(world);
  await world.connect(LANCE.email, 5150705);
  await world.connect(LANCE.email, 5150706, { live: true, primary: false });

  const primary = await world.call("POST", "/api/start-websocket", { token, body: { userId: LANCE.email } });
  assert.deepEqual([primary.status, primary.body], [200, {
    success: true,
    message: "WebSocket connection started",
    accountId: "5150705",
    isDemo: true,
  }]);
  const named = await world.call("POST", "/api/start-websocket", {
    token,
    body: { userId: LANCE.email, accountId: "5150706", more: "ignored" },
  });
  assert.deepEqual(named.body, {
    success: true,
    message: "WebSocket connection started",
    accountId: "5150706",
    isDemo: false,
  });

  const messages = await take();
  assert.equal(messages.length, 2);
  for (const [at, message] of messages.entries()) {
    const command = JSON.parse(message.content.toString());
    assert.equal(message.fields.routingKey, "start");
    const { contentType, deliveryMode, messageId } = message.properties;
    assert.deepEqual([contentType, deliveryMode, messageId], ["application/json", 2, command.id]);
    assert.match(command.issuedAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
    assert.deepEqual(
      [command.command, command.userId, command.accountId],
      ["start", LANCE.email, [undefined, 5150706][at]],
    );
  }
});

test("a start needs an account that is connected, and one that is meant", async (world) => {
  const take = await world.topology();
  const token = await lance(world);
  const start = (accountId?: number) =>
    world.call("POST", "/api/start-websocket", { token, body: { userId: LANCE.email, accountId } });
  assert.equal((await start()).status, 404);
  await world.connect(LANCE.email, 1, { primary: false });
  assert.equal((await start()).body.accountId, "1", "the only one is meant");
  assert.equal((await start(2)).status, 404);
  await world.connect(LANCE.email, 2, { primary: false });
  assert.equal((await start()).status, 409);
  assert.equal((await start(2)).status, 200);
  assert.equal((await take()).length, 2, "what was refused was not published");
});

test("a stop says whether the stream ran, and needs no credentials", async (world) => {
  const take = await world.topology();
  const token = await lance(world);
  const stop = async (accountId?: number) => {
    const body = { userId: LANCE.email, accountId };
    const answer = await world.call("POST", "/api/stop-websocket", { token, body });
    assert.equal(answer.status, 200);
    const { wasConnected, ...rest } = answer.body;
    assert.deepEqual(rest, { success: true, message: "WebSocket connection stopped" });
    return wasConnected;
  };
  assert.equal(await stop(), false);
  await world.row(LANCE.email, 1);
  await world.row(LANCE.email, 2, { connected: false });
  assert.deepEqual([await stop(), await stop(1), await stop(2)], [true, true, false]);
  await world.row(LANCE.email, 1, { ageSecs: 60 });
  assert.equal(await stop(), false, "a row that nobody writes any more is not connected");
  const commands = (await take()).map((message) => JSON.parse(message.content.toString()));
  assert.deepEqual(commands.map((command) => command.accountId), [undefined, undefined, 1, 2, undefined]);
  assert.deepEqual(commands.map((command) => command.issuedAt).sort(), commands.map((c) => c.issuedAt));
});

test("the status is the cache row's", async (world) => {
  const token = await lance(world);
  const status = async (query = "") => {
    const path = `/api/websocket-status/${encodeURIComponent(LANCE.email)}${query}`;
    const answer = await world.call("GET", path, { token });
    assert.equal(answer.status, 200);
    return answer.body;
  };
  const nothing = {
    connected: false,
    accountId: null,
    lastUpdate: null,
    balance: null,
    equity: null,
    positions: 0,
  };
  assert.deepEqual(await status(), nothing);
  await world.connect(LANCE.email, 5150705);
  assert.deepEqual(
    await status(),
    { ...nothing, accountId: "5150705" },
    "connected to cTrader, never started",
  );
  await world.row(LANCE.email, 5150705);
  await world.row(LANCE.email, 7, { balance: 1, equity: 2, positions: 3 });
  const { lastUpdate, ...rest } = await status();
  assert.deepEqual(rest, {
    connected: true,
    accountId: "5150705",
    balance: 10000,
    equity: 10050,
    positions: 2,
  });
  assert.ok(Math.abs(Date.parse(String(lastUpdate)) - Date.now()) < 60_000);
  assert.equal((await status("?accountId=7")).balance, 1);
  await world.row(LANCE.email, 5150705, { ageSecs: 60 });
  assert.equal((await status()).connected, false, "an old row is not connected, whatever it says");
});

test("the service sees every session and acts for anybody", async (world) => {
  await world.topology();
  await lance(world);
  const token = await serviceToken();
  await world.connect(LANCE.email, 5150705);
  await world.row(LANCE.email, 5150705);
  for (const [user, account] of [[LANCE.email, 5150705], [OTHER.sub, 9]] as const) {
    await world.sql`insert into bridge.sessions
        (user_id, account_id, desired, command_id, command_issued_at, status)
      values (${user}, ${account}, 'running', gen_random_uuid(), now(), 'live')`;
  }
  const { status, body } = await world.call("GET", "/api/sessions", { token });
  const sessions = body.sessions as Record<string, unknown>[];
  assert.deepEqual([status, Object.keys(body), body.total], [200, ["total", "sessions"], 2]);
  assert.deepEqual(sessions.map(({ lastUpdate: _, ...rest }) => rest), [
    { userId: OTHER.sub, isConnected: false, accountId: "9", balance: null, positions: 0 },
    { userId: LANCE.email, isConnected: true, accountId: "5150705", balance: 10000, positions: 2 },
  ]);
  const page = await world.call("GET", "/api/sessions?limit=1&offset=1", { token });
  assert.deepEqual([page.body.total, (page.body.sessions as unknown[]).length], [2, 1]);
  const past = await world.call("GET", "/api/sessions?offset=5", { token });
  assert.deepEqual(past.body, { total: 2, sessions: [] });
  assert.equal((await world.call("GET", "/api/sessions?limit=x", { token })).status, 400);
  const start = { token, body: { userId: LANCE.email } };
  assert.equal((await world.call("POST", "/api/start-websocket", start)).status, 200);
});

test("health is the fleet's, for anybody with a token of the project", async (world) => {
  await world.topology();
  await lance(world);
  const token = await sign({ role: "anon" }, { alg: "HS256" });
  const health = async () => {
    const { status, body } = await world.call("GET", "/health", { token });
    assert.equal(status, 200);
    assert.deepEqual(Object.keys(body), ["status", "activeSessions", "workers", "timestamp"]);
    return [body.status, body.activeSessions, body.workers];
  };
  assert.deepEqual(await health(), ["ok", 0, 0]);
  await world.sql`insert into bridge.sessions
      (user_id, account_id, desired, command_id, command_issued_at, status)
    values ('u', 1, 'running', gen_random_uuid(), now(), 'pending')`;
  assert.deepEqual(await health(), ["degraded", 0, 0], "a session is wanted and nobody runs it");
  await world.row("u", 1);
  const lock = await world.sql.reserve();
  await lock`insert into bridge.workers (worker_id, sessions_max) values ('w1', 10), ('dead', 10)`;
  await lock`select pg_advisory_lock(1835100279, number) from bridge.workers where worker_id = 'w1'`;
  assert.deepEqual(await health(), ["ok", 1, 1]);
  await lock`select pg_advisory_unlock_all()`;
  lock.release();
});

test("a configured origin passes the preflight, and no other", async (world) => {
  const token = await lance(world);
  const preflight = (origin: string) =>
    world.call("OPTIONS", "/api/start-websocket", {
      headers: { origin, "access-control-request-method": "POST" },
    });
  const allowed = await preflight("https://app.example.org");
  assert.equal(allowed.status, 204);
  assert.equal(allowed.headers.get("access-control-allow-origin"), "https://app.example.org");
  assert.match(allowed.headers.get("access-control-allow-headers") ?? "", /authorization/);
  for (const origin of ["https://evil.example.org", "null", "https://app.example.org.evil.example"]) {
    const refused = await preflight(origin);
    assert.deepEqual([refused.status, refused.headers.get("access-control-allow-origin")], [403, null]);
    const asked = await world.call("GET", "/health", { token, headers: { origin } });
    assert.equal(asked.headers.get("access-control-allow-origin"), null);
  }
  const wrong = await world.call("POST", "/api/start-websocket", {
    body: {},
    headers: { origin: "http://localhost:3000" },
  });
  assert.equal(
    wrong.headers.get("access-control-allow-origin"),
    "http://localhost:3000",
    "errors can be read",
  );
});

test("a transaction pooler serves the function", async (world) => {
  const take = await world.topology();
  await world.serve({
    DATABASE_URL: await world.pooler("bridge_app"),
    CTRADER_CLIENT_ID: "id",
    CTRADER_CLIENT_SECRET: "secret",
    CTRADER_REDIRECT_URI: "https://app.example.org/connected",
  });
  const token = await sign(LANCE);
  await world.connect(LANCE.email, 1);
  const calls = [
    ["GET", `/api/websocket-status/${LANCE.email}`],
    ["GET", `/api/ctrader/connect?userId=${LANCE.email}`],
    ["POST", "/api/start-websocket"],
    ["POST", "/api/stop-websocket"],
    ["GET", "/health"],
  ] as const;
  // There are more requests at once than backends.
  const answers = await Promise.all(
    [...calls, ...calls, ...calls].map(([method, path]) =>
      world.call(method, path, { token, body: method === "POST" ? { userId: LANCE.email } : undefined })
    ),
  );
  for (const { status, text } of answers) assert.equal(status, 200, text);
  const gone = await world.call("POST", "/api/ctrader/disconnect", { token, body: { userId: LANCE.email } });
  assert.deepEqual([gone.status, gone.body.accounts], [200, 1], gone.text);
  // If the broker is slow to confirm, the same command is published again.
  const commands = (await take()).map((message) => message.content.toString());
  assert.equal(new Set(commands).size, 7);
});

test("the function runs as it is deployed, with no more than Supabase's runtime allows it", async (world) => {
  const take = await world.topology();
  await world.connect(LANCE.email, 5150705);
  const index = new URL("../bridge/index.ts", import.meta.url);
  const entry = await Deno.makeTempFile({ suffix: ".ts" });
  world.onClose(() => Deno.remove(entry));
  // In Supabase's runtime the function does not choose the port: here it takes a free one.
  await Deno.writeTextFile(
    entry,
    `const serve = Deno.serve;
    Object.defineProperty(Deno, "serve", { value: (handle: Deno.ServeHandler) =>
      serve({ port: 0, hostname: "127.0.0.1", onListen: ({ port }) => console.log("port", port) }, handle) });
    await import(${JSON.stringify(index.href)});`,
  );
  const run = async (variables: Record<string, string>) => {
    const allowed = ["--allow-net", "--allow-env", "--allow-read", "--allow-write", "--allow-sys=hostname"];
    const config = new URL("../bridge/deno.json", import.meta.url).pathname;
    const args = [
      "run",
      "--quiet",
      "--no-prompt",
      "--no-lock",
      "--no-check",
      "--config",
      config,
      ...allowed,
      entry,
    ];
    const { HOME = "", DENO_TLS_CA_STORE = "", DENO_DIR = "", NPM_CONFIG_REGISTRY = "" } = Deno.env
      .toObject();
    const kept = { HOME, DENO_TLS_CA_STORE, DENO_DIR, NPM_CONFIG_REGISTRY };
    const env = Object.fromEntries(
      Object.entries({ ...kept, ...variables }).filter(([, value]) => value !== ""),
    );
    const child = new Child("function", Deno.execPath(), args, env);
    world.onClose(() => child.kill());
    const output = await child.waitForOutput(/^port \d+$/m);
    const url = `http://127.0.0.1:${/^port (\d+)$/m.exec(output)?.[1]}/bridge/api/start-websocket`;
    const response = await fetch(url, {
      method: "POST",
      headers: { authorization: `Bearer ${await sign(LANCE)}`, "content-type": "application/json" },
      body: JSON.stringify({ userId: LANCE.email }),
    });
    return { status: response.status, body: await response.json(), child };
  };
  const { status, body, child } = await run(await world.env());
  assert.deepEqual([status, body.accountId], [200, "5150705"], child.output);
  assert.equal((await take()).length, 1);

  const wrong = await run({ ...await world.env(), AMQP_URL: "http://user:hunter2@broker" });
  assert.deepEqual([wrong.status, wrong.body], [500, {
    success: false,
    error: "the function is not configured",
  }]);
  assert.match(wrong.child.output, /AMQP_URL/);
  assert.doesNotMatch(wrong.child.output, /hunter2/);
});
