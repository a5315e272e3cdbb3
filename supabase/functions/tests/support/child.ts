// A program that a test started: its output is kept, shown when the test needs it, and its end is waited for.

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

  mustRun(): void {
    if (this.#ended) throw new Error(`the ${this.name} has ended:\n${this.output}`);
  }

  /** Waits until it has said so; answers all of its output. */
  async said(what: RegExp, ms = 20_000): Promise<string> {
    await eventually(`the ${this.name} to say ${what}`, () => {
      const said = what.test(this.output);
      if (!said) this.mustRun();
      return said;
    }, ms);
    return this.output;
  }

  signal(signal: Deno.Signal): void {
    this.mustRun();
    this.#process.kill(signal);
  }

  async kill(signal: Deno.Signal = "SIGKILL"): Promise<void> {
    if (!this.#ended) this.#process.kill(signal);
    await this.#read;
  }
}
