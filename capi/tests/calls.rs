//! Calls as C makes them, the wrong ones too: NULL everywhere, buffers that do not fit, cancelled runs.

use std::ffi::{CStr, CString, c_void};
use std::ptr::{null, null_mut};

use poda::formats::{Dim, Op, WriteOptions};
use poda::{DataType, Graph, Tensor};
use poda_capi::*;

/// `y = x · W`, `[batch, 2]` to `[batch, 2]`, as the bytes of a file.
fn bytes() -> Vec<u8> {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(2)]);
    let w = graph.add_weight("w", Tensor::from_slice(&[2, 2], &[1.0_f32, 2.0, 3.0, 4.0]));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    poda::formats::write(&graph, &path, &WriteOptions::default()).unwrap();
    std::fs::read(path).unwrap()
}

fn open(bytes: &[u8]) -> *mut PodaModel {
    let mut model = null_mut();
    // SAFETY: the bytes are there, and so is the place.
    let status =
        unsafe { poda_model_open_bytes(bytes.as_ptr(), bytes.len(), null(), &raw mut model, null_mut()) };
    assert_eq!(status, PodaStatus::Ok);
    model
}

/// The message of an error, which is released.
fn message(error: *mut PodaError) -> String {
    // SAFETY: the error came from a call and is released once.
    unsafe {
        let text = CStr::from_ptr(poda_error_message(error)).to_str().unwrap().to_owned();
        poda_error_release(error);
        text
    }
}

fn tensor(name: &CStr, shape: &[usize], data: &mut [f32]) -> PodaTensor {
    PodaTensor {
        name: name.as_ptr(),
        shape: shape.as_ptr(),
        rank: shape.len(),
        data: data.as_mut_ptr().cast::<c_void>(),
        bytes: size_of_val(data),
        dtype: PodaType::F32 as u32,
    }
}

#[test]
fn what_does_not_fit_is_refused_and_buffers_stay_as_they_were() {
    let model = open(&bytes());
    let (mut x, mut y) = ([1.0_f32, 1.0], [7.0_f32; 4]);
    let shape = [1, 2];
    let input = tensor(c"x", &shape, &mut x);
    let output = tensor(c"y", &shape, &mut y[..2]);
    let run = |inputs: &[PodaTensor], outputs: &[PodaTensor]| {
        let mut error = null_mut();
        // SAFETY: the tensors point to arrays that live on.
        let status = unsafe {
            poda_run(
                model,
                inputs.as_ptr(),
                inputs.len(),
                outputs.as_ptr(),
                outputs.len(),
                null(),
                &raw mut error,
            )
        };
        (status, if error.is_null() { String::new() } else { message(error) })
    };
    let wide = [2, 2];
    for (inputs, outputs, status, said) in [
        (vec![], vec![output], PodaStatus::Input, "missing"),
        (vec![PodaTensor { dtype: 0, ..input }], vec![output], PodaStatus::Argument, "no element type"),
        (vec![PodaTensor { dtype: 99, ..input }], vec![output], PodaStatus::Argument, "no element type"),
        (vec![PodaTensor { name: null(), ..input }], vec![output], PodaStatus::Argument, "NULL"),
        (vec![PodaTensor { data: null_mut(), ..input }], vec![output], PodaStatus::Argument, "NULL"),
        (vec![PodaTensor { shape: null(), ..input }], vec![output], PodaStatus::Argument, "NULL"),
        (vec![PodaTensor { bytes: 4, ..input }], vec![output], PodaStatus::Input, "8 bytes"),
        (vec![PodaTensor { rank: usize::MAX, ..input }], vec![output], PodaStatus::Argument, "memory"),
        (
            vec![PodaTensor { name: c"z".as_ptr(), ..input }],
            vec![output],
            PodaStatus::Input,
            "no input is named",
        ),
        (vec![input], vec![], PodaStatus::Output, "no buffer"),
        (vec![input], vec![output, output], PodaStatus::Output, "several"),
        (
            vec![input],
            vec![PodaTensor { name: c"z".as_ptr(), ..output }],
            PodaStatus::Output,
            "no output is named",
        ),
        (vec![input], vec![PodaTensor { shape: wide.as_ptr(), ..output }], PodaStatus::Output, "its buffer"),
        (vec![input], vec![PodaTensor { bytes: 4, ..output }], PodaStatus::Output, "its buffer"),
        (vec![input], vec![PodaTensor { data: null_mut(), ..output }], PodaStatus::Argument, "NULL"),
        (vec![input], vec![PodaTensor { dtype: PodaType::I32 as u32, ..output }], PodaStatus::Output, "i32"),
    ] {
        let (found, text) = run(&inputs, &outputs);
        assert!(found == status && text.contains(said), "{found:?}: {text}");
        assert_eq!(y, [7.0; 4]);
    }
    assert_eq!(run(&[input], &[output]), (PodaStatus::Ok, String::new()));
    assert_eq!(y, [4.0, 6.0, 7.0, 7.0]);
    // SAFETY: it is used no more.
    unsafe { poda_model_release(model) };
}

#[test]
fn a_run_is_cancelled_and_times_out() {
    let model = open(&bytes());
    let (mut x, mut y, shape) = ([1.0_f32, 1.0], [7.0_f32; 2], [1, 2]);
    let (input, output) = (tensor(c"x", &shape, &mut x), tensor(c"y", &shape, &mut y));
    let options = poda_run_options_new();
    // SAFETY: model, options, input and output live on.
    let run = || unsafe { poda_run(model, &raw const input, 1, &raw const output, 1, options, null_mut()) };
    // SAFETY: as above.
    unsafe { poda_run_options_cancel(options) };
    assert_eq!((run(), y), (PodaStatus::Stopped, [7.0; 2]));
    // SAFETY: as above.
    unsafe { poda_run_options_reset(options) };
    // SAFETY: as above.
    unsafe { poda_run_options_set_timeout_ms(options, 60_000) };
    assert_eq!((run(), y), (PodaStatus::Ok, [4.0, 6.0]));
    // SAFETY: they are used no more.
    unsafe {
        poda_run_options_release(options);
        poda_model_release(model);
    }
}

#[test]
fn null_is_refused_or_ignored_everywhere() {
    let mut error = null_mut();
    // SAFETY: NULL is what the functions are asked about.
    unsafe {
        poda_error_release(null_mut());
        poda_model_release(null_mut());
        poda_options_release(null_mut());
        poda_outputs_release(null_mut());
        poda_run_options_release(null_mut());
        poda_options_set_threads(null_mut(), 1);
        poda_options_set_tune(null_mut(), 1);
        poda_options_set_read(null_mut(), 1);
        poda_options_set_prefer_memory(null_mut(), 1);
        poda_options_set_memory_limit(null_mut(), 1);
        poda_run_options_cancel(null());
        poda_run_options_reset(null());
        poda_run_options_set_timeout_ms(null_mut(), 1);
        assert_eq!(poda_error_status(null()), PodaStatus::Ok);
        assert_eq!(CStr::from_ptr(poda_error_message(null())), c"");
        assert_eq!((poda_model_threads(null()), poda_model_port_count(null(), 0)), (0, 0));
        assert_eq!((poda_model_port_rank(null(), 0, 0), poda_model_port_size(null(), 0, 0, 0)), (-1, -1));
        assert!(
            poda_model_port_name(null(), 0, 0).is_null() && poda_model_port_axis(null(), 0, 0, 0).is_null()
        );
        assert_eq!(poda_model_port_type(null(), 0, 0), PodaType::Unknown);
        assert_eq!(poda_outputs_count(null()), 0);
        let status = poda_model_open(null(), null(), null_mut(), &raw mut error);
        assert_eq!((status, message(error).as_str()), (PodaStatus::Argument, "path is NULL"));
        assert_eq!(poda_model_open(c"m.onnx".as_ptr(), null(), null_mut(), null_mut()), PodaStatus::Argument);
        assert_eq!(poda_model_open_bytes(null(), 5, null(), null_mut(), null_mut()), PodaStatus::Argument);
        assert_eq!(poda_model_warm(null(), null(), 0, null_mut()), PodaStatus::Argument);
        assert_eq!(poda_run(null(), null(), 0, null(), 0, null(), null_mut()), PodaStatus::Argument);
        assert_eq!(poda_run_alloc(null(), null(), 0, null(), null_mut(), null_mut()), PodaStatus::Argument);
        assert_eq!(poda_outputs_get(null(), 0, null_mut(), null_mut()), PodaStatus::Argument);
        assert_eq!(poda_prune(null(), null(), null(), null_mut()), PodaStatus::Argument);
        assert_eq!(CStr::from_ptr(poda_version()).to_str().unwrap(), env!("CARGO_PKG_VERSION"));
    }
    assert_eq!(poda_abi(), PODA_ABI);
}

#[test]
fn ports_are_told_and_models_pruned() {
    let model = open(&bytes());
    // SAFETY: the model lives on, and so do its texts.
    unsafe {
        assert_eq!((poda_model_port_count(model, 0), poda_model_port_count(model, 1)), (1, 1));
        assert_eq!(CStr::from_ptr(poda_model_port_name(model, 0, 0)), c"x");
        assert_eq!(poda_model_port_type(model, 0, 0), PodaType::F32);
        assert_eq!(poda_model_port_rank(model, 0, 0), 2);
        assert_eq!((poda_model_port_size(model, 0, 0, 0), poda_model_port_size(model, 0, 0, 1)), (-1, 2));
        assert_eq!(CStr::from_ptr(poda_model_port_axis(model, 0, 0, 0)), c"batch");
        assert!(poda_model_port_axis(model, 0, 0, 1).is_null());
        let shape = [3, 2];
        let named = tensor(c"x", &shape, &mut []);
        assert_eq!(poda_model_warm(model, &raw const named, 1, null_mut()), PodaStatus::Ok);
        poda_model_release(model);
    }
    let folder = tempfile::tempdir().unwrap();
    let text = |name: &str| CString::new(folder.path().join(name).to_str().unwrap()).unwrap();
    let (from, to) = (text("m.onnx"), text("sparse.safetensors"));
    std::fs::write(folder.path().join("m.onnx"), bytes()).unwrap();
    let prune = |from: &CStr, to: &CStr, recipe: &CStr| {
        let mut error = null_mut();
        // SAFETY: the texts live on.
        let status = unsafe { poda_prune(from.as_ptr(), to.as_ptr(), recipe.as_ptr(), &raw mut error) };
        if !error.is_null() {
            assert!(message(error).len() > 5);
        }
        status
    };
    assert_eq!(prune(&from, &to, c"sparsity = 0.5"), PodaStatus::Ok);
    assert_eq!(
        poda::formats::open(folder.path().join("sparse.safetensors")).unwrap().parameters().nonzero,
        2
    );
    assert_eq!(prune(&from, &to, c"sparsity = 5"), PodaStatus::Argument);
    assert_eq!(prune(&from, c"m.bin", c"sparsity = 0.5"), PodaStatus::Argument);
    assert_eq!(prune(&text("none.onnx"), &to, c"sparsity = 0.5"), PodaStatus::Io);
}

#[test]
fn opening_and_releasing_ten_thousand_times_leaves_nothing() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let bytes = bytes();
    let options = poda_options_new();
    let cycle = |times: usize| {
        for _ in 0..times {
            let mut model = null_mut();
            // SAFETY: bytes and options live on, and the model is released at once.
            unsafe {
                poda_options_set_threads(options, 1);
                poda_options_set_tune(options, 0);
                let status =
                    poda_model_open_bytes(bytes.as_ptr(), bytes.len(), options, &raw mut model, null_mut());
                assert_eq!(status, PodaStatus::Ok);
                poda_model_release(model);
            }
        }
    };
    cycle(1000);
    let before = resident();
    cycle(10_000);
    assert!(resident() < before + 4096, "{} KiB, then {}", before, resident());
    // SAFETY: they are used no more.
    unsafe { poda_options_release(options) };
}
