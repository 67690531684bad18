//! What a listener is told of a model's life. (`cargo test --features tracing`; the server has the feature on.)

use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use poda_formats::{DataType, Dim, Graph, Op, Tensor};
use poda_runtime::{Model, Options};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Names of spans in order, with their fields.
#[derive(Clone, Default)]
struct Listener {
    heard: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicU64>,
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "poda"
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = Fields(attributes.metadata().name().to_owned());
        attributes.record(&mut fields);
        self.heard.lock().unwrap().push(fields.0);
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn spans_tell_of_load_prepare_plan_and_run() {
    let mut graph = Graph { name: "product".into(), ..Graph::default() };
    let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(2)]);
    let w = graph.add_weight("w", Tensor::from_slice(&[2, 1], &[1.0_f32, 2.0]));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    let mut bytes = Vec::new();
    poda_formats::artifact::write(&mut bytes, &graph).unwrap();

    let listener = Listener::default();
    tracing::subscriber::with_default(listener.clone(), || {
        let options = Options { threads: Some(1), tune: false, ..Options::default() };
        let executable = Model::from_bytes(&bytes).unwrap().prepare(options).unwrap();
        let x = Tensor::from_slice(&[3, 2], &[1.0_f32; 6]);
        for _ in 0..2 {
            executable.run(&[("x", x.view())]).unwrap();
        }
    });
    let heard = listener.heard.lock().unwrap();
    let load = format!("load bytes={}", bytes.len());
    let expected = [
        load.as_str(),
        "prepare model=\"product\" nodes=1",
        "plan shapes=[[1, 2]]",
        "run",
        "plan shapes=[[3, 2]]",
        "run",
    ];
    assert_eq!(*heard, expected);
}
