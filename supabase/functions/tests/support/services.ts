// Where the servers and programs are. Without them a test is not skipped: it fails, and names the command to run.

export function required(name: string): string {
  const value = Deno.env.get(name);
  if (!value) throw new Error(`${name} is not set: run scripts/test-app`);
  return value;
}

/** Polls until the condition holds, and returns its value. Fails after `ms`. */
export async function eventually<T>(
  what: string,
  check: () => Promise<T | false | undefined | null> | T | false | undefined | null,
  ms = 20_000,
): Promise<T> {
  const until = performance.now() + ms;
  let last: unknown;
  while (true) {
    try {
      const value = await check();
      if (value) return value;
      last = value;
    } catch (error) {
      last = error;
    }
    if (performance.now() > until) throw new Error(`waited ${ms} ms for ${what}; last seen: ${last}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Returns a port that nothing listens on. Another program may still take it before it is used. */
export function freePort(): number {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  return port;
}
