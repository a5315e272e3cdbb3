//! Why a socket could not be opened, in an operator's words.

use tokio_tungstenite::tungstenite::Error;

use super::dial::DialError;
use crate::failure::network::NetworkFault;
use crate::failure::{Diagnosis, with_causes};

/// Why dialling `place` (host and port) failed, and what to do about it; `variable` names it.
#[must_use]
pub fn diagnose(error: &DialError, place: &str, variable: &str) -> Diagnosis {
    let DialError::Failed(cause) = error else {
        return NetworkFault::Silent.diagnosis(place, variable, "");
    };
    let trust = "name a PEM file with its root in CTRADER_CA_FILE";
    if let Some(fault) = NetworkFault::of(cause.as_ref()) {
        return fault.diagnosis(place, variable, trust);
    }
    let fix = format!("correct {variable}");
    if let Error::Http(answer) = cause.as_ref() {
        let status = answer.status();
        return Diagnosis::new(
            format!("{place} answers HTTP {status} instead of a WebSocket"),
            fix,
        );
    }
    if matches!(cause.as_ref(), Error::Protocol(_)) {
        return Diagnosis::new(format!("what listens at {place} speaks no WebSocket"), fix);
    }
    Diagnosis::new(with_causes(error), fix)
}
