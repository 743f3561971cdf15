//! A client of the gateway's side door.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One GET over a connection of its own; status 0 if nobody answers.
pub(crate) async fn http_get(address: &str, path: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return (0, String::new()) };
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    if stream.write_all(request.as_bytes()).await.is_err() || stream.read_to_string(&mut text).await.is_err()
    {
        return (0, text);
    }
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}
