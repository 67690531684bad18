//! Whole small models against another autodiff: `tests/gradients/reference.py` makes models and reference values with JAX.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use poda_formats::{DataType, Dim, Tensor, onnx};
use poda_pruner::gradients::differentiate;
use poda_pruner::gradients::loss::{Loss, append};
use poda_runtime::{Model, Options};

/// The arrays of an `.npz`: f32, or i64.
fn arrays(path: &Path) -> BTreeMap<String, Tensor> {
    let mut archive = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
    let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    let mut all = BTreeMap::new();
    for name in names {
        let mut bytes = Vec::new();
        archive.by_name(&name).unwrap().read_to_end(&mut bytes).unwrap();
        let file = npyz::NpyFile::new(&bytes[..]).unwrap();
        let shape: Vec<usize> = file.shape().iter().map(|&d| d as usize).collect();
        let tensor = if file.dtype().descr().contains("i8") {
            Tensor::from_slice(&shape, &file.into_vec::<i64>().unwrap())
        } else {
            Tensor::from_slice(&shape, &file.into_vec::<f32>().unwrap())
        };
        all.insert(name.trim_end_matches(".npy").to_owned(), tensor);
    }
    all
}

#[test]
fn models_have_the_gradients_that_jax_gives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gradients");
    let mut models: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    models.sort();
    assert_eq!(models.len(), 12);
    for path in models {
        let expected = arrays(&path.with_extension("npz"));
        let mut graph = onnx::read(&path).unwrap();
        let weights: Vec<_> =
            expected.keys().filter_map(|name| graph.find(name.strip_prefix("d/")?)).collect();
        assert!(weights.len() > 1 && weights.len() == expected.len() - 3, "{path:?}");
        let mut feeds = vec![("x".to_owned(), expected["x"].clone())];
        for &id in &weights {
            let name = graph.value(id).name.clone();
            feeds.push((name, graph.make_input(id).unwrap().to_dense().unwrap()));
        }
        let labels = graph.add_input("labels", DataType::I64, vec![Dim::Symbol("batch".into())]);
        feeds.push(("labels".to_owned(), expected["labels"].clone()));
        let output = graph.outputs[0];
        let loss = append(&mut graph, Loss::CrossEntropy, output, labels);
        let shapes = feeds.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
        let gradients = differentiate(&mut graph, &shapes, loss, &weights).unwrap();
        let gradients: Vec<_> = gradients.into_iter().map(|g| g.expect("reached")).collect();
        graph.outputs = [&[loss], &gradients[..]].concat();
        let names: Vec<String> = weights.iter().map(|&id| graph.value(id).name.clone()).collect();
        let options = Options { threads: Some(1), tune: false, ..Options::default() };
        let executable = Model::from_graph(graph).unwrap().prepare(options).unwrap();
        let views: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
        let found = executable.run(&views).unwrap();
        let wanted = std::iter::once("loss".to_owned()).chain(names.iter().map(|name| format!("d/{name}")));
        for (name, (_, found)) in wanted.zip(&found) {
            let expected = &expected[&name];
            assert_eq!(found.shape(), expected.shape(), "{path:?} {name}");
            let (found, expected) = (found.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
            let scale = expected.iter().fold(1e-3_f32, |scale, v| scale.max(v.abs()));
            let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{path:?} {name}: {worst} of {scale}\n{found:?}\n{expected:?}");
        }
    }
}
