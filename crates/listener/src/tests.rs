use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::routing::get;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Far below [`GRACE`]: who finishes within it did not wait for the bound.
const PROMPTLY: Duration = Duration::from_secs(5);

fn bound() -> Bound {
    Bound::bind("test", ANY_PORT).unwrap()
}

fn certificate() -> (Certificate, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    (Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap(), made.cert.der().clone())
}

fn client(trusted: &[&CertificateDer<'static>], protocols: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add((*certificate).clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn handshake(client: &TlsConnector, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    client.connect(ServerName::try_from("localhost").unwrap(), TcpStream::connect(address).await?).await
}

/// Asks over a connection that stays open, and reads the one answer: its status line.
async fn ask<S>(stream: &mut S, path: &str) -> io::Result<String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
    answer(stream).await
}

async fn answer<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut read = Vec::new();
    // The answers here have no body, so the empty line ends them.
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&read).lines().next().unwrap_or_default().to_owned())
}

fn nothing() -> Router {
    Router::new().route("/", get(|| async {}))
}

#[tokio::test]
async fn a_port_that_is_taken_fails_the_bind_by_name_and_reason() {
    let first = bound();
    let error = Bound::bind("webhook", first.local_addr()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the webhook listener cannot bind {}: another process listens there already", first.local_addr())
    );
    let error = Bound::bind("panel", "192.0.2.1:80".parse().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "the panel listener cannot bind 192.0.2.1:80: it is not an address of this machine");
}

#[tokio::test]
async fn a_handler_learns_who_calls() {
    let bound = bound();
    let address = bound.local_addr();
    let router = Router::new().route(
        "/",
        get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
            if peer.ip().is_loopback() && peer.port() != 0 {
                axum::http::StatusCode::NO_CONTENT
            } else {
                axum::http::StatusCode::IM_A_TEAPOT
            }
        }),
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(bound.serve(router, CancellationToken::new()));

    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut stream, "/").await.unwrap(), "HTTP/1.1 204 No Content");
}

#[tokio::test]
async fn at_stop_a_request_under_way_is_answered_and_a_new_connection_is_refused() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let router = Router::new().route(
        "/slow",
        get({
            let (entered, leave) = (entered.clone(), leave.clone());
            move || async move {
                entered.notify_one();
                let _ = leave.acquire().await;
            }
        }),
    );
    let (bound, stop) = (bound(), CancellationToken::new());
    let address = bound.local_addr();
    let mut tasks = JoinSet::new();
    tasks.spawn(bound.serve(router, stop.clone()));

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    entered.notified().await;
    stop.cancel();
    timeout(PROMPTLY, async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the socket is closed at once");
    assert!(tasks.try_join_next().is_none(), "the listener waits for its request");

    leave.add_permits(1);
    assert_eq!(answer(&mut stream).await.unwrap(), "HTTP/1.1 200 OK");
    timeout(PROMPTLY, tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn clients_that_ask_nothing_do_not_hold_up_the_stop() {
    let (served, _) = certificate();
    let (plain, tls, stop) = (bound(), bound(), CancellationToken::new());
    let (plain_address, tls_address) = (plain.local_addr(), tls.local_addr());
    let mut tasks = JoinSet::new();
    tasks.spawn(plain.serve(nothing(), stop.clone()));
    tasks.spawn(tls.serve_tls(nothing(), Arc::new(Tls::new(&served).unwrap()), stop.clone()));

    let _silent = TcpStream::connect(plain_address).await.unwrap();
    let mut before_hello = TcpStream::connect(tls_address).await.unwrap();
    // A TLS record's head, and never its body.
    before_hello.write_all(&[22, 3, 1]).await.unwrap();
    // Asked once and idle since. Connections are accepted in order: once it is answered, the silent one is in too.
    let mut idle = TcpStream::connect(plain_address).await.unwrap();
    assert_eq!(ask(&mut idle, "/").await.unwrap(), "HTTP/1.1 200 OK");

    stop.cancel();
    while let Some(ended) = timeout(PROMPTLY, tasks.join_next()).await.expect("stops at once") {
        ended.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off_when_the_grace_is_over() {
    let entered = Arc::new(Notify::new());
    let router = Router::new().route(
        "/",
        get({
            let entered = entered.clone();
            move || async move {
                entered.notify_one();
                std::future::pending::<()>().await;
            }
        }),
    );
    let (bound, stop) = (bound(), CancellationToken::new());
    let address = bound.local_addr();
    let mut tasks = JoinSet::new();
    tasks.spawn(bound.serve(router, stop.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    entered.notified().await;

    tokio::time::pause();
    let began = Instant::now();
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!((GRACE..GRACE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "closed without an answer");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_finish_the_handshake_or_the_first_head_is_closed() {
    let (served, _) = certificate();
    let (plain, tls) = (bound(), bound());
    let cases = [
        ("no handshake", tls.local_addr(), &[22, 3, 1][..], HANDSHAKE_MAX),
        ("no request", plain.local_addr(), b"", FIRST_REQUEST_MAX),
        ("half a head", plain.local_addr(), b"GET / HTTP/1.1\r\nhost: loc", FIRST_REQUEST_MAX),
    ];
    let mut tasks = JoinSet::new();
    tasks.spawn(plain.serve(nothing(), CancellationToken::new()));
    tasks.spawn(tls.serve_tls(nothing(), Arc::new(Tls::new(&served).unwrap()), CancellationToken::new()));
    for (case, address, sent, bound) in cases {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let began = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(began.elapsed() <= bound * 2, "{case}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn http_2_is_what_a_client_gets_that_speaks_it() {
    let (served, root) = certificate();
    let bound = bound();
    let address = bound.local_addr();
    let mut tasks = JoinSet::new();
    tasks.spawn(bound.serve_tls(nothing(), Arc::new(Tls::new(&served).unwrap()), CancellationToken::new()));
    for (spoken, agreed) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let stream = handshake(&client(&[&root], spoken), address).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
        assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_swapped_under_load_fails_no_handshake_and_breaks_no_connection() {
    const CLIENTS: usize = 4;
    const HANDSHAKES: usize = 60;
    const SWAP_EVERY: usize = 10;

    let ((first, first_root), (second, second_root)) = (certificate(), certificate());
    let tls = Arc::new(Tls::new(&first).unwrap());
    let (bound, stop) = (bound(), CancellationToken::new());
    let address = bound.local_addr();
    let mut server = JoinSet::new();
    server.spawn(bound.serve_tls(nothing(), tls.clone(), stop.clone()));

    let trusting = client(&[&first_root, &second_root], &["http/1.1"]);
    let mut held = handshake(&trusting, address).await.unwrap();
    assert_eq!(ask(&mut held, "/").await.unwrap(), "HTTP/1.1 200 OK");

    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (trusting, tls, done) = (trusting.clone(), tls.clone(), done.clone());
        let certificates = [first.clone(), second.clone()];
        let second_root = second_root.clone();
        clients.spawn(async move {
            let mut saw_second = 0;
            for _ in 0..HANDSHAKES {
                let mut stream = handshake(&trusting, address).await.expect("no handshake fails");
                assert_eq!(ask(&mut stream, "/").await.expect("no request fails"), "HTTP/1.1 200 OK");
                let shown = stream.get_ref().1.peer_certificates().unwrap();
                saw_second += usize::from(shown.first() == Some(&second_root));
                let count = done.fetch_add(1, Ordering::Relaxed) + 1;
                if count.is_multiple_of(SWAP_EVERY) {
                    tls.swap(&certificates[(count / SWAP_EVERY) % 2]).unwrap();
                }
            }
            saw_second
        });
    }
    let mut saw_second = 0;
    while let Some(seen) = clients.join_next().await {
        saw_second += seen.unwrap();
    }
    assert!(saw_second > 0 && saw_second < CLIENTS * HANDSHAKES, "{saw_second} saw the second certificate");
    assert_eq!(ask(&mut held, "/").await.unwrap(), "HTTP/1.1 200 OK", "a connection outlives every swap");

    stop.cancel();
    timeout(PROMPTLY, server.join_next()).await.unwrap().unwrap().unwrap().unwrap();
}

#[test]
fn a_certificate_that_cannot_serve_is_refused_with_the_fault() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let cases = [
        ("", key.as_str(), "no certificate found"),
        ("plain text", &key, "no certificate found"),
        ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", &key, "the certificates do not parse"),
        (&chain, "", "no private key found"),
        (&chain, &chain, "no private key found"),
        (&chain, &other.serialize_pem(), "the private key does not belong to the certificate"),
    ];
    for (chain, key, told) in cases {
        let error = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
    }
    let good = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(format!("{good:?}"), "Certificate(1 in its chain)");
    assert_eq!(good.chain(), [made.cert.der().clone()]);
}
