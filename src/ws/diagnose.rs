//! Why a socket could not be opened, and how an operator can fix it.

use tokio_tungstenite::tungstenite::Error;

use super::dial::DialError;
use crate::failure::network::NetworkFault;
use crate::failure::{Diagnosis, with_causes};

/// Returns why dialling `endpoint` (host and port) failed and how to fix it. `variable` is the variable that names
/// the endpoint.
#[must_use]
pub fn diagnose(error: &DialError, endpoint: &str, variable: &str) -> Diagnosis {
    let DialError::Failed(cause) = error else {
        return NetworkFault::Silent.diagnosis(endpoint, variable, "");
    };
    let trust = "name a PEM file with its root in CTRADER_CA_FILE";
    if let Some(fault) = NetworkFault::of(cause.as_ref()) {
        return fault.diagnosis(endpoint, variable, trust);
    }
    let fix = format!("correct {variable}");
    if let Error::Http(response) = cause.as_ref() {
        let status = response.status();
        return Diagnosis::new(
            format!("{endpoint} answers HTTP {status} instead of a WebSocket"),
            fix,
        );
    }
    if matches!(cause.as_ref(), Error::Protocol(_)) {
        return Diagnosis::new(
            format!("what listens at {endpoint} speaks no WebSocket"),
            fix,
        );
    }
    Diagnosis::new(with_causes(error), fix)
}
