// Publishes commands: one warm connection with a channel in confirm mode, one retry on a fresh one.
//
// A command counts as taken once the broker has confirmed it, and it was not returned as unroutable. It
// keeps its id over the retry: to apply a command twice changes nothing.

import { Buffer } from "node:buffer";
import amqp, { type ChannelModel, type ConfirmChannel } from "amqplib";
import { type Command, commandJson } from "./command.ts";
import type { Deadline } from "./deadline.ts";
import { Refusal } from "./errors.ts";

const EXCHANGE = "bridge.commands";

/** A warm connection may be dead without knowing: then enough has to be left for a fresh one. */
const WARM_MS = 1200;

export class Broker {
  readonly #url: string;
  #link: Link | undefined;
  #opening: Promise<Link> | undefined;

  constructor(url: string) {
    this.#url = url;
  }

  /** Comes back once the broker has the command in a queue; else refuses with 503. */
  async publish(command: Command, deadline: Deadline): Promise<void> {
    const warm = this.#link;
    try {
      try {
        await this.#attempt(command, deadline, warm === undefined ? Infinity : WARM_MS);
      } catch (error) {
        if (error instanceof NotTaken || deadline.left() === 0) throw error;
        await this.#attempt(command, deadline, Infinity);
      }
    } catch (error) {
      if (error instanceof NotTaken) throw error;
      throw new Refusal(503, "the command queue cannot be reached; nothing was changed", {
        "retry-after": "2",
      }, { cause: error });
    }
  }

  /** Whether there is a connection, or one can be had. */
  async reachable(deadline: Deadline, ms: number): Promise<boolean> {
    try {
      await deadline.wait("the command queue", this.#open(), ms);
      return true;
    } catch {
      return false;
    }
  }

  async close(): Promise<void> {
    const opening = this.#opening;
    this.#drop();
    await opening?.then((link) => link.close(), () => {});
  }

  async #attempt(command: Command, deadline: Deadline, ms: number): Promise<void> {
    try {
      const work = this.#open().then((link) => link.publish(command));
      await deadline.wait("the command queue", work, ms);
    } catch (error) {
      // What failed is not warm any more. A refused command says nothing against the connection.
      if (!(error instanceof NotTaken)) this.#drop();
      throw error;
    }
  }

  /** Requests that come together share one connection. */
  #open(): Promise<Link> {
    if (this.#link?.usable()) return Promise.resolve(this.#link);
    if (this.#opening === undefined) {
      const opening = Link.open(this.#url).then((link) => {
        if (this.#opening !== opening) {
          // It was given up meanwhile.
          void link.close();
          throw new Error("the connection came too late");
        }
        this.#link = link;
        return link;
      });
      opening.catch(() => {
        if (this.#opening === opening) this.#opening = undefined;
      });
      this.#opening = opening;
    }
    return this.#opening;
  }

  #drop(): void {
    void this.#link?.close();
    this.#link = undefined;
    this.#opening = undefined;
  }
}

/** The broker is there, and did not take the command. */
class NotTaken extends Refusal {
  override name = "NotTaken";
}

/** One connection and its channel. */
class Link {
  readonly #model: ChannelModel;
  readonly #channel: ConfirmChannel;
  readonly #returned = new Set<string>();
  readonly #pending = new Set<(error: Error) => void>();
  #ended = false;

  private constructor(model: ChannelModel, channel: ConfirmChannel) {
    this.#model = model;
    this.#channel = channel;
    const ended = () => this.#end();
    model.on("close", ended);
    channel.on("close", ended);
    // Without a listener they would end the isolate. Each is followed by a close.
    model.on("error", ended);
    channel.on("error", ended);
    // Comes before the confirm of the same message.
    channel.on("return", (message) => this.#returned.add(String(message.properties.messageId)));
  }

  static async open(url: string): Promise<Link> {
    const model = await amqp.connect(url, {
      noDelay: true,
      // The caller gives up earlier; this one frees the socket.
      timeout: 5000,
      clientProperties: { connection_name: "edge function bridge" },
    });
    model.on("error", () => {});
    return new Link(model, await model.createConfirmChannel());
  }

  usable(): boolean {
    return !this.#ended;
  }

  publish(command: Command): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#ended) throw new Error("the connection has ended");
      this.#pending.add(reject);
      const confirmed = (error: unknown) => {
        this.#pending.delete(reject);
        const returned = this.#returned.delete(command.id);
        if (this.#ended) {
          reject(new Error("the connection ended before the confirm"));
        } else if (error) {
          reject(new NotTaken(503, "the command queue is full", { "retry-after": "10" }));
        } else if (returned) {
          reject(new NotTaken(503, "no worker has set up the command queue yet"));
        } else {
          resolve();
        }
      };
      this.#channel.publish(EXCHANGE, command.command, Buffer.from(commandJson(command)), {
        persistent: true,
        mandatory: true,
        contentType: "application/json",
        messageId: command.id,
      }, confirmed);
    });
  }

  close(): Promise<void> {
    this.#end();
    return this.#model.close().catch(() => {});
  }

  #end(): void {
    this.#ended = true;
    for (const reject of this.#pending) reject(new Error("the connection has ended"));
    this.#pending.clear();
  }
}
