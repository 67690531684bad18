//! What the integration tests share.

use std::path::PathBuf;

use poda::Tensor;

/// Models that cannot be had, one in a line, each with the reason.
const UNAVAILABLE: &str = include_str!("../models/unavailable.txt");

/// The file of a real model, or `None` after saying that its test is skipped. `tests/run.sh` fetches them.
///
/// # Panics
/// Where `CI` is set and nothing says that the model cannot be had.
pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("PODA_TEST_MODELS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/test-models"), PathBuf::from);
    let path = folder.join(name);
    if path.is_file() {
        return Some(path);
    }
    let known = UNAVAILABLE.lines().any(|line| line.split_whitespace().next() == Some(name));
    let must = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
    let what = format!("{} is not there; tests/run.sh fetches it", path.display());
    assert!(known || !must, "{what}, and tests/models/unavailable.txt does not say that it cannot be had");
    eprintln!("skipped: {what}");
    None
}

/// The largest difference of two tensors, relative to the largest magnitude of the second; infinite where one is NaN
/// and the other not.
pub(crate) fn relative_difference(ours: &Tensor, theirs: &Tensor) -> f32 {
    assert_eq!(ours.shape(), theirs.shape());
    assert_eq!(ours.dtype(), theirs.dtype());
    let Ok(theirs) = theirs.as_slice::<f32>() else {
        return if ours == theirs { 0.0 } else { f32::INFINITY };
    };
    let ours = ours.as_slice::<f32>().expect("the types are equal");
    let scale = theirs.iter().fold(f32::MIN_POSITIVE, |scale, v| scale.max(v.abs()));
    let difference = |(a, b): (&f32, &f32)| match (a.is_nan(), b.is_nan()) {
        (true, true) => 0.0,
        (false, false) if a == b => 0.0,
        (false, false) => (a - b).abs() / scale,
        _ => f32::INFINITY,
    };
    ours.iter().zip(theirs).map(difference).fold(0.0, f32::max)
}
