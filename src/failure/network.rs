//! What a failed connection was about, read from the error and its causes: name, TCP or TLS. The
//! same for every dependency, whatever library tried to connect.

use std::error::Error;
use std::io;

use rustls::CertificateError;

use super::Diagnosis;

/// Why a connection did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkFault {
    /// The name is not known.
    Name,
    /// Nobody listens there.
    Refused,
    /// Nobody answers.
    Silent,
    /// There is no way to it.
    Unreachable,
    /// The other end hung up.
    Closed,
    /// Its certificate is signed by nobody whom we trust.
    Untrusted,
    /// Its certificate is for another name.
    WrongName,
    /// Its certificate is over, or not begun, by this machine's clock.
    Expired,
    /// It does not speak TLS.
    NoTls,
}

impl NetworkFault {
    /// The fault behind an error, if it is one of these.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        let mut found = None;
        while let Some(error) = next {
            if let Some(fault) = Self::of_one(error) {
                found = Some(fault);
            }
            // An I/O error gives the causes of what it wraps, and not that itself.
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
            // The standard library has no kind for it.
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

    /// The same in words. `place` is host and port, `variable` what names them, and `trust` how
    /// another root is trusted there.
    #[must_use]
    pub fn diagnosis(self, place: &str, variable: &str, trust: &str) -> Diagnosis {
        let address = format!("correct host and port in {variable}, or start what should be there");
        let way = format!(
            "open the way to it (firewall, allowed addresses, IPv6), or correct {variable}"
        );
        let (cause, fix) = match self {
            Self::Name => ("the host name of {} is not known", address),
            Self::Refused => ("nothing listens at {} (connection refused)", address),
            Self::Silent => ("{} does not answer", way),
            Self::Unreachable => ("there is no way to {}", way),
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
        Diagnosis::new(cause.replace("{}", place), fix)
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
