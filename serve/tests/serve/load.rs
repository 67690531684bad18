//! Many requests at once: batches, back-pressure, clients that leave, and the end of the server.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{config, get, infer, linear, metric, post, request, slow, start, write, x};
use poda_serve::load::{self, Arrivals, Load};
use poda_serve::{Config, Running};
use serde_json::json;

#[test]
fn requests_share_runs_and_get_their_own_results() {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&linear(0.0), &folder.path().join("sum.onnx"));
    let server = start(Config { models: vec![model], max_delay_ms: 5.0, max_batch: 4, ..config() });
    let at = server.http;
    thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || {
                for round in 0..10 {
                    let value = (client * 10 + round) as f32;
                    let answer = infer(at, "sum", &[1, 4], &[value, 1.0, 0.0, 0.0]);
                    assert_eq!(answer.data("y"), [value + 1.0; 3]);
                }
            });
        }
    });
    let statistics = get(at, "/v2/models/sum/stats").json();
    let model = &statistics["model_stats"][0];
    assert_eq!(model["inference_count"], 80);
    assert!(model["execution_count"].as_u64().unwrap() < 80, "{statistics}");
}

/// What a batch changes is what other kernels round otherwise, and no more.
#[test]
fn a_batch_gives_what_a_request_alone_gives_up_to_rounding() {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&slow(4), &folder.path().join("deep.onnx"));
    let data =
        |seed: usize| -> Vec<f32> { (0..256).map(|i| ((i * seed + 7) % 23) as f32 / 11.0 - 1.0).collect() };
    let answers = |max_batch| {
        let models = vec![model.clone()];
        let server = start(Config { models, max_batch, max_delay_ms: 50.0, warm: vec![1, 4], ..config() });
        let at = server.http;
        let run = |seed: usize| infer(at, "deep", &[1, 256], &data(seed)).data("tanh3");
        let results: Vec<Vec<f32>> = if max_batch == 1 {
            (1..5).map(run).collect()
        } else {
            thread::scope(|scope| {
                let all: Vec<_> = (1..5).map(|seed| scope.spawn(move || run(seed))).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            })
        };
        let statistics = get(at, "/v2/models/deep/stats").json();
        (results, statistics["model_stats"][0]["execution_count"].as_u64().unwrap())
    };
    let (alone, four) = answers(1);
    let (together, fewer) = answers(4);
    assert!(four == 4 && fewer < 4, "{four} {fewer}");
    for (a, b) in alone.iter().flatten().zip(together.iter().flatten()) {
        assert!((a - b).abs() <= 1e-5, "{a} {b}");
    }
}

#[test]
fn a_full_queue_refuses_at_once_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&slow(4000), &folder.path().join("slow.onnx"));
    let server = start(Config { models: vec![model], queue: 2, max_batch: 1, warm: vec![1], ..config() });
    let at = server.http;
    let [answered, refused] = [const { AtomicUsize::new(0) }; 2];
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let answer = infer(at, "slow", &[1, 256], &[0.1; 256]);
                match answer.status {
                    200 => answered.fetch_add(1, Ordering::Relaxed),
                    429 => {
                        assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
                        assert!(String::from_utf8_lossy(&answer.body).contains("--queue"));
                        refused.fetch_add(1, Ordering::Relaxed)
                    }
                    _ => panic!("{answer:?}"),
                };
            });
        }
    });
    let (answered, refused) = (answered.into_inner(), refused.into_inner());
    assert!(answered >= 2 && refused >= 1 && answered + refused == 12, "{answered} {refused}");
    let statistics = get(at, "/v2/models/slow/stats").json();
    assert_eq!(statistics["model_stats"][0]["inference_count"], answered);
}

/// What clients of the load generator see that compare every answer.
fn clients(server: &Running, arrivals: Arrivals) -> load::Report {
    let url = format!("http://{}", server.http);
    let load = Load {
        url,
        model: None,
        arrivals,
        duration: Duration::from_millis(1500),
        warmup: Duration::ZERO,
        // More than a queue may grow by unnoticed, and than wait before an overload is seen.
        connections: 400,
        batches: vec![1],
        shapes: Vec::new(),
        json: false,
        check: true,
        token: None,
        timeout: Duration::from_mins(1),
    };
    load::run(&load).unwrap()
}

#[test]
fn clients_that_wait_for_their_answers_are_never_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&slow(300), &folder.path().join("slow.onnx"));
    for max_batch in [1, 16] {
        let server = start(Config { models: vec![model.clone()], max_batch, ..config() });
        let report = clients(&server, Arrivals::Closed(32));
        assert!(report.answered > 32 && report.failed == 0, "{report:?}");
        assert_eq!(metric(server.http, "poda_overloaded"), 0.0);
    }
}

#[test]
fn more_than_can_be_run_is_refused_and_what_is_accepted_is_answered_rightly() {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&slow(600), &folder.path().join("slow.onnx"));
    let server = start(Config { models: vec![model], max_batch: 1, ..config() });
    let report = clients(&server, Arrivals::Constant(800.0));
    assert!(report.answered > 0, "{report:?}");
    assert!(report.errors.keys().eq(["429"]), "{report:?}");
    assert!(metric(server.http, "poda_requests_refused_total{reason=\"overloaded\"}") > 0.0);
    let start = Instant::now();
    while metric(server.http, "poda_overloaded") > 0.0 {
        assert!(start.elapsed() < Duration::from_mins(1), "it is over when nothing comes any more");
    }
    assert_eq!(infer(server.http, "slow", &[1, 256], &[0.1; 256]).status, 200);
}

#[test]
fn what_is_too_late_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&slow(20_000), &folder.path().join("slow.onnx"));
    let server = start(Config { models: vec![model], max_batch: 1, warm: vec![1], ..config() });
    let at = server.http;
    let body = x(&[1, 256], &[0.1; 256]).to_string();
    let headers = [("X-Request-Timeout-Ms", "1"), ("Content-Type", "application/json")];
    let answer = request(at, "POST", "/v2/models/slow/infer", &headers, body.as_bytes());
    assert_eq!(answer.status, 504, "{answer:?}");
    let mut asked = x(&[1, 256], &[0.1; 256]);
    asked["parameters"] = json!({ "timeout": 1000 });
    assert_eq!(post(at, "/v2/models/slow/infer", &asked).status, 504);
    // The runs were broken off: nothing was counted as inferred.
    let statistics = get(at, "/v2/models/slow/stats").json();
    assert_eq!(statistics["model_stats"][0]["inference_count"], 0);
    assert_eq!(statistics["model_stats"][0]["inference_stats"]["fail"]["count"], 2);
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&slow(20_000), &folder.path().join("slow.onnx"));
    let server = start(Config { models: vec![model], queue: 3, max_batch: 1, warm: vec![1], ..config() });
    let at = server.http;
    let body = x(&[1, 256], &[0.1; 256]).to_string();
    let head =
        format!("POST /v2/models/slow/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let waiting = || get(at, "/info").json()["models"][0]["waiting"].as_u64().unwrap();
    let until = |what: &str, f: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !f() {
            assert!(start.elapsed() < Duration::from_mins(1), "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    };
    let clients: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            stream
        })
        .collect();
    until("the queue fills", &|| waiting() >= 2);
    drop(clients);
    until("the queue empties", &|| waiting() == 0);
}

#[test]
fn requests_under_way_are_answered_when_the_server_ends() {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&slow(3000), &folder.path().join("slow.onnx"));
    let server = start(Config { models: vec![model], max_batch: 1, warm: vec![1], ..config() });
    let at = server.http;
    thread::scope(|scope| {
        let all: Vec<_> =
            (0..6).map(|_| scope.spawn(|| infer(at, "slow", &[1, 256], &[0.1; 256]).status)).collect();
        // Until all but the one that runs wait, or (on a machine that is slow to connect) have been answered.
        loop {
            let model = &get(at, "/info").json()["models"][0];
            let answered = model["statistics"]["inference_count"].as_u64().unwrap();
            if model["waiting"].as_u64().unwrap() + answered >= 5 {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        server.stop().unwrap();
        assert!(TcpStream::connect(at).is_err(), "nobody listens any more");
        assert_eq!(all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>(), [200; 6]);
    });
}
