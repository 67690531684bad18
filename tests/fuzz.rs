//! The fuzz targets, for a moment and without a fuzzer, on the models of the conformance suite with some bytes damaged:
//! the same ones each time. `cargo fuzz` (see `fuzz/Cargo.toml`) looks longer, and where it was not yet.

#[path = "conformance/pack.rs"]
mod pack;
#[cfg(feature = "serve")]
#[path = "../fuzz/requests.rs"]
mod requests;
#[path = "../fuzz/prepare_and_run.rs"]
mod run;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use poda::formats::{artifact, onnx, storage};

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }

    /// Some bytes of `whole` changed, cut out, doubled or taken from `other`.
    fn damage(&mut self, whole: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for _ in 0..=self.below(4) {
            let (at, len) = (self.below(bytes.len()), self.below(9));
            match self.below(6) {
                0 | 1 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
                2 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                3 => drop(bytes.drain(at..bytes.len().min(at + len))),
                4 => {
                    let part = bytes[at..bytes.len().min(at + len)].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    let from = self.below(other.len());
                    bytes.splice(at..at, other[from..other.len().min(from + len)].to_vec());
                }
            }
        }
        bytes
    }
}

/// The suite's models of at most 4 KiB.
fn models() -> Vec<Vec<u8>> {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx-tests.tar.zst");
    let models = pack::read(&suite).into_values().map(|mut files| files.remove("model.onnx").unwrap());
    models.filter(|model| model.len() <= 4096).collect()
}

fn artifacts() -> Vec<Vec<u8>> {
    let graphs = models().into_iter().filter_map(|model| {
        let storage = storage::Storage::owned(storage::AlignedBytes::copy_of(&model));
        onnx::read_storage(storage).ok()
    });
    let written = graphs.filter_map(|mut graph| {
        graph.store_sparse();
        let mut bytes = Vec::new();
        artifact::write(&mut bytes, &graph).ok().map(|()| bytes)
    });
    written.collect()
}

/// Runs `target` on `cases` damaged files.
fn fuzz(seeds: &[Vec<u8>], cases: u64, target: fn(&[u8])) {
    for case in 0..cases {
        let mut random = Random(case);
        let [one, other] = [0; 2].map(|_| random.below(seeds.len()));
        let bytes = random.damage(&seeds[one], &seeds[other]);
        assert!(catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_ok(), "case {case}");
    }
}

#[test]
fn onnx_read() {
    fuzz(&models(), 20_000, targets::onnx_read);
}

#[test]
fn onnx_write() {
    fuzz(&models(), 10_000, targets::onnx_write);
}

#[test]
fn safetensors_read() {
    fuzz(&artifacts(), 20_000, targets::safetensors_read);
}

#[test]
fn artifact_read() {
    fuzz(&artifacts(), 10_000, targets::artifact_read);
}

#[test]
fn prepare_and_run() {
    fuzz(&models(), 3_000, run::prepare_and_run);
}

#[cfg(feature = "serve")]
#[test]
fn http_request() {
    let json = br#"{"id":"1","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2.5],[-3e2,4]]},
        {"name":"m","shape":[2],"datatype":"BOOL","data":[true,0]}],"outputs":[{"name":"y"}],"parameters":{"timeout":5}}"#;
    let head =
        br#"{"inputs":[{"name":"x","shape":[2],"datatype":"INT16","parameters":{"binary_data_size":4}}]}"#;
    let seed = |json: &[u8], rest: &[u8]| [&(json.len() as u16).to_le_bytes()[..], json, rest].concat();
    let seeds = [seed(json, b""), seed(head, &[1, 2, 3, 4])];
    assert!(seeds.iter().all(|seed| {
        let length = usize::from(u16::from_le_bytes([seed[0], seed[1]]));
        poda_serve::fuzzing::http(&seed[2..], Some(length))
    }));
    fuzz(&seeds, 50_000, requests::http_request);
}

#[cfg(feature = "serve")]
#[test]
fn grpc_request() {
    // model_name "m"; an input "x" of FP32 [2] with contents, or raw.
    let tensor = b"\x0a\x01x\x12\x04FP32\x1a\x01\x02";
    let contents = b"\x2a\x0a\x32\x08\0\0\x80\x3f\0\0\0\x40";
    let message =
        |input: &[u8], rest: &[u8]| [&b"\x0a\x01m\x2a"[..], &[input.len() as u8], input, rest].concat();
    let seeds =
        [message(&[&tensor[..], contents].concat(), b""), message(tensor, b"\x3a\x08\0\0\x80\x3f\0\0\0\x40")];
    assert!(seeds.iter().all(|seed| poda_serve::fuzzing::grpc(seed)));
    fuzz(&seeds, 50_000, requests::grpc_request);
}
