// The types that the function and the browser module share: that the two copies are equal, and that a row has
// the columns of the table.

import assert from "node:assert/strict";
import { test } from "../../../supabase/functions/tests/support/world.ts";
import type { CacheRow } from "../src/api.ts";

Deno.test("the package's api.ts is a copy of the function's", async () => {
  const read = (path: string) => Deno.readTextFile(new URL(`../../../${path}`, import.meta.url));
  const [original, copy] = ["supabase/functions/bridge/api.ts", "packages/websocket-bridge/src/api.ts"];
  assert.equal(await read(copy), await read(original), `run: cp ${original} ${copy}`);
});

/** The compiler holds this list against the type: a missing or an additional name is an error. */
const COLUMNS: Record<keyof CacheRow, "number" | "string" | "boolean" | "array"> = {
  user_key: "string",
  account_id: "number",
  trader_login: "number",
  is_demo: "boolean",
  is_connected: "boolean",
  status: "string",
  last_error: "string",
  currency: "string",
  balance: "number",
  equity: "number",
  unrealized_gross: "number",
  unrealized_net: "number",
  used_margin: "number",
  free_margin: "number",
  bonus: "number",
  margin_level: "number",
  position_count: "number",
  order_count: "number",
  positions: "array",
  orders: "array",
  balance_version: "number",
  event_at: "string",
  updated_at: "string",
  epoch: "number",
  seq: "number",
};

test("a row has the columns of the table, with the types that its JSON has", async (world) => {
  const columns = await world.sql`select column_name as name, data_type as type
    from information_schema.columns where table_schema = 'public' and table_name = 'ctrader_cache'`;
  const jsonTypes: Record<string, string> = {
    text: "string",
    "timestamp with time zone": "string",
    bigint: "number",
    integer: "number",
    numeric: "number",
    boolean: "boolean",
    jsonb: "array",
  };
  const actual = Object.fromEntries(columns.map(({ name, type }) => [name, jsonTypes[type] ?? type]));
  assert.deepEqual(actual, COLUMNS);
});
