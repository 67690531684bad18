//! `poda serve` and `poda load` as a script uses them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::program::Dir;

/// A server of the MLP on free ports; killed when dropped.
struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    http: String,
}

impl Server {
    fn start(dir: &Dir, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poda"));
        command
            .arg("serve")
            .args(args)
            .env("XDG_CACHE_HOME", dir.path("cache"))
            .env("PODA_GRPC", "127.0.0.1:0");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = |what: &str| {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            line.trim().strip_prefix(what).unwrap_or_else(|| panic!("{what}: {line:?}")).trim().to_owned()
        };
        let http = line("http");
        assert!(line("grpc").starts_with("127.0.0.1:"));
        assert!(line("ready").parse::<f64>().unwrap() > 0.0);
        Self { child, out, http }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_says_where_it_is_and_ends_in_order() {
    let dir = Dir::new();
    let model = dir.mlp();
    let settings = dir.write("serve.toml", b"http = \"127.0.0.1:0\"\nmax-batch = 3\nqueue = 7");
    let args = [model.to_str().unwrap(), "--config", settings.to_str().unwrap(), "--queue", "5", "--no-tune"];
    let mut server = Server::start(&dir, &args);
    assert!(server.get("/v2/models/mlp").contains("\"versions\":[\"1\"]"));
    let done = dir.poda(&[
        "load",
        &format!("http://{}", server.http),
        "--duration",
        "1",
        "--warmup",
        "0",
        "--check",
        "--json",
    ]);
    let report = done.json();
    assert!(report["answered"].as_u64().unwrap() > 0 && report["failed"] == 0, "{report}");
    assert!(report["latency_ms"]["p99"].as_f64().unwrap() >= report["latency_ms"]["p50"].as_f64().unwrap());

    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = server.child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let (mut rest, mut log) = (String::new(), String::new());
    server.out.read_to_string(&mut rest).unwrap();
    server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(rest.is_empty(), "{rest}");
    // The whole configuration: what the file says, what a flag says against it, and what nobody said.
    for line in ["max-batch = 3", "queue = 5", "max-client-batch = 256"] {
        assert!(log.lines().any(|shown| shown == line), "{line}: {log}");
    }
}

#[test]
fn a_model_is_loaded_by_itself() {
    let dir = Dir::new();
    let model = dir.mlp();
    let page = dir.path("report.html");
    let args = [
        "load",
        model.to_str().unwrap(),
        "--rate",
        "50",
        "--poisson",
        "--duration",
        "1",
        "--warmup",
        "0",
        "--batches",
        "1,2",
    ];
    let out = dir.poda(&[&args[..], &["--html", page.to_str().unwrap()]].concat()).ok();
    assert!(out.contains("mlp: poisson 50/s") && out.contains("p99.9"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    assert!(std::fs::read_to_string(page).unwrap().contains("<svg"));
}

#[test]
fn what_makes_no_server_is_one_line() {
    let dir = Dir::new();
    let model = dir.mlp();
    let model = model.to_str().unwrap();
    assert!(dir.poda(&["serve"]).error().contains("--repository"));
    assert!(dir.poda(&["serve", model, "--queue", "0"]).error().contains("--queue"));
    assert!(
        dir.poda(&["serve", "none.onnx", "--http", "127.0.0.1:0", "--grpc", "off"])
            .last_error()
            .contains("none.onnx")
    );
    let wrong = dir.write("wrong.toml", b"quue = 1");
    assert!(dir.poda(&["serve", model, "--config", wrong.to_str().unwrap()]).error().contains("quue"));
    assert!(dir.poda(&["load", "http://127.0.0.1:1"]).error().contains("127.0.0.1:1"));
    dir.poda(&["serve", model, "--max-delay", "soon"]).exit(2);
}
