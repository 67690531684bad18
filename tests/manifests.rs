//! What whoever depends on the crates sees of them: what a registry asks for, and how much comes with the library.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What cargo says, offline.
fn cargo(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).args(["--offline", "--locked"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_crate_can_be_published() {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps"])).unwrap();
    let mut names = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let text = |key: &str| package[key].as_str().unwrap_or_else(|| panic!("{name} has no {key}"));
        let list = |key: &str| package[key].as_array().unwrap().len();
        assert!(text("description").len() > 20, "{name}");
        assert_eq!(text("license"), "MIT OR Apache-2.0", "{name}");
        let folder = Path::new(text("manifest_path")).parent().unwrap();
        assert!(folder.join(text("readme")).is_file(), "{name} has no {}", text("readme"));
        assert!(
            (1..=5).contains(&list("keywords")) && list("categories") >= 1,
            "{name}: keywords, categories"
        );
        if package["publish"].as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        names.insert(name);
        for file in ["LICENSE-MIT", "LICENSE-APACHE"] {
            assert!(folder.join(file).is_file(), "{name} has no {file}");
        }
        for dependency in package["dependencies"].as_array().unwrap() {
            let asked = dependency["req"].as_str().unwrap();
            let normal = dependency["kind"].is_null();
            assert!(asked != "*" || !normal, "{name}: {} has no version", dependency["name"]);
        }
    }
    let all = ["poda", "poda-capi", "poda-formats", "poda-pruner", "poda-runtime", "poda-serve"];
    assert_eq!(names, BTreeSet::from(all));
}

/// Crates that a program gets with the library and these features, the library included.
fn crates(features: &str) -> usize {
    let tree = ["tree", "-p", "poda", "--no-default-features", "--edges", "normal", "--prefix", "none"];
    let tree = cargo(&[&tree[..], &["--features", features]].concat());
    tree.lines().map(|line| line.trim_end_matches(" (*)")).collect::<BTreeSet<_>>().len()
}

#[test]
fn the_library_alone_is_small() {
    assert!(crates("") < 55, "{}", crates(""));
    assert!(crates("full") < 60, "{}", crates("full"));
}
