//! External data, and what a stranger may try with it.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::onnx::proto::{DataLocation, StringStringEntryProto};

fn external(entries: &[(&str, &str)]) -> TensorProto {
    let entry =
        |&(key, value): &(&str, &str)| StringStringEntryProto { key: key.into(), value: value.into() };
    TensorProto {
        name: "w".into(),
        dims: vec![2],
        data_type: 1,
        data_location: DataLocation::External as i32,
        external_data: entries.iter().map(entry).collect(),
        ..TensorProto::default()
    }
}

fn with_weight(tensor: TensorProto) -> Vec<u8> {
    let mut proto = graph(&["x"], None, vec![node("Add", &["x", "w"], &["y"], vec![])], &["y"]);
    proto.initializer = vec![tensor];
    model(13, proto).encode_to_vec()
}

/// A folder `models` with `data.bin` of 16 bytes, and `secret.bin` beside the folder.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    fs::create_dir(&models).unwrap();
    let bytes: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    fs::write(models.join("data.bin"), &bytes).unwrap();
    fs::write(root.path().join("secret.bin"), &bytes).unwrap();
    (root, models)
}

fn read_at(path: &Path) -> Result<Vec<f32>, String> {
    let graph = crate::onnx::read(path).map_err(|error| error.to_string())?;
    let Some(Weight::Tensor(tensor)) = graph.weight(graph.find("w").unwrap()) else { panic!() };
    assert!(tensor.storage().is_mapped());
    Ok(tensor.as_slice().unwrap().to_vec())
}

fn read_in(models: &Path, entries: &[(&str, &str)]) -> Result<Vec<f32>, String> {
    let path = models.join("model.onnx");
    fs::write(&path, with_weight(external(entries))).unwrap();
    read_at(&path)
}

#[test]
fn data_lies_beside_the_model() {
    let (_root, models) = folder();
    let at = |entries: &[(&str, &str)]| read_in(&models, entries).unwrap();
    assert_eq!(at(&[("location", "data.bin")]), [1.0, 2.0]);
    assert_eq!(at(&[("location", "./data.bin"), ("offset", "8"), ("length", "8")]), [3.0, 4.0]);
    assert_eq!(at(&[("location", "data.bin"), ("offset", "4"), ("checksum", "abc")]), [2.0, 3.0]);
}

#[test]
fn descriptions_that_do_not_fit_are_refused() {
    let (_root, models) = folder();
    let cases: [(&[(&str, &str)], &str); 14] = [
        (&[], "external data has no location"),
        (&[("location", "")], "external data has no location"),
        (&[("location", "missing")], "cannot open external data \"missing\""),
        (&[("location", "data.bin"), ("offset", "-1")], "offset \"-1\", which is not a number of bytes"),
        (&[("location", "data.bin"), ("offset", "1e3")], "offset \"1e3\", which is not a number of bytes"),
        (&[("location", "data.bin"), ("offset", "")], "offset \"\", which is not a number of bytes"),
        (&[("location", "data.bin"), ("offset", "18446744073709551616")], "which is not a number of bytes"),
        (&[("location", "data.bin"), ("offset", "18446744073709551615")], "ends at byte 16, before byte"),
        (&[("location", "data.bin"), ("offset", "12")], "ends at byte 16, before byte 12 + 8"),
        (&[("location", "data.bin"), ("length", "4")], "declares 4 bytes, its tensor has 8"),
        (&[("location", "data.bin"), ("location", "data.bin")], "has key \"location\" twice"),
        (&[("location", "data.bin"), ("base", "/")], "has unknown key \"base\""),
        (&[("location", "data.bin\0")], "is not a relative path"),
        (&[("location", ".")], "cannot open external data \".\""),
    ];
    for (entries, expected) in cases {
        let error = read_in(&models, entries).unwrap_err();
        assert!(error.starts_with("tensor \"w\": ") && error.contains(expected), "{entries:?}: {error}");
    }
    let huge = TensorProto { dims: vec![1 << 40], ..external(&[("location", "data.bin")]) };
    fs::write(models.join("model.onnx"), with_weight(huge)).unwrap();
    assert!(read_at(&models.join("model.onnx")).unwrap_err().contains("ends at byte 16"));
}

#[test]
fn paths_out_of_the_folder_are_refused() {
    let (root, models) = folder();
    let absolute = root.path().join("secret.bin").to_str().unwrap().to_owned();
    for location in ["../secret.bin", "a/../../secret.bin", "..", &absolute, "a\\..\\b"] {
        let error = read_in(&models, &[("location", location)]).unwrap_err();
        assert!(error.contains("is not a relative path without \"..\""), "{error}");
    }
    let error = read_bytes(&with_weight(external(&[("location", "data.bin")]))).unwrap_err().to_string();
    assert!(error.contains("has no folder to find external data \"data.bin\" in"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_are_refused() {
    use std::os::unix::fs::symlink;
    let (root, models) = folder();
    symlink("../secret.bin", models.join("link")).unwrap();
    symlink(root.path(), models.join("up")).unwrap();
    symlink("data.bin", models.join("inside")).unwrap();
    for location in ["link", "up/secret.bin"] {
        let error = read_in(&models, &[("location", location)]).unwrap_err();
        assert!(error.contains("lies outside the model's folder"), "{error}");
    }
    assert_eq!(read_in(&models, &[("location", "inside")]).unwrap(), [1.0, 2.0]);
    fs::hard_link(root.path().join("secret.bin"), models.join("hard")).unwrap();
    let error = read_in(&models, &[("location", "hard")]).unwrap_err();
    assert!(error.contains("has 2 hard links"), "{error}");
}

/// As Hugging Face's cache has it: `snapshots/1/model.onnx` and `snapshots/1/data.bin` link to `blobs/…`.
#[cfg(unix)]
#[test]
fn a_model_reached_through_links_finds_its_data() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (root.path().join("blobs"), root.path().join("snapshots/1"));
    fs::create_dir(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(blobs.join("aa"), with_weight(external(&[("location", "data.bin")]))).unwrap();
    fs::write(blobs.join("bb"), [0; 8]).unwrap();
    symlink("../../blobs/aa", snapshot.join("model.onnx")).unwrap();
    symlink("../../blobs/bb", snapshot.join("data.bin")).unwrap();
    assert_eq!(read_at(&snapshot.join("model.onnx")).unwrap(), [0.0, 0.0]);
    // And data beside the real model, when only the model is linked to.
    fs::rename(blobs.join("bb"), blobs.join("data.bin")).unwrap();
    fs::remove_file(snapshot.join("data.bin")).unwrap();
    assert_eq!(read_at(&snapshot.join("model.onnx")).unwrap(), [0.0, 0.0]);
}

#[test]
fn external_data_in_constants_and_sparse_tensors_is_held_to_the_same() {
    use crate::onnx::proto::SparseTensorProto;
    let (_root, models) = folder();
    let path = models.join("model.onnx");
    let outside = || external(&[("location", "../secret.bin")]);
    let mut sparse = graph(&["x"], None, vec![node("Relu", &["x"], &["y"], vec![])], &["y"]);
    sparse.sparse_initializer = vec![SparseTensorProto {
        values: Some(outside()),
        indices: Some(i64s("", &[2], &[0, 1])),
        dims: vec![2, 2],
    }];
    let constant = node("Constant", &[], &["w"], vec![tensor("value", outside())]);
    let branch = || graph(&[], None, vec![constant.clone()], &["w"]);
    let branches = vec![body("then_branch", branch()), body("else_branch", branch())];
    for proto in [
        sparse,
        graph(&["x"], None, vec![constant.clone()], &["w"]),
        graph(&["x"], None, vec![node("If", &["x"], &["y"], branches)], &["y"]),
    ] {
        fs::write(&path, model(13, proto).encode_to_vec()).unwrap();
        let error = crate::onnx::read(&path).unwrap_err().to_string();
        assert!(error.contains("is not a relative path without \"..\""), "{error}");
    }
}
