// Starting Fly's machines, against a fake of the Machines API.

import assert from "node:assert/strict";
import { LANCE, sign, test, type World } from "./support/world.ts";

interface FakeMachinesApi {
  /** The machines' states in each poll; the last one is repeated. */
  polls: Record<string, string>[];
  /** Machines that cannot be started: their hosts have no capacity. */
  full: Set<string>;
  started: string[];
  requests: { method: string; path: string; authorization: string | null }[];
}

function machinesApi(world: World): [FakeMachinesApi, Record<string, string>] {
  const api: FakeMachinesApi = { polls: [], full: new Set(), started: [], requests: [] };
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
    const { pathname } = new URL(request.url);
    api.requests.push({
      method: request.method,
      path: pathname,
      authorization: request.headers.get("authorization"),
    });
    if (request.headers.get("authorization") !== "Bearer fly-token") {
      return new Response("no", { status: 401 });
    }
    const start = /^\/v1\/apps\/bridge-workers\/machines\/(\w+)\/start$/.exec(pathname)?.[1];
    if (request.method === "POST" && start !== undefined) {
      if (api.full.has(start)) return Response.json({ error: "no capacity" }, { status: 412 });
      api.started.push(start);
      return Response.json({ previous_state: "stopped" });
    }
    if (request.method === "GET" && pathname === "/v1/apps/bridge-workers/machines") {
      const poll = api.polls.length > 1 ? api.polls.shift() : api.polls[0];
      return Response.json(
        Object.entries(poll ?? {}).map(([id, state]) => ({
          id,
          state,
          config: { metadata: { fly_process_group: id.startsWith("other") ? "other" : "worker" } },
        })),
      );
    }
    return new Response("no", { status: 404 });
  });
  world.onClose(() => server.shutdown());
  return [api, {
    FLY_APP: "bridge-workers",
    FLY_API_TOKEN: "fly-token",
    FLY_API_URL: `http://127.0.0.1:${server.addr.port}`,
  }];
}

async function start(world: World): Promise<void> {
  const token = await sign(LANCE);
  const answer = await world.call("POST", "/api/start-websocket", { token, body: { userId: LANCE.email } });
  assert.equal(answer.status, 200, answer.text);
  await world.bridge.idle();
}

async function ready(world: World, pauseMs = 10): Promise<FakeMachinesApi> {
  await world.topology();
  const [api, variables] = machinesApi(world);
  await world.serve(variables, pauseMs);
  await world.connect(LANCE.email, 1);
  return api;
}

test("a start wakes one stopped machine of the workers'", async (world) => {
  const api = await ready(world);
  api.polls = [{ other1: "stopped", m1: "stopped", m2: "stopped" }];
  await start(world);
  assert.deepEqual(api.started, ["m1"]);
  assert.deepEqual(api.requests.map(({ method, path }) => `${method} ${path}`), [
    "GET /v1/apps/bridge-workers/machines",
    "POST /v1/apps/bridge-workers/machines/m1/start",
  ]);
});

test("a machine that runs is enough, once a worker has taken the command", async (world) => {
  const api = await ready(world, 1);
  api.polls = [{ m1: "started", m2: "stopped" }];
  await world.sql`insert into bridge.sessions
      (user_id, account_id, desired, command_id, command_issued_at, status)
    values (${LANCE.email}, 1, 'running', gen_random_uuid(), now() + interval '1 hour', 'pending')`;
  await start(world);
  assert.deepEqual([api.started, api.requests.length], [[], 1]);
});

test("a machine that was about to stop is started once it has stopped", async (world) => {
  const api = await ready(world);
  api.polls = [{ m1: "started" }, { m1: "stopping" }, { m1: "stopped" }];
  await start(world);
  assert.deepEqual(api.started, ["m1"]);
});

test("where one machine cannot be started, the next one is", async (world) => {
  const api = await ready(world);
  api.polls = [{ m1: "suspended", m2: "stopped" }];
  api.full.add("m1");
  await start(world);
  assert.deepEqual(api.started, ["m2"]);
});

test("a Machines API that fails does not fail the start, and the token stays inside", async (world) => {
  await world.topology();
  const [api, variables] = machinesApi(world);
  await world.serve({ ...variables, FLY_API_TOKEN: "wrong-token" }, 10);
  await world.connect(LANCE.email, 1);
  const logged: string[] = [];
  const error = console.error;
  console.error = (line: string) => logged.push(line);
  try {
    await start(world);
  } finally {
    console.error = error;
  }
  assert.deepEqual([api.started, logged.length], [[], 1]);
  assert.ok(!logged.join().includes("wrong-token"));
});

test("a stop wakes nobody", async (world) => {
  const api = await ready(world);
  const token = await sign(LANCE);
  await world.call("POST", "/api/stop-websocket", { token, body: { userId: LANCE.email } });
  await world.bridge.idle();
  assert.deepEqual(api.requests, []);
});
