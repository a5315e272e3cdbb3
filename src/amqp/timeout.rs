//! Time limits: every wait for the broker has one.

use std::time::Duration;

use super::error::AmqpError;

/// How long the broker may take to reply to one request.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits for `future` for at most `limit`. `what` completes "the broker did not …".
pub(super) async fn within<T, E: Into<AmqpError>>(
    limit: Duration,
    what: &'static str,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, AmqpError> {
    match tokio::time::timeout(limit, future).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(AmqpError::Timeout { what, after: limit }),
    }
}

/// Waits for the reply to one request for at most [`REPLY_TIMEOUT`].
pub(super) async fn reply<T>(
    what: &'static str,
    request: impl Future<Output = lapin::Result<T>>,
) -> Result<T, AmqpError> {
    within(REPLY_TIMEOUT, what, request).await
}
