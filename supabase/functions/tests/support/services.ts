// Where the servers and programs are. Without them a test fails with the command to run; none is skipped.

export function required(name: string): string {
  const value = Deno.env.get(name);
  if (!value) throw new Error(`${name} is not set: run scripts/test-app`);
  return value;
}

/** Waits for a condition, looking again and again until the deadline; answers what was found. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | false | undefined | null> | T | false | undefined | null,
  ms = 20_000,
): Promise<T> {
  const until = performance.now() + ms;
  let last: unknown;
  while (true) {
    try {
      const found = await look();
      if (found) return found;
      last = found;
    } catch (error) {
      last = error;
    }
    if (performance.now() > until) throw new Error(`waited ${ms} ms for ${what}; last seen: ${last}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A port that nobody listens on. Somebody may take it before it is used: then try again. */
export function freePort(): number {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  return port;
}
