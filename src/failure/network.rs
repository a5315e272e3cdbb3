//! Why a connection failed: name resolution, TCP or TLS. It is read from the error and its causes, for every
//! dependency alike, whatever library tried to connect.

use std::error::Error;
use std::io;

use rustls::CertificateError;

use super::Diagnosis;

/// Why a connection could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkFault {
    /// The host name cannot be resolved.
    Name,
    /// Nothing listens on the port.
    Refused,
    /// The host does not reply in time.
    Silent,
    /// There is no route to the host.
    Unreachable,
    /// The other end closed the connection.
    Closed,
    /// The certificate is not signed by a trusted root.
    Untrusted,
    /// The certificate is for another host name.
    WrongName,
    /// The certificate has expired or is not valid yet, by this machine's clock.
    Expired,
    /// The TLS handshake failed otherwise; often the other end does not speak TLS.
    NoTls,
}

impl NetworkFault {
    /// Returns the fault that caused an error, if it is one of these.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        let mut found = None;
        while let Some(error) = next {
            if let Some(fault) = Self::of_one(error) {
                found = Some(fault);
            }
            // `source` of an I/O error skips the error that it wraps.
            next = match error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
            {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        found
    }

    fn of_one(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(Self::of_tls(error));
        }
        let error = error.downcast_ref::<io::Error>()?;
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "kinds of I/O errors are non-exhaustive"
        )]
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Some(Self::Refused),
            io::ErrorKind::TimedOut => Some(Self::Silent),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Some(Self::Unreachable)
            }
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Some(Self::Closed),
            // The standard library has no kind for failed name resolution.
            _ if error.to_string().contains("lookup address") => Some(Self::Name),
            _ => None,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "errors of TLS are non-exhaustive"
    )]
    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Expired,
                _ => Self::Untrusted,
            },
            _ => Self::NoTls,
        }
    }

    /// Returns the cause and the fix. `endpoint` is host and port, `variable` is the variable that names them, and
    /// `trust` tells how to trust another root there.
    #[must_use]
    pub fn diagnosis(self, endpoint: &str, variable: &str, trust: &str) -> Diagnosis {
        let address = format!("correct host and port in {variable}, or start what should be there");
        let route = format!(
            "open the way to it (firewall, allowed addresses, IPv6), or correct {variable}"
        );
        let (cause, fix) = match self {
            Self::Name => ("the host name of {} is not known", address),
            Self::Refused => ("nothing listens at {} (connection refused)", address),
            Self::Silent => ("{} does not answer", route),
            Self::Unreachable => ("there is no way to {}", route),
            Self::Closed => ("{} hangs up", address),
            Self::Untrusted => ("the certificate of {} is not trusted", trust.to_owned()),
            Self::WrongName => (
                "the certificate of {} is for another name",
                format!("use the name it is for in {variable}"),
            ),
            Self::Expired => (
                "the certificate of {} is not valid at this machine's time",
                "set this machine's clock, or renew the certificate".to_owned(),
            ),
            Self::NoTls => (
                "{} does not speak TLS as we do",
                format!("correct scheme and port in {variable}"),
            ),
        };
        Diagnosis::new(cause.replace("{}", endpoint), fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_innermost_cause_counts() {
        let tls = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = Outer(io::Error::new(io::ErrorKind::InvalidData, tls));
        assert_eq!(NetworkFault::of(&wrapped), Some(NetworkFault::Untrusted));
        let refused = Outer(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(NetworkFault::of(&refused), Some(NetworkFault::Refused));
        assert_eq!(NetworkFault::of(&Outer(io::Error::other("odd"))), None);
    }
}
