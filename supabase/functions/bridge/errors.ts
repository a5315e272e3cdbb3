// Refusals: a status and a sentence that is fit for whoever asked. Anything else that is thrown is an
// error of ours, and its text stays inside.

export type RefusalStatus = 400 | 401 | 403 | 404 | 405 | 409 | 413 | 415 | 503;

export class Refusal extends Error {
  override name = "Refusal";

  constructor(
    readonly status: RefusalStatus,
    message: string,
    readonly headers: Record<string, string> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
