//! What goes wrong below HTTP: no name, no connection, no TLS, another's certificate.

use std::sync::Arc;

use federation_gateway::settings::QUERY_PATH;
use federation_gateway::task::failure::Reason;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;
use tonic::Code;

use super::row::{AT_FIRST, Cause, Row};
use crate::support::{Front, Mode, Vendor};

/// Not in the time that a try has. What goes well before and after it must go well within that time.
const IMPATIENT: &[&str] = &["--attempt-timeout=4s", "--max-attempts=2"];
const HURRIED: &[&str] = &["--connect-timeout=4s", "--max-attempts=2"];
/// A label of more than 63 letters is nobody's name, and no server is asked for it (RFC 1035, 2.3.4).
const NOWHERE: &[&str] = &[
    "--allow-plaintext-upstream=true",
    "--query-url=http://a-name-that-is-longer-than-any-label-of-a-name-on-the-internet-may-be.invalid/queryTask",
];

/// What fails.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The host does this instead of relaying.
    Mode(Mode),
    /// The same where TLS is spoken.
    OfTls(Mode),
    /// Another's certificate is shown, by a host that answers well.
    Certificate(Flaw),
    /// The name is nobody's.
    NoName,
}

/// What is wrong with a certificate whose root is trusted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flaw {
    OtherName,
    Expired,
    NotYet,
}

/// A key with its certificate for `localhost`, flawed or not: what takes TLS with it, and the root to trust.
pub(super) fn identity(flaw: Option<Flaw>) -> (TlsAcceptor, String) {
    let name = if matches!(flaw, Some(Flaw::OtherName)) { "elsewhere.example" } else { "localhost" };
    let mut params = CertificateParams::new([name.to_owned()]).expect("it is a name");
    match flaw {
        Some(Flaw::Expired) => params.not_after = date_time_ymd(2020, 1, 1),
        Some(Flaw::NotYet) => params.not_before = date_time_ymd(3000, 1, 1),
        Some(Flaw::OtherName) | None => {}
    }
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = params.self_signed(&key).expect("it can be signed");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("it is PKCS #8");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("the key is the certificate's");
    (TlsAcceptor::from(Arc::new(config)), certificate.pem())
}

/// The hello of a server that knows nothing newer than TLS 1.1 (RFC 4346, 7.4.1.3).
fn hello_of_tls_1_1() -> Vec<u8> {
    let body = [&[3, 2][..], &[7; 32], &[0, 0xc0, 0x13, 0]].concat();
    let length = u8::try_from(body.len()).expect("it is short");
    [&[22, 3, 2, 0, length + 4, 2, 0, 0, length], &*body].concat()
}

/// All that can fail below HTTP.
pub(super) fn hosts() -> Vec<Row> {
    let row = |what: &str, fault, says| {
        Row::new(what, Cause::Host(fault), Code::Unavailable, Reason::UpstreamUnreachable).tries(3).says(says)
    };
    let http = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec();
    // protocol_version, as servers say it that look before they answer.
    let alert = vec![21, 3, 2, 0, 2, 2, 70];
    let certificate = |flaw| Fault::Certificate(flaw);
    const CERTIFICATE: &str = "certificate is not valid";
    vec![
        row("nobody listens", Fault::Mode(Mode::Refuse), "no connection"),
        row("reset at once", Fault::Mode(Mode::Reset), ""),
        row("never a word", Fault::Mode(Mode::Silent), "within 4s").flags(IMPATIENT).tries(2),
        row("a full queue", Fault::Mode(Mode::Full), "within connect-timeout").flags(HURRIED).tries(2),
        row("no such name", Fault::NoName, "no connection").flags(NOWHERE).forms(AT_FIRST),
        row("TLS: nobody listens", Fault::OfTls(Mode::Refuse), "no connection"),
        row("TLS: reset at once", Fault::OfTls(Mode::Reset), "no connection"),
        row("TLS: never a word", Fault::OfTls(Mode::Silent), "within 4s").flags(IMPATIENT).tries(2),
        row("TLS: plain HTTP", Fault::OfTls(Mode::Say(http)), "TLS failed"),
        row("TLS: nothing newer than 1.1", Fault::OfTls(Mode::Say(hello_of_tls_1_1())), "TLS failed"),
        row("TLS: a refusal", Fault::OfTls(Mode::Say(alert)), "TLS failed"),
        row("TLS: another's name", certificate(Flaw::OtherName), CERTIFICATE),
        row("TLS: expired", certificate(Flaw::Expired), CERTIFICATE),
        row("TLS: not yet valid", certificate(Flaw::NotYet), CERTIFICATE),
    ]
}

/// A vendor behind a host that can fail.
pub(super) struct Hosted {
    pub(super) vendor: Vendor,
    front: Front,
    fault: Fault,
    /// Where the flawed certificate is shown.
    other: Option<Vendor>,
    roots: tempfile::NamedTempFile,
}

impl Hosted {
    pub(super) async fn start(fault: &Fault) -> Self {
        let roots = tempfile::NamedTempFile::new().expect("a file can be made");
        let (vendor, other) = match fault {
            Fault::Mode(_) | Fault::NoName => (Vendor::start().await, None),
            Fault::OfTls(_) | Fault::Certificate(_) => {
                let (good, mut pem) = identity(None);
                let mut other = None;
                if let Fault::Certificate(flaw) = fault {
                    let (flawed, of_other) = identity(Some(*flaw));
                    // Nothing but the flaw is wrong with it.
                    pem.push_str(&of_other);
                    other = Some(Vendor::start_tls(flawed).await);
                }
                std::fs::write(roots.path(), pem).expect("it can be written");
                (Vendor::start_tls(good).await, other)
            }
        };
        let front = Front::start(vendor.addr());
        Self { vendor, front, fault: fault.clone(), other, roots }
    }

    /// What makes a gateway ask through the host; logins go past it.
    pub(super) fn flags(&self) -> Vec<String> {
        let port = self.front.port();
        match self.fault {
            Fault::Mode(_) => vec![format!("--query-url=http://localhost:{port}{QUERY_PATH}")],
            Fault::OfTls(_) | Fault::Certificate(_) => vec![
                format!("--query-url=https://localhost:{port}{QUERY_PATH}"),
                format!("--upstream-ca-file={}", self.roots.path().display()),
            ],
            // The row's own.
            Fault::NoName => Vec::new(),
        }
    }

    pub(super) async fn fail(&mut self) {
        let mode = match (&self.fault, &self.other) {
            (Fault::Mode(mode) | Fault::OfTls(mode), _) => mode.clone(),
            (Fault::Certificate(_), Some(other)) => Mode::Relay(other.addr()),
            (Fault::Certificate(_), None) => unreachable!("there is one"),
            (Fault::NoName, _) => return,
        };
        self.front.turn(mode).await;
    }

    /// Makes it work again; tells whether that can be.
    pub(super) async fn mend(&mut self) -> bool {
        self.front.turn(Mode::Relay(self.vendor.addr())).await;
        !matches!(self.fault, Fault::NoName)
    }
}
