// One deadline for everything that a request waits for.

import { HttpError } from "./errors.ts";

export class Deadline {
  readonly #at: number;

  constructor(ms: number) {
    this.#at = performance.now() + ms;
  }

  /** Returns the milliseconds that are left, never less than 0. */
  remainingMs(): number {
    return Math.max(0, this.#at - performance.now());
  }

  /**
   * Waits for `work` until the deadline, or for `limitMs` if that is sooner. Rejects with a `TimeoutError`
   * that names `what` did not answer.
   */
  async wait<T>(what: string, work: Promise<T>, limitMs = Infinity): Promise<T> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const timeout = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new TimeoutError(what)), Math.min(limitMs, this.remainingMs()));
    });
    // The work may still fail after the timeout, when nobody handles its error any more.
    work.catch(() => {});
    try {
      return await Promise.race([work, timeout]);
    } finally {
      clearTimeout(timer);
    }
  }
}

export class TimeoutError extends HttpError {
  override name = "TimeoutError";

  constructor(what: string) {
    super(503, `${what} did not answer in time`, { "retry-after": "2" });
  }
}
