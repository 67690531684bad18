//! `poda serve`.

use std::io::Write;
use std::path::PathBuf;
use std::{fs, io};

use anyhow::{Context, Result};
use poda_serve::{Config, Event, LogFormat, Mode};
use serde::Serialize;

/// Serve models over HTTP and gRPC: Open Inference Protocol v2, embeddings, metrics
///
/// Prints `http ADDR`, `grpc ADDR` and, when every model is loaded, warmed and tried, `ready SECONDS` on standard
/// output; the configuration and the log go to standard error. SIGTERM ends it in order, SIGHUP reloads models and
/// certificates. Every flag has a variable (--max-batch is PODA_MAX_BATCH) and a key in the TOML file of --config.
///
/// Examples:
///   poda serve model.safetensors
///   poda serve --repository models/ --http 0.0.0.0:8080 --token-file tokens
///   poda serve minilm/model.safetensors --warm 1,8,32 --max-batch 32
///   curl http://127.0.0.1:8080/v2/models/model
#[derive(clap::Args, Serialize)]
#[command(verbatim_doc_comment)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Args {
    /// Model files, or folders with model.safetensors or model.onnx; each is served under its name
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<PathBuf>,
    /// Name of the model, where it is one file or folder and is to have another than that
    #[arg(long, env = "PODA_NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// TOML file with any of these settings; flags and variables win
    #[arg(long, env = "PODA_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Folder of NAME/VERSION/model.{safetensors,onnx} or NAME.safetensors; the greatest version of each is served
    #[arg(long, env = "PODA_REPOSITORY", value_name = "FOLDER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<PathBuf>,
    /// Let requests list, load and unload the models of the repository
    #[arg(long, env = "PODA_MODEL_CONTROL")]
    #[serde(skip_serializing_if = "is_false")]
    model_control: bool,
    /// Let a new version take or give other tensors than the one it replaces
    #[arg(long, env = "PODA_ALLOW_SIGNATURE_CHANGE")]
    #[serde(skip_serializing_if = "is_false")]
    allow_signature_change: bool,

    /// Where HTTP is served; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, env = "PODA_HTTP", value_name = "ADDR:PORT", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    /// Where gRPC is served, or off [default: 127.0.0.1:8081]
    #[arg(long, env = "PODA_GRPC", value_name = "ADDR:PORT", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    /// Connections open at once; more are refused [default: 1024]
    #[arg(long, env = "PODA_CONNECTIONS", value_name = "N", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<usize>,
    /// Web pages of this origin may send requests; may be repeated, * for any [default: none]
    #[arg(
        long,
        env = "PODA_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cors_origin: Vec<String>,

    /// Threads of each instance; without --instances those of all runs together [default: the CPUs of this container]
    #[arg(long, env = "PODA_THREADS", value_name = "N", help_heading = "Running models")]
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    /// Runs at once of each model, with one copy of its weights [default: as --mode says]
    #[arg(long, env = "PODA_INSTANCES", value_name = "N", help_heading = "Running models")]
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<usize>,
    /// Runs at once: as many as wait, up to one a thread and 8, but one under an overload (auto); always one, on all
    /// threads (latency); or one a CPU (throughput) [default: auto]
    #[arg(long, env = "PODA_MODE", value_enum, help_heading = "Running models")]
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<ModeArg>,
    /// Samples that may share a run, where it is proved that each is computed apart [default: 16]
    #[arg(long, env = "PODA_MAX_BATCH", value_name = "N", help_heading = "Running models")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_batch: Option<usize>,
    /// How long a request may wait for others to share its run; requests gather anyway while one runs [default: 0]
    #[arg(long, env = "PODA_MAX_DELAY", value_name = "MS", value_parser = millis, help_heading = "Running models")]
    #[serde(rename = "max-delay-ms", skip_serializing_if = "Option::is_none")]
    max_delay: Option<f64>,
    /// Requests of a model that may wait; more are refused at once with 429 [default: 512]
    #[arg(long, env = "PODA_QUEUE", value_name = "N", help_heading = "Running models")]
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<usize>,
    /// Let as many wait as --queue says even while more requests come than can be run; all are late then
    #[arg(long, env = "PODA_NO_SHED_LOAD", help_heading = "Running models")]
    #[serde(skip_serializing_if = "is_false")]
    no_shed_load: bool,
    /// Sizes of batches to plan for: of the usual shapes before the server is ready, of others when they would be run
    /// [default: 1,4,16]
    #[arg(
        long,
        env = "PODA_WARM",
        value_name = "N,N",
        value_delimiter = ',',
        help_heading = "Running models"
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warm: Vec<usize>,
    /// Size of an open dimension to plan for, such as sequence=128, or shape of an input; may be repeated
    #[arg(
        long,
        env = "PODA_SHAPE",
        value_name = "NAME=DIMS",
        value_delimiter = ',',
        help_heading = "Running models"
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shape: Vec<String>,
    /// Plans kept for each model, one for each set of input shapes [default: 64]
    #[arg(long, env = "PODA_PLANS", value_name = "N", help_heading = "Running models")]
    #[serde(skip_serializing_if = "Option::is_none")]
    plans: Option<usize>,
    /// The fastest kernel among the smallest, instead of the fastest
    #[arg(long, env = "PODA_PREFER_MEMORY", help_heading = "Running models")]
    #[serde(skip_serializing_if = "is_false")]
    prefer_memory: bool,
    /// Choose kernels by a built-in cost model, without timing them on this CPU
    #[arg(long, env = "PODA_NO_TUNE", help_heading = "Running models")]
    #[serde(skip_serializing_if = "is_false")]
    no_tune: bool,
    /// Read files into memory: for files that others may cut off or write over while they are served
    #[arg(long, env = "PODA_NO_MAP", help_heading = "Running models")]
    #[serde(skip_serializing_if = "is_false")]
    no_map: bool,

    /// Longest body of a request, such as 64MiB [default: 64MiB]
    #[arg(long, env = "PODA_MAX_BODY", value_name = "BYTES", value_parser = bytes, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_body: Option<u64>,
    /// Bytes of the bodies and tensors of all requests under way [default: 512MiB]
    #[arg(long, env = "PODA_MAX_IN_FLIGHT", value_name = "BYTES", value_parser = bytes, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<u64>,
    /// Longest headers of a request [default: 64KiB]
    #[arg(long, env = "PODA_MAX_HEADER", value_name = "BYTES", value_parser = bytes, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_header: Option<u64>,
    /// Most elements of a tensor in a request [default: 16777216]
    #[arg(long, env = "PODA_MAX_ELEMENTS", value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_elements: Option<usize>,
    /// Most samples, or texts, in one request [default: 256]
    #[arg(long, env = "PODA_MAX_CLIENT_BATCH", value_name = "N", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_client_batch: Option<usize>,
    /// How long the headers or the body of a request may take to arrive [default: 30]
    #[arg(long, env = "PODA_READ_TIMEOUT", value_name = "SECONDS", value_parser = seconds, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    read_timeout: Option<f64>,
    /// How long a request may wait and run; clients may ask for less [default: 60]
    #[arg(long, env = "PODA_TIMEOUT", value_name = "SECONDS", value_parser = seconds, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<f64>,
    /// After SIGTERM serve on for so long, while saying that the server is not ready [default: 0]
    #[arg(long, env = "PODA_GRACE", value_name = "SECONDS", value_parser = seconds, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    grace: Option<f64>,
    /// Then answer what is under way for at most so long [default: 30]
    #[arg(long, env = "PODA_DRAIN", value_name = "SECONDS", value_parser = seconds, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<f64>,

    /// File of bearer tokens, one a line; or PODA_TOKEN holds one [default: none is needed]
    #[arg(long, env = "PODA_TOKEN_FILE", value_name = "FILE", help_heading = "Security")]
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    /// PEM file of the server's certificate chain
    #[arg(long, env = "PODA_TLS_CERT", value_name = "FILE", help_heading = "Security")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, env = "PODA_TLS_KEY", value_name = "FILE", help_heading = "Security")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key: Option<PathBuf>,
    /// PEM file of the authorities that clients' certificates must come from
    #[arg(long, env = "PODA_TLS_CLIENT_CA", value_name = "FILE", help_heading = "Security")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client_ca: Option<PathBuf>,

    /// Log for people, or one JSON object a line [default: text]
    #[arg(long, env = "PODA_LOG", value_enum, help_heading = "Log")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<LogArg>,
    /// error, warn, info, debug (every request) or trace [default: info]
    #[arg(long, env = "PODA_LOG_LEVEL", value_name = "LEVEL", help_heading = "Log")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_level: Option<String>,
    /// Send a span of each request to this OpenTelemetry collector (gRPC), such as http://localhost:4317; needs a build
    /// with the feature opentelemetry
    #[arg(long, env = "PODA_OTLP_ENDPOINT", value_name = "URL", help_heading = "Log")]
    #[serde(skip_serializing_if = "Option::is_none")]
    otlp_endpoint: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, clap::ValueEnum)]
#[serde(into = "Mode")]
enum ModeArg {
    Auto,
    Latency,
    Throughput,
}

impl From<ModeArg> for Mode {
    fn from(arg: ModeArg) -> Self {
        match arg {
            ModeArg::Auto => Self::Auto,
            ModeArg::Latency => Self::Latency,
            ModeArg::Throughput => Self::Throughput,
        }
    }
}

#[derive(Debug, Clone, Copy, Serialize, clap::ValueEnum)]
#[serde(into = "LogFormat")]
enum LogArg {
    Text,
    Json,
}

impl From<LogArg> for LogFormat {
    fn from(arg: LogArg) -> Self {
        match arg {
            LogArg::Text => Self::Text,
            LogArg::Json => Self::Json,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A time in a unit, or in seconds.
fn time(text: &str, plain: f64) -> Result<f64, String> {
    let text = text.trim();
    let units = [("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("min", 60.0), ("s", 1.0)];
    let (number, unit) = units
        .iter()
        .find_map(|&(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
        .unwrap_or((text, plain));
    let number: f64 =
        number.trim().parse().map_err(|_| "expected a time, such as 5, 5s or 250ms".to_owned())?;
    Ok(number * unit)
}

pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    time(text, 1.0)
}

pub(crate) fn millis(text: &str) -> Result<f64, String> {
    Ok(time(text, 1e-3)? * 1e3)
}

fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0)];
    let text = text.trim();
    let (number, shift) =
        units.iter().find_map(|&(unit, shift)| Some((text.strip_suffix(unit)?, shift))).unwrap_or((text, 0));
    let number = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| "expected a number of bytes, such as 1048576 or 1MiB".to_owned())
}

impl Args {
    fn config(&self) -> Result<Config> {
        let file = match &self.config {
            Some(path) => fs::read_to_string(path).with_context(|| path.display().to_string())?,
            None => String::new(),
        };
        let mut flags = toml::Table::try_from(self)?;
        if let Ok(token) = std::env::var("PODA_TOKEN") {
            flags.insert("token".into(), token.into());
        }
        let at =
            || self.config.as_ref().map_or_else(|| "flags".to_owned(), |path| path.display().to_string());
        Config::from_tables(&file, flags).with_context(at)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let config = args.config()?;
    config.check()?;
    poda_serve::log(&config)?;
    eprintln!("{config}");
    poda_serve::run(config, |event| {
        let line = match event {
            Event::Http(address) => format!("http {address}"),
            Event::Grpc(address) => format!("grpc {address}"),
            Event::Ready(took) => format!("ready {:.3}", took.as_secs_f64()),
            _ => return,
        };
        // Whoever started the server may have closed its output; it serves all the same.
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(seconds("5"), Ok(5.0));
        assert_eq!(seconds("250ms"), Ok(0.25));
        assert_eq!(seconds("2min"), Ok(120.0));
        assert_eq!(millis("5"), Ok(5.0));
        assert_eq!(millis("1s"), Ok(1000.0));
        assert!(seconds("soon").is_err());
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("17"), Ok(17));
        assert!(bytes("99999999999GiB").is_err());
    }
}
