//! https upstream: an operator's own root is trusted, a stranger's is not.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;
use tonic::Code;

use crate::support::{Gateway, Vendor, eventually, query};

fn acceptor() -> (TlsAcceptor, String) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key can be made");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("it is PKCS #8");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for them")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("the key is the certificate's");
    (TlsAcceptor::from(Arc::new(config)), own.cert.pem())
}

fn file(text: &str) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), text).expect("it can be written");
    let flag = format!("--upstream-ca-file={}", file.path().display());
    (file, flag)
}

#[tokio::test]
async fn a_root_of_the_operators_is_trusted() {
    let (acceptor, pem) = acceptor();
    let vendor = Vendor::start_tls(acceptor).await;
    let (_file, flag) = file(&pem);
    let gateway = Gateway::start(&vendor, &[&flag]).await;
    let caller = gateway.caller().await;
    for number in 0..5 {
        caller.query(query(&number.to_string())).await.unwrap();
    }
    // Bodies of tokens and answers came over connections that are used again.
    assert!(vendor.connections() <= 2, "{}", vendor.connections());
    gateway.stop().await;
}

#[tokio::test]
async fn a_strangers_certificate_is_no_connection() {
    let ((stranger, _), (_, trusted)) = (acceptor(), acceptor());
    let data = Vendor::start_tls(stranger).await;
    let logins = Vendor::start().await;
    let (_file, ca) = file(&trusted);
    let url = format!("--query-url={}/", data.url());
    let gateway = Gateway::start(&logins, &[&ca, &url, "--max-attempts=2"]).await;
    let told = gateway.caller().await.refused(query("7")).await;
    assert_eq!((told.code, &*told.reason), (Code::Unavailable, "UPSTREAM_UNREACHABLE"), "{}", told.text);
    assert!(told.text.contains("certificate"), "{}", told.text);
    assert_eq!(data.queries(), 0);
    eventually("both tries are counted", async || {
        let tries =
            r#"federation_upstream_requests_total{endpoint="queryTask",outcome="upstream_unreachable"}"#;
        gateway.metric(tries).await == 2.0
    })
    .await;
    gateway.stop().await;
}
