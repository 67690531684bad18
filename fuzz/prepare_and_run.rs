//! What the fuzz target of that name does with bytes.

use std::collections::BTreeMap;

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{Dim, onnx};
use poda_runtime::random_feeds::random_feeds;
use poda_runtime::{Model, Options};

/// Bytes that a run may plan for.
const MEMORY: usize = 64 << 20;

/// Whatever can be read can be prepared and run, or is refused.
pub(crate) fn prepare_and_run(bytes: &[u8]) {
    let storage = Storage::owned(AlignedBytes::copy_of(bytes));
    let Ok(graph) = onnx::read_storage(storage) else { return };
    let Ok(model) = Model::from_graph(graph) else { return };
    let options = Options { threads: Some(1), tune: false, memory_limit: Some(MEMORY), ..Options::default() };
    let Ok(executable) = model.prepare(options) else { return };
    let mut shapes = BTreeMap::new();
    for &id in &model.graph().inputs {
        let value = model.graph().value(id);
        let dims = value.shape.iter().flatten().map(|dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbol(_) => 3,
        });
        let shape: Vec<usize> = dims.collect();
        let bytes = shape.iter().try_fold(8_usize, |bytes, &size| bytes.checked_mul(size));
        if bytes.is_none_or(|bytes| bytes > MEMORY) {
            return;
        }
        shapes.insert(value.name.clone(), shape);
    }
    let Ok(feeds) = random_feeds(model.graph(), &shapes, 0) else { return };
    let views: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    let _ = executable.run(&views);
}
