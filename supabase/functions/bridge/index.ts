// The edge function `bridge`, as Supabase's runtime starts it. What it does is in bridge.ts.

import { serve } from "./bridge.ts";

Deno.serve(serve((name) => Deno.env.get(name)));
