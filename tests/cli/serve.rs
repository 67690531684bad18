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
        Self::start_as(dir, "exec \"$0\" \"$@\"", args)
    }

    /// By a script of `sh` that may limit what the server has.
    fn start_as(dir: &Dir, script: &str, args: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", script, env!("CARGO_BIN_EXE_poda"), "serve"])
            .args(args)
            .env("XDG_CACHE_HOME", dir.path("cache"))
            .env("PODA_HTTP", "127.0.0.1:0")
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
        self.request("GET", path)
    }

    fn request(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Ends it, and gives its log.
    fn end(mut self) -> String {
        self.signal("-TERM");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

/// One request on a connection that stays.
fn ask(stream: &mut TcpStream, request: &str) -> String {
    write!(stream, "{request} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        assert!(reader.read_line(&mut head).unwrap() > 0, "{request}: {head}");
        let line = head[start..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    head + std::str::from_utf8(&body).unwrap()
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
    let args =
        [model.to_str().unwrap(), "--config", settings.to_str().unwrap(), "--queue", "64", "--no-tune"];
    let mut server = Server::start(&dir, &args);
    assert!(server.get("/v2/models/mlp").contains("\"versions\":[\"1\"]"));
    let done = dir.poda(&[
        "load",
        &format!("http://{}", server.http),
        "--clients",
        "32",
        "--duration",
        "1",
        "--warmup",
        "0",
        "--check",
        "--json",
    ]);
    let report = done.json();
    // Clients that wait for their answers are never too many, however slow the machine.
    assert!(report["answered"].as_u64().unwrap() > 32 && report["failed"] == 0, "{report}");
    assert!(report["latency_ms"]["p99"].as_f64().unwrap() >= report["latency_ms"]["p50"].as_f64().unwrap());

    server.signal("-TERM");
    let status = server.child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let (mut rest, mut log) = (String::new(), String::new());
    server.out.read_to_string(&mut rest).unwrap();
    server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(rest.is_empty(), "{rest}");
    // The whole configuration: what the file says, what a flag says against it, and what nobody said.
    for line in ["max-batch = 3", "queue = 64", "max-client-batch = 256"] {
        assert!(log.lines().any(|shown| shown == line), "{line}: {log}");
    }
}

/// What a system may run out of: the server says so, and serves.
#[test]
fn a_server_without_descriptors_goes_on_and_says_so() {
    let dir = Dir::new();
    let model = dir.mlp();
    let script = "ulimit -n 48; exec \"$0\" \"$@\"";
    let server = Server::start_as(&dir, script, &[model.to_str().unwrap(), "--no-tune", "--model-control"]);
    // Those that are taken use up what there is; the others wait.
    let mut held: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(&server.http).unwrap()).collect();
    let errors = |metrics: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix("poda_accept_errors_total "));
        line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    };
    // Who is there already is answered.
    while errors(&ask(&mut held[0], "GET /metrics")) == 0.0 {}
    let load = ask(&mut held[0], "POST /v2/repository/models/mlp/load");
    assert!(load.starts_with("HTTP/1.1 422") && load.contains("open files"), "{load}");
    assert!(
        ask(&mut held[0], "GET /v2/models/mlp/ready").starts_with("HTTP/1.1 200"),
        "the old one serves on"
    );
    drop(held);
    assert!(server.get("/v2/health/ready").starts_with("HTTP/1.1 200"));
    assert!(server.request("POST", "/v2/repository/models/mlp/load").starts_with("HTTP/1.1 200"));
    let log = server.end();
    assert!(log.contains("no connection could be taken"), "{log}");
}

/// A full disk, or one that is only read, is nowhere to keep times in.
#[test]
fn a_server_that_can_write_nothing_serves_and_says_so() {
    let dir = Dir::new();
    let model = dir.mlp();
    dir.write("cache", b"a file where a folder is to be");
    let script = "exec \"$0\" \"$@\" > /dev/full";
    let server = Server::start(&dir, &[model.to_str().unwrap()]);
    assert!(server.get("/v2/health/ready").starts_with("HTTP/1.1 200"));
    let log = server.end();
    assert!(log.contains("kernels are timed at each start"), "{log}");
    let mut command = Command::new("sh");
    let args = ["-c", script, env!("CARGO_BIN_EXE_poda"), "serve", model.to_str().unwrap()];
    command.args(args).env("XDG_CACHE_HOME", dir.path("cache")).env("PODA_GRPC", "off");
    let mut child = command.env("PODA_HTTP", "127.0.0.1:0").stderr(Stdio::piped()).spawn().unwrap();
    // Its lines go nowhere; the log tells when it has loaded.
    let log = BufReader::new(child.stderr.take().unwrap());
    assert!(log.lines().map_while(Result::ok).any(|line| line.contains("loaded")));
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_model_whose_file_is_gone_is_served_on() {
    let dir = Dir::new();
    let model = dir.mlp();
    let server = Server::start(&dir, &[model.to_str().unwrap(), "--no-tune", "--model-control"]);
    std::fs::remove_file(&model).unwrap();
    let load = server.request("POST", "/v2/repository/models/mlp/load");
    assert!(load.starts_with("HTTP/1.1 422") && load.contains("mlp.onnx"), "{load}");
    let url = format!("http://{}", server.http);
    let done = dir.poda(&["load", &url, "--duration", "0.2", "--warmup", "0", "--check", "--json"]);
    let report = done.json();
    assert!(report["answered"].as_u64().unwrap() > 0 && report["failed"] == 0, "{report}");
    assert!(server.get("/metrics").contains("poda_model_load_failures_total{model=\"mlp\"} 1"));
    let log = server.end();
    assert!(log.contains("load failed"), "{log}");
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

/// The image, the unit and the manifests give the server only what it takes, and the image is made of what is there.
#[test]
fn files_for_deployment_say_what_the_server_knows() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join("serve/deploy").join(name)).unwrap();
    let help = Dir::new().poda(&["serve", "--help"]).ok();
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c)));
        words.map(str::to_owned).collect()
    };
    let known = words(&help);
    for name in ["Dockerfile", "kubernetes.yaml", "kserve.yaml", "poda.service"] {
        // Cargo's flags and those of COPY are others'.
        let others = |line: &&str| {
            !line.starts_with("RUN") && !line.starts_with("COPY") && !line.contains("# A token")
        };
        let text: String = read(name).lines().filter(others).collect::<Vec<_>>().join("\n");
        let own = |word: &String| word.starts_with("--") && word.len() > 2 || word.starts_with("PODA_");
        let own: Vec<String> = words(&text).into_iter().filter(own).filter(|word| word != "---").collect();
        assert!(!own.is_empty(), "{name}");
        for word in own.iter().filter(|word| !["--read-only", "--rm", "--tmpfs"].contains(&word.as_str())) {
            assert!(known.contains(word), "{name}: {word} is not in\n{help}");
        }
    }
    // What it builds is what this workspace builds, and lies where it is copied from.
    let dockerfile = read("Dockerfile");
    let build = dockerfile.lines().find_map(|line| line.strip_prefix("RUN ")).unwrap();
    assert_eq!(build, "cargo build --release --locked --bin poda");
    assert!(root.join("Cargo.lock").is_file());
    assert!(dockerfile.contains("COPY --from=build /src/target/release/poda /usr/local/bin/poda"));
    assert!(dockerfile.contains("ENTRYPOINT [\"/usr/local/bin/poda\", \"serve\"]"));
    assert!(dockerfile.lines().any(|line| line == "USER 65532:65532"));
}
