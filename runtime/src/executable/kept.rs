//! What of an executable a file may keep, so that the next one is ready sooner.

use std::collections::HashMap;

use poda_formats::{Graph, Packing, ValueId, Weight};

use super::Executable;

/// What became of the packings that a model's file keeps beside its weights ([`Executable::with_packings`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeptPackings {
    /// Packings that were read from the file.
    pub found: usize,
    /// Packings that were made although the file keeps some of their weights: those are for another CPU, version, number of threads
    /// or columns, or the weight was changed.
    pub made: usize,
}

impl KeptPackings {
    /// What a person should know of it, if anything.
    pub fn note(self) -> Option<String> {
        let Self { found, made } = self;
        (made > 0).then(|| {
            let all = found + made;
            format!(
                "{made} of {all} packings that the model keeps are not for this CPU, version, number of threads and shape, and were made \
                 anew"
            )
        })
    }
}

impl Executable {
    /// The model with, beside its sparse weights, what the plans made so far read in their place, and the answers of the tuner that they
    /// rest on. Opened from an artifact of it, on a CPU and with threads as these and for shapes as those, it is ready without timing
    /// kernels, and those weights without being packed: they are read from the file as they are used. What the model keeps already for
    /// this CPU stays, so that a model may be made ready for several shapes, one after the other.
    pub fn with_packings(&self) -> Graph {
        let mut graph = Graph::clone(&self.graph);
        if !self.tuner().keeps() {
            graph.drop_packings();
        }
        let mut kept: HashMap<ValueId, Vec<Packing>> = HashMap::new();
        for (value, packing) in self.weights.to_keep(|id| self.optimized.graph.weight(id)) {
            kept.entry(value).or_default().push(packing);
        }
        for (id, mut packings) in kept {
            // (A value that a pass made is none of the file's.)
            if let Some(Weight::Matrix(matrix)) =
                graph.values.get_mut(id.index()).and_then(|v| v.weight.as_mut())
            {
                packings.extend_from_slice(matrix.packings());
                packings.sort_by(|a, b| a.label.cmp(&b.label));
                packings.dedup_by(|a, b| a.label == b.label);
                *matrix = matrix.clone().with_packings(packings);
            }
        }
        graph.metadata.insert(Graph::KERNELS.to_owned(), self.tuner().answers());
        graph
    }

    /// What became of the packings that the model's file keeps.
    pub fn kept_packings(&self) -> KeptPackings {
        let kept = self.weights.kept();
        KeptPackings { found: kept.found(), made: kept.made() }
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::safetensors::SafeTensors;
    use poda_formats::storage::{AlignedBytes, Storage};
    use poda_formats::{DataType, Dim, Op, Tensor, artifact};

    use super::*;
    use crate::{Model, Options};

    /// `x · w`, `[n, 256] · [256, 128]` with 90 % zeros, stored sparse.
    fn model() -> Graph {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("n".into()), Dim::Fixed(256)]);
        let values =
            (0..256 * 128_usize).map(|i| if i * 7919 % 10 == 0 { (i % 17) as f32 - 8.5 } else { 0.0 });
        let w = graph.add_weight("w", Tensor::from_slice(&[256, 128], &values.collect::<Vec<_>>()));
        let y = graph.add_node(Op::MatMul, &[x, w], "y");
        graph.outputs.push(y);
        assert_eq!(graph.store_sparse(), 1);
        graph
    }

    fn prepare(graph: &Graph, threads: usize) -> Executable {
        let options = Options { threads: Some(threads), tune: false, ..Options::default() };
        Model::from_graph(graph.clone()).unwrap().prepare(options).unwrap()
    }

    fn run(executable: &Executable, n: usize) -> Vec<f32> {
        let x: Vec<f32> = (0..n * 256).map(|i| (i % 23) as f32 * 0.25).collect();
        let x = Tensor::from_slice(&[n, 256], &x);
        executable.run(&[("x", x.view())]).unwrap()[0].1.as_slice().unwrap().to_vec()
    }

    fn written(graph: &Graph) -> Vec<u8> {
        let mut file = Vec::new();
        artifact::write(&mut file, graph).unwrap();
        file
    }

    fn open(file: &[u8]) -> Graph {
        let storage = Storage::owned(AlignedBytes::copy_of(file));
        artifact::parse(&SafeTensors::parse(storage).unwrap()).unwrap()
    }

    fn kept(executable: &Executable) -> [usize; 2] {
        let KeptPackings { found, made } = executable.kept_packings();
        [found, made]
    }

    #[test]
    fn what_was_packed_is_read_where_all_is_as_it_was() {
        let first = prepare(&model(), 1);
        let results = run(&first, 64);
        assert_eq!((kept(&first), first.kept_packings().note()), ([0, 0], None));
        let graph = first.with_packings();
        let file = written(&graph);
        let read = open(&file);
        assert_eq!(read, graph);

        let second = prepare(&read, 1);
        assert_eq!((run(&second, 64), kept(&second)), (results.clone(), [1, 0]));
        // What it keeps, it keeps, and what is new is added.
        run(&second, 32);
        assert_eq!(kept(&second), [1, 1]);
        assert!(second.kept_packings().note().unwrap().starts_with("1 of 2 packings"));
        let third = prepare(&open(&written(&second.with_packings())), 1);
        assert_eq!(
            (run(&third, 64), run(&third, 32).len(), kept(&third)),
            (results.clone(), 32 * 128, [2, 0])
        );

        // Another number of threads.
        let other = prepare(&read, 2);
        assert_eq!((run(&other, 64), kept(&other)), (results, [0, 1]));
        let mut dropped = read;
        dropped.drop_packings();
        assert_eq!(written(&dropped), written(&model()));
    }

    /// By other hands, and by tools that know nothing of packings.
    #[test]
    fn changed_arrays_are_found_out() {
        let first = prepare(&model(), 1);
        let results = run(&first, 64);
        let file = written(&first.with_packings());
        let tensors = SafeTensors::parse(Storage::owned(AlignedBytes::copy_of(&file))).unwrap();
        for name in ["w.values", "w.packed0.6"] {
            let bytes = tensors.tensor(name).unwrap().bytes().to_vec();
            let at = file.windows(bytes.len()).position(|window| window == bytes).unwrap();
            let mut changed = file.clone();
            // The high byte of the first but one offset, or of the first value's exponent.
            changed[at + 3] ^= 0xe0;
            let executable = prepare(&open(&changed), 1);
            let found = run(&executable, 64);
            assert_eq!(kept(&executable), [0, 1], "{name}");
            assert_eq!(found == results, name != "w.values", "the weight counts, whatever was packed");
        }
    }
}
