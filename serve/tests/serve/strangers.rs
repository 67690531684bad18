//! What strangers send: slow, long, broken, many.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use poda_serve::{Config, Running};

use crate::common::{config, get, infer, linear, metric, parse, raw, start, write};

fn serve(change: impl FnOnce(Config) -> Config) -> (Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&linear(1.0), &folder.path().join("sum.onnx"));
    (start(change(Config { models: vec![model], ..config() })), folder)
}

/// It serves as before.
fn serves(server: &Running) {
    assert_eq!(infer(server.http, "sum", &[1, 4], &[1.0; 4]).data("y"), [5.0; 3]);
}

#[test]
fn slow_senders_are_let_go() {
    let (server, _folder) = serve(|config| Config { read_timeout: 0.3, ..config });
    // Headers that do not end: the connection is closed.
    let mut stream = TcpStream::connect(server.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /v2 HTTP/1.1\r\nHost: a\r\nX-Slow: ").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("200"), "{answer:?}");
    // A body that does not come.
    let head =
        "POST /v2/models/sum/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{";
    let answer = parse(&raw(server.http, head.as_bytes()));
    assert_eq!(answer.status, 408, "{answer:?}");
    serves(&server);
}

#[test]
fn what_is_too_long_is_not_read() {
    let (server, _folder) = serve(|config| Config { max_body: 1000, max_header: 8192, ..config });
    let long = "x".repeat(20_000);
    let answer =
        raw(server.http, format!("GET /v2 HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n").as_bytes());
    assert!(answer.is_empty() || parse(&answer).status == 431, "{answer:?}");
    // Declared, and in chunks that do not say how much comes.
    let declared = "POST /v2/models/sum/infer HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n";
    assert_eq!(parse(&raw(server.http, declared.as_bytes())).status, 413);
    let chunked = format!(
        "POST /v2/models/sum/infer HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        format!("3e8\r\n{}\r\n", " ".repeat(1000)).repeat(3)
    );
    assert_eq!(parse(&raw(server.http, chunked.as_bytes())).status, 413);
    serves(&server);
}

#[test]
fn what_requests_hold_together_is_bounded() {
    let (server, _folder) = serve(|config| Config { max_body: 1 << 20, max_in_flight: 2 << 20, ..config });
    let at = server.http;
    let until = |what: &str, f: &dyn Fn(f64) -> bool| {
        let start = Instant::now();
        while !f(metric(at, "poda_in_flight_bytes")) {
            assert!(start.elapsed() < Duration::from_mins(1), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let head = |more: &str| {
        format!("POST /v2/models/sum/infer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n\r\n")
    };
    // Two bodies of a mebibyte, of which most has come.
    let held: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(head("Content-Length: 1048576").as_bytes()).unwrap();
            stream.write_all(" ".repeat(1_000_000).as_bytes()).unwrap();
            stream
        })
        .collect();
    until("they are held", &|bytes| bytes >= 2e6);
    for (declared, body) in [
        ("Content-Length: 200000", String::new()),
        // Sent to its end, whatever is answered meanwhile.
        ("Content-Length: 1000000", " ".repeat(1_000_000)),
        ("Transfer-Encoding: chunked", format!("30d40\r\n{}\r\n0\r\n\r\n", " ".repeat(200_000))),
    ] {
        let answer = parse(&raw(at, [head(declared), body].concat().as_bytes()));
        let text = String::from_utf8_lossy(&answer.body);
        assert!(answer.status == 429 && text.contains("--max-in-flight"), "{answer:?} {text}");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    serves(&server);
    drop(held);
    until("all is given back", &|bytes| bytes == 0.0);
}

/// As many as the server may have, many times over, that say nothing: it goes on, and forgets them.
#[test]
fn ten_thousand_connections_are_survived() {
    let (server, _folder) = serve(|config| Config { connections: 64, read_timeout: 2.0, ..config });
    let mut open = Vec::new();
    for count in 0..10_000 {
        open.extend(TcpStream::connect(server.http).ok());
        // As many at a time as any machine has descriptors for.
        if count % 400 == 399 {
            open.clear();
        }
    }
    drop(open);
    let start = Instant::now();
    while metric_or_none(&server, "poda_connections ").is_none_or(|open| open > 8.0) {
        assert!(start.elapsed() < Duration::from_mins(1), "connections are still open");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(metric(server.http, "poda_connections_refused_total") > 0.0);
    serves(&server);
}

/// `None` while there is no place for the one who asks.
fn metric_or_none(server: &Running, series: &str) -> Option<f64> {
    let request = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    raw(server.http, request).starts_with(b"HTTP/1.1 200").then(|| metric(server.http, series))
}

#[test]
fn connections_are_bounded() {
    let (server, _folder) = serve(|config| Config { connections: 4, ..config });
    let held: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(server.http).unwrap();
            // An answer shows that it has been taken.
            stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            assert!(stream.read(&mut [0; 512]).unwrap() > 0);
            stream
        })
        .collect();
    let answer = parse(&raw(server.http, b""));
    assert!(
        answer.status == 503 && String::from_utf8_lossy(&answer.body).contains("--connections"),
        "{answer:?}"
    );
    drop(held);
    let start = Instant::now();
    while raw(server.http, b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .starts_with(b"HTTP/1.1 503")
    {
        assert!(start.elapsed() < Duration::from_mins(1));
    }
    serves(&server);
}

#[test]
fn nonsense_is_refused_and_nothing_breaks() {
    let (server, _folder) = serve(|config| config);
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/models/sum/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut stream = TcpStream::connect(server.http).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 5"), "{:?}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(get(server.http, "/v2/health/live").status, 200);
    serves(&server);
}
