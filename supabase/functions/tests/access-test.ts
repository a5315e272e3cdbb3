// Which rows Supabase's API and Realtime show to whom, on a migrated database with Supabase's roles, default
// privileges and publication. The Rust tests cover what each role may do by SQL.

import assert from "node:assert/strict";
import { LANCE, OTHER, test } from "./support/world.ts";

test("logical replication has the two public tables, and nothing of the private schema", async (world) => {
  const slot = `slot_${world.name}`;
  await world.sql`select pg_create_logical_replication_slot(${slot}, 'pgoutput', true)`.catch(async () => {
    // A temporary slot belongs to one connection, and this pool has several.
    await world.sql`select pg_create_logical_replication_slot(${slot}, 'pgoutput')`;
  });
  await world.connect(LANCE.email, 1, { token: "a-token-of-lance" });
  await world.row(LANCE.email, 1);
  await world.sql`insert into public.ctrader_deals
      (user_key, account_id, deal_id, order_id, position_id, symbol_id, side, status, volume, filled_volume,
        executed_at)
    values ('key', 1, 2, 3, 4, 5, 'BUY', 'FILLED', 1, 1, now())`;
  await world.sql`update bridge.slots set worker_id = 'a-worker-of-ours' where slot = 0`;
  const changes = await world.sql`select encode(data, 'escape') as data
    from pg_logical_slot_get_binary_changes(${slot}, null, null, 'proto_version', '1',
      'publication_names', 'supabase_realtime')`.finally(() =>
    world.sql`select pg_drop_replication_slot(${slot}) from pg_replication_slots where slot_name = ${slot}`
  );
  const text = changes.map(({ data }) => String(data)).join("\n");
  assert.match(text, /ctrader_cache/);
  assert.match(text, /ctrader_deals/);
  assert.doesNotMatch(text, /credentials|slots|a-token-of-lance|a-worker-of-ours/);
});

test("Realtime passes a change on only to users who may read the row, by the policies", async (world) => {
  await world.row(LANCE.email, 1);
  await world.row(LANCE.sub, 2);
  await world.row(OTHER.email, 3);
  const seen = async (role: string, claims: unknown) =>
    await world.sql.begin(async (tx) => {
      await tx`select set_config('role', ${role}, true),
        set_config('request.jwt.claims', ${JSON.stringify(claims)}, true)`;
      const rows = await tx`select account_id::int as id from public.ctrader_cache order by 1`;
      return rows.map(({ id }) => id);
    });
  assert.deepEqual(await seen("authenticated", LANCE), [1, 2]);
  assert.deepEqual(await seen("authenticated", { sub: LANCE.sub }), [2]);
  assert.deepEqual(await seen("authenticated", OTHER), [3]);
  assert.deepEqual(await seen("authenticated", {}), []);
  await assert.rejects(seen("anon", LANCE), /permission denied/);
});

test("the private schema is closed to Supabase's roles, after its default grants too", async (world) => {
  // Supabase's dashboard grants this for new tables.
  await world.sql.unsafe(`alter default privileges grant all on tables to anon, authenticated;
    create table bridge.later (x int);`);
  const tables = await world.sql`select c.oid::regclass::text as name from pg_class c
    where c.relnamespace = 'bridge'::regnamespace and c.relkind in ('r', 'v')`;
  assert.ok(tables.length >= 9, `${tables.length} tables`);
  for (const role of ["anon", "authenticated"]) {
    for (const { name } of tables) {
      await assert.rejects(
        world.sql.begin(async (tx) => {
          await tx.unsafe(`set local role ${role}`);
          await tx.unsafe(`select 1 from ${name}`);
        }),
        /permission denied/,
        `${role} ${name}`,
      );
    }
  }
});
