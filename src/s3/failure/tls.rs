//! Sorts the errors of TLS handshakes.

use rustls::{AlertDescription as Alert, CertificateError, Error as TlsError};

use super::FailureKind;

/// Returns the kind, a code, and a sentence for a permanent TLS error, which every new connection
/// would meet again, or `None` for a transient one.
pub(in super::super) fn permanent(error: &TlsError) -> Option<(FailureKind, &'static str, String)> {
    let tls = |message: &str| Some((FailureKind::Tls, "TLS", message.to_owned()));
    match error {
        TlsError::InvalidCertificate(fault) => Some(certificate(fault)),
        TlsError::NoCertificatesPresented => tls("the server shows no certificate"),
        TlsError::InvalidMessage(_) => tls("the server does not speak TLS"),
        TlsError::PeerIncompatible(_) => {
            tls("the server and s3haul have no TLS version or cipher in common")
        }
        TlsError::AlertReceived(alert) => match alert {
            Alert::InternalError | Alert::UserCanceled | Alert::CloseNotify => None,
            Alert::CertificateRequired => tls("the server asks for a client certificate"),
            Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity => {
                tls("the server and s3haul have no TLS version or cipher in common")
            }
            Alert::UnrecognisedName => tls("the server does not know the host name of the URL"),
            alert => tls(&format!(
                "the server ended the TLS handshake (alert {})",
                u8::from(*alert)
            )),
        },
        _ => None,
    }
}

fn certificate(fault: &CertificateError) -> (FailureKind, &'static str, String) {
    let message = match fault {
        // A signature is also wrong if a trusted CA has the name of the issuer, and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let message = "no CA that this machine trusts signed the server's certificate";
            return (
                FailureKind::Certificate(None),
                "certificate",
                message.to_owned(),
            );
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired, or this machine's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet, or this machine's clock is wrong"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another host name"
        }
        CertificateError::Revoked => "the server's certificate is revoked",
        // The verifier has no type for this.
        CertificateError::Other(fault) if fault.to_string().contains("CaUsedAsEndEntity") => {
            "the server's certificate is a CA certificate; give the server one that the CA signed"
        }
        fault => {
            let message = format!("the server's certificate cannot be verified: {fault}");
            return (FailureKind::Tls, "certificate", message);
        }
    };
    (FailureKind::Tls, "certificate", message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_alerts_do_not_pass_and_broken_handshakes_may() {
        let kind = |error: &TlsError| permanent(error).map(|(kind, ..)| kind);
        let bad = |fault| kind(&TlsError::InvalidCertificate(fault));
        for fault in [
            CertificateError::UnknownIssuer,
            CertificateError::BadSignature,
        ] {
            assert_eq!(bad(fault), Some(FailureKind::Certificate(None)));
        }
        for fault in [
            CertificateError::Expired,
            CertificateError::BadEncoding,
            CertificateError::InvalidPurpose,
        ] {
            assert_eq!(bad(fault.clone()), Some(FailureKind::Tls), "{fault:?}");
        }
        assert_eq!(
            kind(&TlsError::AlertReceived(Alert::CertificateRequired)),
            Some(FailureKind::Tls)
        );
        assert_eq!(kind(&TlsError::AlertReceived(Alert::InternalError)), None);
        assert_eq!(kind(&TlsError::General("broken".to_owned())), None);
    }

    #[test]
    fn the_message_names_the_fault_of_the_certificate() {
        let message = |fault| {
            let (.., message) = permanent(&TlsError::InvalidCertificate(fault)).unwrap();
            message
        };
        let other = rustls::OtherError(std::sync::Arc::new(std::io::Error::other(
            "CaUsedAsEndEntity",
        )));
        assert!(message(CertificateError::Other(other)).contains("is a CA certificate"));
        let bad = message(CertificateError::BadEncoding);
        assert!(bad.ends_with("cannot be verified: BadEncoding"), "{bad}");
    }
}
