// Serves the page for the demo, with the function and all it needs behind it, and prints its address.
//
//   deno run -A serve.ts USER     with DATABASE_URL and AMQP_URL
//
// The page is given a token of that user's, for whoever is on this machine: a demo has nothing to hide. The
// secret that signs it lives as long as this process.

import { SignJWT } from "jose";
import { serve } from "../../supabase/functions/bridge/bridge.ts";
import { standIn } from "./stand_in.ts";

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
const server = await standIn({
  databaseUrl: variables.DATABASE_URL ?? "",
  jwtSecret,
  apiKey: await sign({ role: "anon" }),
  token: await sign({ role: "authenticated", sub: crypto.randomUUID(), email: user }),
  bridge: serve((name) => variables[name]),
});
console.log(server.origin);
