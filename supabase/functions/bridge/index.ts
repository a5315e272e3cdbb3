// The entry point of the edge function `bridge`. The routes are in bridge.ts.

import { createHandler } from "./bridge.ts";

Deno.serve(createHandler((name) => Deno.env.get(name)));
