// Serves the page for the demo, together with the edge function, and prints the page's address.
//
//   deno run -A serve.ts USER     with DATABASE_URL and AMQP_URL
//
// The sign-in form is filled with a token of that user, which anybody on this machine can read. The secret that
// signs the token exists in this process only.

import { SignJWT } from "jose";
import { createHandler } from "../../supabase/functions/bridge/bridge.ts";
import { startFakeSupabase } from "./fake_supabase.ts";

const jwtSecret = crypto.randomUUID() + crypto.randomUUID();
const sign = (claims: Record<string, string>) =>
  new SignJWT(claims).setProtectedHeader({ alg: "HS256" }).setIssuedAt().setExpirationTime("12h")
    .sign(new TextEncoder().encode(jwtSecret));

const variables: Record<string, string | undefined> = {
  DATABASE_URL: Deno.env.get("DATABASE_URL"),
  AMQP_URL: Deno.env.get("AMQP_URL"),
  JWT_SECRET: jwtSecret,
};
const [user = "demo-1@example.org"] = Deno.args;
const server = await startFakeSupabase({
  databaseUrl: variables.DATABASE_URL ?? "",
  jwtSecret,
  apiKey: await sign({ role: "anon" }),
  token: await sign({ role: "authenticated", sub: crypto.randomUUID(), email: user }),
  bridge: createHandler((name) => variables[name]),
});
console.log(server.origin);
