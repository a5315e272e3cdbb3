// One deadline for all that a request waits for.

import { Refusal } from "./errors.ts";

export class Deadline {
  readonly #at: number;

  constructor(ms: number) {
    this.#at = performance.now() + ms;
  }

  /** Milliseconds that are left, never less than 0. */
  left(): number {
    return Math.max(0, this.#at - performance.now());
  }

  /** Waits for an answer no longer than is left, or than `ms` if that is less. */
  async wait<T>(what: string, answer: Promise<T>, ms = Infinity): Promise<T> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new TimedOut(what)), Math.min(ms, this.left()));
    });
    // Whoever loses the race may still fail, with nobody listening.
    answer.catch(() => {});
    try {
      return await Promise.race([answer, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

export class TimedOut extends Refusal {
  override name = "TimedOut";

  constructor(what: string) {
    super(503, `${what} did not answer in time`, { "retry-after": "2" });
  }
}
