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
/** What takes longer to open is not waited for by those who come later: they open another. */
const OPENING_MS = 1200;
/** When a connection that is given up is not closed in good order, it is cut. */
const CLOSING_MS = 1000;

export class Broker {
  readonly #url: string;
  #link: Link | undefined;
  #opening: { link: Promise<Link>; since: number } | undefined;

  /** Those that were given up and are not closed yet. */
  readonly #closing = new Set<Promise<void>>();

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
    const opening = this.#opening?.link;
    const link = this.#link;
    this.#link = this.#opening = undefined;
    await Promise.all([link?.close(), opening?.then((link) => link.close(), () => {}), ...this.#closing]);
  }

  async #attempt(command: Command, deadline: Deadline, ms: number): Promise<void> {
    let used: Link | undefined;
    try {
      const work = this.#open().then((link) => {
        used = link;
        return link.publish(command);
      });
      await deadline.wait("the command queue", work, ms);
    } catch (error) {
      // What failed is not warm any more. A refused command says nothing against the connection, and
      // another request may have opened a new one by now.
      if (used !== undefined && !(error instanceof NotTaken)) {
        if (this.#link === used) this.#link = undefined;
        this.#giveUp(used);
      }
      throw error;
    }
  }

  #giveUp(link: Link): void {
    const closed = link.close().finally(() => this.#closing.delete(closed));
    this.#closing.add(closed);
  }

  /** Requests that come together share one connection. */
  #open(): Promise<Link> {
    if (this.#link?.usable()) return Promise.resolve(this.#link);
    const now = performance.now();
    if (this.#opening !== undefined && now - this.#opening.since < OPENING_MS) return this.#opening.link;
    const link = Link.open(this.#url).then(
      (link) => {
        if (this.#opening !== opening) {
          this.#giveUp(link);
          throw new Error("the connection came too late");
        }
        this.#opening = undefined;
        this.#link = link;
        return link;
      },
      (error) => {
        if (this.#opening === opening) this.#opening = undefined;
        throw error;
      },
    );
    const opening = this.#opening = { link, since: now };
    return link;
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

  /** In good order, or else by cutting it. */
  close(): Promise<void> {
    this.#end();
    // Not part of the library's types; it leaves both as they are when the answer to its close is not coming.
    const { stream, heartbeater } = this.#model.connection as unknown as {
      stream?: { destroy(): void };
      heartbeater?: { clear(): void };
    };
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        heartbeater?.clear();
        stream?.destroy();
        resolve();
      }, CLOSING_MS);
      this.#model.close().catch(() => {}).then(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #end(): void {
    this.#ended = true;
    for (const reject of this.#pending) reject(new Error("the connection has ended"));
    this.#pending.clear();
  }
}
