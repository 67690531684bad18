//! The Open Inference Protocol over HTTP, spoken to the letter.

use crate::common::{config, get, infer, linear, post, request, start, write, x};
use poda_serve::{Config, Running};
use serde_json::json;

fn serve(change: impl FnOnce(Config) -> Config) -> (Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let model = write(&linear(1.0), &folder.path().join("sum.safetensors"));
    (start(change(Config { models: vec![model], ..config() })), folder)
}

#[test]
fn a_model_is_told_of_and_runs() {
    let (server, _folder) = serve(|config| config);
    let at = server.http;
    assert_eq!(get(at, "/v2").json()["name"], "poda");
    assert_eq!(get(at, "/v2/health/live").status, 200);
    assert_eq!(get(at, "/v2/health/ready").json(), json!({ "ready": true }));
    assert_eq!(get(at, "/v2/models/sum/ready").json(), json!({ "name": "sum", "ready": true }));
    let metadata = get(at, "/v2/models/sum").json();
    assert_eq!(metadata["inputs"], json!([{ "name": "x", "datatype": "FP32", "shape": [-1, 4] }]));
    assert_eq!(metadata["versions"], json!(["1"]));
    let answer = infer(at, "sum", &[2, 4], &[1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.5]);
    assert_eq!(answer.data("y"), [11.0, 11.0, 11.0, 1.5, 1.5, 1.5]);
    assert_eq!(answer.json()["model_version"], "1");
    assert!(answer.header("x-request-id").is_some());
    let mut named = x(&[1, 4], &[1.0; 4]);
    named["id"] = json!("seven");
    named["outputs"] = json!([{ "name": "y" }]);
    let answer = post(at, "/v2/models/sum/versions/1/infer", &named);
    assert_eq!((answer.data("y"), &answer.json()["id"]), (vec![5.0; 3], &json!("seven")));
    let statistics = get(at, "/v2/models/sum/stats").json();
    assert_eq!(statistics["model_stats"][0]["inference_count"], 3);
    assert_eq!(statistics["model_stats"][0]["inference_stats"]["success"]["count"], 2);
    let metrics = String::from_utf8(get(at, "/metrics").body).unwrap();
    assert!(metrics.contains("nv_inference_request_success{model=\"sum\",version=\"1\"} 2"), "{metrics}");
    server.stop().unwrap();
}

#[test]
fn bytes_come_and_go_behind_the_json() {
    let (server, _folder) = serve(|config| config);
    let head = json!({
        "inputs": [{ "name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": { "binary_data_size": 16 } }],
        "outputs": [{ "name": "y", "parameters": { "binary_data": true } }],
    })
    .to_string();
    let values: Vec<u8> = [1.0_f32, 2.0, 3.0, f32::INFINITY].iter().flat_map(|x| x.to_le_bytes()).collect();
    let body = [head.as_bytes(), &values].concat();
    let length = head.len().to_string();
    let headers = [("Inference-Header-Content-Length", &length[..])];
    let answer = request(server.http, "POST", "/v2/models/sum/infer", &headers, &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let json: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&answer.body[..json]).unwrap();
    assert_eq!(said["outputs"][0]["parameters"]["binary_data_size"], 12);
    assert_eq!(answer.body[json..], f32::INFINITY.to_le_bytes().repeat(3));
    // JSON has no infinity.
    let asked = head.replace("true", "false");
    let body = [asked.as_bytes(), &values].concat();
    let length = asked.len().to_string();
    let headers = [("Inference-Header-Content-Length", &length[..])];
    let answer = request(server.http, "POST", "/v2/models/sum/infer", &headers, &body);
    assert_eq!(answer.status, 422, "{answer:?}");
}

#[test]
fn each_mistake_has_its_status_and_its_name() {
    let (server, _folder) =
        serve(|config| Config { max_body: 10_000, max_elements: 1000, max_client_batch: 8, ..config });
    let at = server.http;
    let path = "/v2/models/sum/infer";
    let good = x(&[1, 4], &[0.0; 4]);
    let mut twice = good.clone();
    twice["inputs"].as_array_mut().unwrap().push(good["inputs"][0].clone());
    let mut typed = good.clone();
    typed["inputs"][0]["datatype"] = json!("INT64");
    typed["inputs"][0]["data"] = json!([1, 2, 3, 4]);
    let mut output = good.clone();
    output["outputs"] = json!([{ "name": "z" }]);
    for (body, status, says) in [
        (json!({}), 400, "inputs"),
        (json!({ "inputs": [] }), 400, "\\\"x\\\" is missing"),
        (twice, 400, "given twice"),
        (typed, 400, "expected f32"),
        (output, 400, "no output is named"),
        (x(&[1, 5], &[0.0; 5]), 400, "expected 4 in dimension 1"),
        (x(&[4], &[0.0; 4]), 400, "expected rank 2"),
        (x(&[2, 4], &[0.0; 4]), 400, "shape [2, 4]"),
        (x(&[9, 4], &[0.0; 36]), 413, "--max-client-batch"),
        (x(&[400, 4], &[]), 400, "--max-elements"),
        (x(&[1000, 4], &[0.0; 4000]), 413, "--max-body"),
    ] {
        let answer = post(at, path, &body);
        let text = String::from_utf8_lossy(&answer.body);
        assert!(answer.status == status && text.contains(says), "{status} {says}: {answer:?} {text}");
    }
    assert_eq!(post(at, "/v2/models/none/infer", &good).status, 404);
    assert_eq!(post(at, "/v2/models/sum/versions/2/infer", &good).status, 404);
    assert_eq!(get(at, path).status, 405);
    assert_eq!(get(at, "/nothing").status, 404);
    assert_eq!(get(at, "/v2/models/..%2f..%2fetc%2fpasswd").status, 404);
    let form = [("Content-Type", "text/plain")];
    assert_eq!(request(at, "POST", path, &form, good.to_string().as_bytes()).status, 415);
    let other = [("Origin", "http://elsewhere.example"), ("Content-Type", "application/json")];
    assert_eq!(request(at, "POST", path, &other, good.to_string().as_bytes()).status, 403);
    assert_eq!(post(at, "/v2/repository/index", &json!({})).status, 403);
    assert_eq!(post(at, "/v2/repository/models/sum/unload", &json!({})).status, 403);
    assert_eq!(post(at, "/v1/embeddings", &json!({ "model": "sum", "input": "a" })).status, 404);
    assert_eq!(post(at, path, &good).status, 200, "it serves on");
}

#[test]
fn tokens_open_all_but_health() {
    let token = "a-token-of-enough-characters";
    let (server, _folder) = serve(|config| Config { token: Some(token.into()), ..config });
    assert_eq!(get(server.http, "/v2/health/ready").status, 200);
    for path in ["/v2", "/metrics", "/", "/info"] {
        let answer = get(server.http, path);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
    }
    let bearer = format!("Bearer {token}");
    assert_eq!(request(server.http, "GET", "/v2", &[("Authorization", &bearer)], b"").status, 200);
}
