//! TLS as this gateway speaks it: rustls on ring, versions 1.2 and 1.3, verification always on. Knows no
//! settings and no sockets.

use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{RootCertStore, version};

/// Why no TLS client can be made.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The text is not PEM, or holds no certificate.
    #[error("holds no PEM certificate that can be read")]
    NoCertificate,
    /// A certificate in it is broken.
    #[error("certificate {number} in it can't be used as a root")]
    BadCertificate {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// Neither the system nor the operator gives a root.
    #[error("there is no root certificate to trust: install the system's (ca-certificates), or name a file")]
    Empty,
}

/// The system's root certificates and those in `extra` (PEM).
///
/// # Errors
/// If `extra` can't be read whole, or if there is no root at all.
pub fn roots(extra: Option<&[u8]>) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    // What the system has and rustls can't use is passed over, as every other TLS client does.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = extra {
        let certificates = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .ok_or(RootsError::NoCertificate)?;
        for (at, certificate) in certificates.into_iter().enumerate() {
            roots.add(certificate).map_err(|source| RootsError::BadCertificate { number: at + 1, source })?;
        }
    }
    if roots.is_empty() { Err(RootsError::Empty) } else { Ok(roots) }
}

/// A TLS client that trusts `roots` and asks for HTTP/1.1.
#[must_use]
pub fn client(roots: RootCertStore) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .expect("ring has suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_root_is_added_and_a_broken_one_is_named() {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
        let with = roots(Some(own.as_bytes())).unwrap();
        let without = roots(None).map_or(0, |roots| roots.len());
        assert_eq!(with.len(), without + 1);
        assert!(matches!(roots(Some(b"nonsense")), Err(RootsError::NoCertificate)));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = roots(Some(format!("{own}{broken}").as_bytes())).unwrap_err();
        assert!(matches!(error, RootsError::BadCertificate { number: 2, .. }), "{error:?}");
    }
}
