//! Models that come, go and fail while others are served.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use poda_formats::{DataType, Dim, Graph, Op, Tensor};
use poda_serve::Config;
use serde_json::json;

use crate::common::{config, get, infer, linear, post, start, write};

fn repository(folder: &Path) -> Config {
    Config { repository: Some(folder.to_owned()), model_control: true, ..config() }
}

fn version(folder: &Path, version: &str, bias: f32) {
    write(&linear(bias), &folder.join("sum").join(version).join("model.safetensors"));
}

/// Waits until something holds.
fn until(what: &str, f: impl Fn() -> bool) {
    let start = Instant::now();
    while !f() {
        assert!(start.elapsed() < Duration::from_mins(1), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_new_version_takes_over_without_an_error_that_a_client_sees() {
    let folder = tempfile::tempdir().unwrap();
    version(folder.path(), "1", 0.0);
    let server = start(repository(folder.path()));
    let at = server.http;
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut last = 0.0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let answer = infer(at, "sum", &[1, 4], &[0.0; 4]);
                        let bias = answer.data("y")[0];
                        assert!(bias >= last, "an old version answered after a new one");
                        last = bias;
                    }
                })
            })
            .collect();
        for number in 2_u8..6 {
            version(folder.path(), &number.to_string(), f32::from(number));
            let loaded = post(at, "/v2/repository/models/sum/load", &json!({}));
            assert_eq!(loaded.status, 200, "{loaded:?}");
            assert_eq!(infer(at, "sum", &[1, 4], &[0.0; 4]).json()["model_version"], number.to_string());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    let metrics = String::from_utf8(get(at, "/metrics").body).unwrap();
    assert!(metrics.contains("version=\"5\"") && !metrics.contains("version=\"4\""), "{metrics}");
}

#[test]
fn what_cannot_be_loaded_leaves_the_old_version_serving_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    version(folder.path(), "1", 1.0);
    let server = start(repository(folder.path()));
    let at = server.http;
    let load = || post(at, "/v2/repository/models/sum/load", &json!({}));
    let serves = || assert_eq!(infer(at, "sum", &[1, 4], &[0.0; 4]).data("y"), [1.0; 3]);

    // Cut off in the middle.
    let whole = fs::read(folder.path().join("sum/1/model.safetensors")).unwrap();
    fs::create_dir(folder.path().join("sum/2")).unwrap();
    let second = folder.path().join("sum/2/model.safetensors");
    fs::write(&second, &whole[..whole.len() - 7]).unwrap();
    let failed = load();
    assert_eq!(failed.status, 422, "{failed:?}");
    serves();
    let index = post(at, "/v2/repository/index", &json!({})).json();
    assert_eq!(index[0]["state"], "READY");
    assert!(index[0]["reason"].as_str().unwrap().starts_with("version 2: "), "{index}");
    let metrics = String::from_utf8(get(at, "/metrics").body).unwrap();
    assert!(metrics.contains("poda_model_load_failures_total{model=\"sum\"} 1"));
    assert_eq!(get(at, "/v2/health/ready").status, 200);

    // Other inputs.
    let mut other = Graph::default();
    let x = other.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(5)]);
    let w = other.add_weight("w", Tensor::zeros(DataType::F32, &[5, 3]));
    let y = other.add_node(Op::MatMul, &[x, w], "y");
    other.outputs.push(y);
    write(&other, &second);
    let refused = load();
    assert!(
        refused.status == 422
            && refused.json()["error"].as_str().unwrap().contains("--allow-signature-change")
    );
    serves();

    // Gone: the newest that is there is loaded.
    fs::remove_file(&second).unwrap();
    assert_eq!(load().status, 200);
    serves();
    assert_eq!(post(at, "/v2/repository/index", &json!({})).json()[0]["reason"], "");
}

#[test]
fn models_come_and_go_when_the_server_is_told_to_look() {
    let folder = tempfile::tempdir().unwrap();
    version(folder.path(), "1", 1.0);
    let server = start(repository(folder.path()));
    let at = server.http;
    write(&linear(2.0), &folder.path().join("other.onnx"));
    fs::remove_dir_all(folder.path().join("sum")).unwrap();
    server.reload();
    until("the new model serves", || get(at, "/v2/models/other/ready").status == 200);
    until("the old one is gone", || get(at, "/v2/models/sum/ready").status == 503);
    assert_eq!(infer(at, "other", &[1, 4], &[0.0; 4]).data("y"), [2.0; 3]);
    assert_eq!(post(at, "/v2/repository/models/other/unload", &json!({})).status, 200);
    assert_eq!(infer(at, "other", &[1, 4], &[0.0; 4]).status, 503);
    assert_eq!(get(at, "/v2/health/ready").status, 503, "nothing serves");
    assert_eq!(post(at, "/v2/repository/models/..%2fother/load", &json!({})).status, 404);
    assert_eq!(post(at, "/v2/repository/models/other/load", &json!({})).status, 200);
    assert_eq!(get(at, "/v2/health/ready").status, 200);
}

#[test]
fn a_model_that_was_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let models = vec![folder.path().join("none.onnx")];
    let error = poda_serve::start(Config { models, ..config() }).unwrap_err().to_string();
    assert!(error.contains("none.onnx"), "{error}");
    let text = folder.path().join("text.onnx");
    fs::write(&text, "hello").unwrap();
    assert!(poda_serve::start(Config { models: vec![text], ..config() }).is_err());
}

#[test]
fn clients_with_certificates_are_let_in_and_others_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let models = vec![write(&linear(1.0), &path("sum.onnx"))];
    let (cert, key) = (Some(path("cert.pem")), Some(path("key.pem")));
    let tls = Config { models, tls_cert: cert.clone(), tls_key: key, ..config() };
    let server = start(tls.clone());
    let curl = |port: u16, more: &[&str]| {
        let url = format!("https://localhost:{port}/v2/health/ready");
        let resolve = format!("localhost:{port}:127.0.0.1");
        let ca = path("cert.pem");
        let done = std::process::Command::new("curl")
            .args(["-sS", "--max-time", "20", "--resolve", &resolve, "--cacert", ca.to_str().unwrap()])
            .args(more)
            .arg(url)
            .output();
        done.map(|done| (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned()))
    };
    let Ok(answer) = curl(server.http.port(), &[]) else {
        eprintln!("skipped: no curl");
        return;
    };
    assert_eq!(answer, (true, "{\"ready\":true}".into()));
    // In the clear it says nothing.
    assert!(
        crate::common::raw(server.http, b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
            .iter()
            .all(|byte| *byte != b'{')
    );
    server.stop().unwrap();

    let mutual = start(Config { tls_client_ca: cert, ..tls });
    let port = mutual.http.port();
    assert!(!curl(port, &[]).unwrap().0);
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let own = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let answer = curl(port, &own).unwrap();
    assert!(answer.0, "{answer:?}");
}
