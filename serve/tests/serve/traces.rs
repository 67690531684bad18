//! Spans as an OpenTelemetry collector gets them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};

use crate::common;

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().unwrap().extend(spans.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens until the runtime is dropped.
    fn start(&self) -> (Runtime, SocketAddr) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = TraceServiceServer::new(self.clone());
        let incoming = runtime.block_on(async { TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap() });
        let address = incoming.local_addr().unwrap();
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        (runtime, address)
    }
}

#[test]
fn a_request_has_a_span_below_that_of_its_client() {
    let folder = tempfile::tempdir().unwrap();
    let model = common::write(&common::linear(1.0), &folder.path().join("linear.onnx"));
    let collector = Collector::default();
    let (_runtime, address) = collector.start();
    let config = poda_serve::Config {
        models: vec![model],
        otlp_endpoint: Some(format!("http://{address}")),
        ..common::config()
    };
    let server = common::start(config);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("Content-Type", "application/json"), ("traceparent", parent), ("X-Request-Id", "mine")];
    let body = common::x(&[1, 4], &[1.0; 4]).to_string();
    let answer = common::request(server.http, "POST", "/v2/models/linear/infer", &headers, body.as_bytes());
    assert_eq!(answer.status, 200);
    assert_eq!(common::get(server.http, "/v2/health/ready").status, 200);
    assert_eq!(common::get(server.http, "/nothing").status, 404);
    server.stop().unwrap();

    let spans = collector.0.lock().unwrap();
    let by_name: BTreeMap<&str, &Span> = spans.iter().map(|span| (&*span.name, span)).collect();
    let names: Vec<&str> = by_name.keys().copied().collect();
    assert_eq!(names, ["GET", "POST /v2/models/{model}/infer", "gather", "queue", "run"]);
    let request = by_name["POST /v2/models/{model}/infer"];
    assert_eq!(request.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(request.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    let said = format!("{:?}", request.attributes);
    for said_too in ["http.response.status_code", "IntValue(200)", "\"mine\""] {
        assert!(said.contains(said_too), "{said}");
    }
    for name in ["gather", "queue", "run"] {
        let span = by_name[name];
        assert_eq!((&span.trace_id, &span.parent_span_id), (&request.trace_id, &request.span_id));
        assert!(request.start_time_unix_nano <= span.start_time_unix_nano, "{name}");
        assert!(span.end_time_unix_nano <= request.end_time_unix_nano, "{name}");
    }
    let not_found = by_name["GET"];
    assert!(not_found.parent_span_id.is_empty() && not_found.trace_id != request.trace_id);
}

#[test]
fn a_collector_that_cannot_be_is_refused_and_one_that_is_away_hinders_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let model = common::write(&common::linear(1.0), &folder.path().join("linear.onnx"));
    let config = |endpoint: &str| poda_serve::Config {
        models: vec![model.clone()],
        otlp_endpoint: Some(endpoint.into()),
        ..common::config()
    };
    let refused = poda_serve::start(config("collector:4317")).unwrap_err().to_string();
    assert!(refused.contains("--otlp-endpoint collector:4317") && refused.contains("http://"), "{refused}");
    // A port where nobody listens.
    let server = common::start(config("http://127.0.0.1:9"));
    let answer = common::infer(server.http, "linear", &[1, 4], &[1.0; 4]);
    assert_eq!(answer.data("y"), [5.0; 3]);
    server.stop().unwrap();
}
