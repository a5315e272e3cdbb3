// Errors that become HTTP responses. The message of an `HttpError` is sent to the caller. The message of any
// other error is neither sent nor logged.

export type ErrorStatus = 400 | 401 | 403 | 404 | 405 | 409 | 413 | 415 | 503;

export class HttpError extends Error {
  override name = "HttpError";

  constructor(
    readonly status: ErrorStatus,
    message: string,
    readonly headers: Record<string, string> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
