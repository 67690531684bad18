//! Clients that others wrote, against a running server; see `clients.py`. They come from `serve/tests/requirements.txt`, which
//! `tests/run.sh` installs.

use std::path::Path;
use std::process::Command;

use crate::common::{config, linear, start, write};
use poda_formats::op::Unary;
use poda_formats::{DataType, Dim, Graph, Op, Tensor};
use poda_serve::Config;

/// The Python that has a module, or `None` after saying that the test is skipped.
///
/// # Panics
/// Where `CI` is set.
fn python(module: &str) -> Option<String> {
    let python = std::env::var("PODA_TEST_PYTHON").ok();
    let has = |python: &String| {
        let done = Command::new(python).args(["-c", &format!("import {module}")]).output();
        done.is_ok_and(|done| done.status.success())
    };
    let found = python.filter(has);
    let must = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
    assert!(found.is_some() || !must, "no Python with {module}: tests/run.sh installs it");
    if found.is_none() {
        eprintln!("skipped: no Python with {module}; tests/run.sh installs it");
    }
    found
}

/// A model of tokens: a table of vectors, each moved by a constant and bent.
fn tokens() -> Graph {
    let mut g = Graph::default();
    let dims = || ["batch", "sequence"].map(|name| Dim::Symbol(name.into())).to_vec();
    let ids = g.add_input("input_ids", DataType::I64, dims());
    let mask = g.add_input("attention_mask", DataType::I64, dims());
    let table: Vec<f32> = (0..8 * 6).map(|i| ((i * 29) % 17) as f32 / 8.0 - 1.0).collect();
    let table = g.add_weight("table", Tensor::from_slice(&[8, 6], &table));
    let w: Vec<f32> = (0..36).map(|i| ((i * 31) % 13) as f32 / 6.0 - 1.0).collect();
    let w = g.add_weight("w", Tensor::from_slice(&[6, 6], &w));
    let x = g.add_node(Op::Gather { axis: 0 }, &[table, ids], "embedded");
    let y = g.add_node(Op::MatMul, &[x, w], "product");
    let y = g.add_node(Op::Unary(Unary::Tanh), &[y], "hidden");
    // The mask is what makes texts of other lengths alike.
    let axes = g.add_weight("axes", Tensor::from_slice(&[1], &[2_i64]));
    let float = g.add_node(Op::Cast { to: DataType::F32 }, &[mask], "float");
    let float = g.add_node(Op::Unsqueeze, &[float, axes], "wide");
    let y = g.add_node(Op::Binary(poda_formats::op::Binary::Mul), &[y, float], "masked");
    g.outputs.push(y);
    g
}

/// Words of a small vocabulary, in the form of Hugging Face.
const TOKENIZER: &str = r###"{
  "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
  "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
  "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {"[UNK]": 0, "the": 1, "cat": 2, "sat": 3, "a": 4, "dog": 5, "##s": 6, "[PAD]": 7}}
}"###;

fn text_model(folder: &Path) -> std::path::PathBuf {
    let folder = folder.join("text");
    write(&tokens(), &folder.join("model.safetensors"));
    std::fs::write(folder.join("tokenizer.json"), TOKENIZER).unwrap();
    folder
}

#[test]
fn clients_of_others_are_answered() {
    let Some(python) =
        python("tritonclient.http, tritonclient.grpc, openai, prometheus_client, grpc_reflection")
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let models = vec![write(&linear(1.0), &folder.path().join("sum.safetensors")), text_model(folder.path())];
    let server = start(Config { models, grpc: "127.0.0.1:0".into(), model_control: true, ..config() });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients.py");
    let (http, grpc) = (server.http.to_string(), server.grpc.unwrap().to_string());
    let done = Command::new(python).arg(script).args([&http, &grpc, "text"]).output().unwrap();
    let [out, err] = [&done.stdout, &done.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(done.status.success(), "{out}{err}");
    server.stop().unwrap();
}

#[test]
fn requests_made_from_our_description_are_answered_as_it_says() {
    let Some(python) = python("schemathesis") else { return };
    let folder = tempfile::tempdir().unwrap();
    let models = vec![write(&linear(1.0), &folder.path().join("sum.safetensors")), text_model(folder.path())];
    let server = start(Config { models, max_body: 1 << 20, ..config() });
    let url = format!("http://{}/openapi.json", server.http);
    // Every kind of wrong request, too; what must hold is that no answer is a defect of the server, or of another form.
    let done = Command::new(python)
        .args([
            "-m",
            "schemathesis.cli",
            "run",
            &url,
            "--max-examples",
            "10",
            "--seed",
            "1",
            "--phases",
            "fuzzing",
        ])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let [out, err] = [&done.stdout, &done.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(done.status.success(), "{out}{err}");
    server.stop().unwrap();
}
