// A child process of a test. Its output is kept for the test, and its end is awaited.

import { eventually } from "./services.ts";

export class Child {
  readonly #process: Deno.ChildProcess;
  readonly #read: Promise<unknown>;
  #ended = false;
  output = "";

  constructor(readonly name: string, program: string, args: string[], env: Record<string, string>) {
    this.#process = new Deno.Command(program, {
      args,
      env,
      clearEnv: true,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const read = async (stream: ReadableStream<Uint8Array>) => {
      const decoder = new TextDecoder();
      for await (const chunk of stream) this.output += decoder.decode(chunk, { stream: true });
    };
    this.#read = Promise.all([
      read(this.#process.stdout),
      read(this.#process.stderr),
      this.#process.status.then(() => this.#ended = true),
    ]);
  }

  assertRunning(): void {
    if (this.#ended) throw new Error(`the ${this.name} has ended:\n${this.output}`);
  }

  /** Waits until the output matches. Returns all of the output. */
  async waitForOutput(pattern: RegExp, ms = 20_000): Promise<string> {
    await eventually(`the ${this.name} to print ${pattern}`, () => {
      const matches = pattern.test(this.output);
      if (!matches) this.assertRunning();
      return matches;
    }, ms);
    return this.output;
  }

  signal(signal: Deno.Signal): void {
    this.assertRunning();
    this.#process.kill(signal);
  }

  async kill(signal: Deno.Signal = "SIGKILL"): Promise<void> {
    if (!this.#ended) this.#process.kill(signal);
    await this.#read;
  }
}
