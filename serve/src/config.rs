//! What a server is told: every field is a flag, a `PODA_*` variable and a key of the TOML file.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use poda_runtime::shapes::NamedShape;
use serde::{Deserialize, Serialize};

/// How a server is to run. Times are in seconds unless their name says otherwise, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Config {
    /// Model files; each is served under its name without the extension.
    pub models: Vec<PathBuf>,
    /// Name of the one model, in place of its file's.
    pub name: Option<String>,
    /// A folder of `NAME/VERSION/model.{safetensors,onnx}` or `NAME.{safetensors,onnx}`.
    pub repository: Option<PathBuf>,
    /// Whether requests may list, load and unload models.
    pub model_control: bool,
    /// Whether a new version may take or give other tensors than the one it replaces.
    pub allow_signature_change: bool,

    /// Where HTTP is served.
    pub http: String,
    /// Where gRPC is served, or `off`.
    pub grpc: String,
    /// Connections open at once, HTTP and gRPC together.
    pub connections: usize,
    /// Origins of web pages that may send requests; `*` for any.
    pub cors_origin: Vec<String>,

    /// Threads of each instance, or of all runs where nothing says how many there are; `None` shares out the CPUs that the process
    /// may use.
    pub threads: Option<usize>,
    /// Runs at once of each model.
    pub instances: Option<usize>,
    /// How many runs there are where `instances` does not say.
    pub mode: Mode,
    /// Samples that may share a run.
    pub max_batch: usize,
    /// Milliseconds that a request may wait for others to share its run.
    pub max_delay_ms: f64,
    /// Requests that may wait, for each model.
    pub queue: usize,
    /// Whether the queue is as long under an overload, too.
    pub no_shed_load: bool,
    /// Sizes of batches to plan for: of the usual shapes before the server is ready, of others once they would have been run.
    pub warm: Vec<usize>,
    /// Sizes of open dimensions to plan for, such as `sequence=128`.
    pub shape: Vec<String>,
    /// Plans kept for each model, one for each set of shapes.
    pub plans: usize,
    /// Whether to prefer little memory to speed.
    pub prefer_memory: bool,
    /// Whether kernels are chosen without timing them.
    pub no_tune: bool,
    /// Whether files are read into memory instead of being mapped.
    pub no_map: bool,

    /// Longest body of a request.
    pub max_body: u64,
    /// Bytes of the bodies and tensors of all requests under way.
    pub max_in_flight: u64,
    /// Longest headers of a request.
    pub max_header: usize,
    /// Most elements of a tensor in a request.
    pub max_elements: usize,
    /// Most samples in one request.
    pub max_client_batch: usize,
    /// How long a request may take to arrive.
    pub read_timeout: f64,
    /// How long a request may wait and run; clients may ask for less.
    pub timeout: f64,
    /// How long to serve on after SIGTERM while saying that the server is not ready.
    pub grace: f64,
    /// How long requests under way may take after that.
    pub drain: f64,

    /// A file of bearer tokens, one a line.
    pub token_file: Option<PathBuf>,
    /// A bearer token. Never shown.
    #[serde(skip_serializing)]
    pub token: Option<String>,
    /// PEM file of the server's certificate chain.
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its key.
    pub tls_key: Option<PathBuf>,
    /// PEM file of the authorities that clients' certificates must come from.
    pub tls_client_ca: Option<PathBuf>,

    /// A collector of OpenTelemetry, such as `http://localhost:4317`, that spans of requests are sent to.
    pub otlp_endpoint: Option<String>,
    /// How the log is written.
    pub log: LogFormat,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`.
    pub log_level: String,
}

/// How many runs of a model there are at once where [`Config::instances`] does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As many as threads, up to 8, and those that are fewer share them; under an overload one, so that what is accepted is answered soon.
    #[default]
    Auto,
    /// One, on all threads.
    Latency,
    /// As many as CPUs, on one each, under an overload too.
    Throughput,
}

/// Runs at once in [`Mode::Auto`]: each takes memory for its activations.
const MOST_RUNS: usize = 8;

/// How many runs of a model there are at once, at most, and on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Concurrency {
    pub(crate) runs: usize,
    /// While more requests come than can be run.
    pub(crate) overloaded_runs: usize,
    /// Of all runs together: one that is alone uses all of them.
    pub(crate) threads: usize,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            name: None,
            repository: None,
            model_control: false,
            allow_signature_change: false,
            http: "127.0.0.1:8080".into(),
            grpc: "127.0.0.1:8081".into(),
            connections: 1024,
            cors_origin: Vec::new(),
            threads: None,
            instances: None,
            mode: Mode::default(),
            max_batch: 16,
            max_delay_ms: 0.0,
            queue: 512,
            no_shed_load: false,
            warm: vec![1, 4, 16],
            shape: Vec::new(),
            plans: 64,
            prefer_memory: false,
            no_tune: false,
            no_map: false,
            max_body: 64 << 20,
            max_in_flight: 512 << 20,
            max_header: 64 << 10,
            max_elements: 16 << 20,
            max_client_batch: 256,
            read_timeout: 30.0,
            timeout: 60.0,
            grace: 0.0,
            drain: 30.0,
            token_file: None,
            token: None,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            otlp_endpoint: None,
            log: LogFormat::default(),
            log_level: "info".into(),
        }
    }
}

/// Why a configuration makes no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("nothing to serve: give a model file, or --repository FOLDER")]
    Nothing,
    #[error("--{flag} is {value}, which must be {expected}")]
    Value { flag: &'static str, value: String, expected: &'static str },
    #[error("--{given} needs --{missing}")]
    Pair { given: &'static str, missing: &'static str },
    #[error("--name names one model, there are {count} and --repository is {}", if *.repository { "given" } else { "not" })]
    Name { count: usize, repository: bool },
    #[error("--shape {text}: {source}")]
    Shape { text: String, source: poda_runtime::shapes::ParseShapeError },
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
}

impl Config {
    /// From a TOML document and flags, which win.
    ///
    /// # Errors
    /// When a key is unknown, or a value of the wrong type.
    pub fn from_tables(file: &str, flags: toml::Table) -> Result<Self, ConfigError> {
        let mut table: toml::Table = file.parse()?;
        table.extend(flags);
        Ok(table.try_into()?)
    }

    /// Checks what types do not.
    ///
    /// # Errors
    /// Naming the flag.
    pub fn check(&self) -> Result<(), ConfigError> {
        let positive = |flag, value: usize| match value {
            0 => Err(ConfigError::Value { flag, value: "0".into(), expected: "at least 1" }),
            _ => Ok(()),
        };
        if self.models.is_empty() && self.repository.is_none() {
            return Err(ConfigError::Nothing);
        }
        if self.name.is_some() && (self.models.len() != 1 || self.repository.is_some()) {
            let (count, repository) = (self.models.len(), self.repository.is_some());
            return Err(ConfigError::Name { count, repository });
        }
        positive("threads", self.threads.unwrap_or(1))?;
        positive("instances", self.instances.unwrap_or(1))?;
        for (flag, value) in [
            ("max-batch", self.max_batch),
            ("queue", self.queue),
            ("plans", self.plans),
            ("connections", self.connections),
            ("max-client-batch", self.max_client_batch),
            ("max-elements", self.max_elements),
            ("warm", self.warm.iter().copied().min().unwrap_or(1)),
        ] {
            positive(flag, value)?;
        }
        for (flag, value) in [
            ("max-delay", self.max_delay_ms / 1e3),
            ("read-timeout", self.read_timeout),
            ("timeout", self.timeout),
            ("grace", self.grace),
            ("drain", self.drain),
        ] {
            if !(0.0..=86_400.0).contains(&value) {
                let expected = "between 0 and a day";
                return Err(ConfigError::Value { flag, value: value.to_string(), expected });
            }
        }
        if self.max_header < 8192 {
            let value = self.max_header.to_string();
            return Err(ConfigError::Value { flag: "max-header", value, expected: "at least 8192" });
        }
        if self.max_in_flight / 2 < self.max_body {
            let value = self.max_in_flight.to_string();
            // A body is held beside the tensors that are read from it.
            return Err(ConfigError::Value {
                flag: "max-in-flight",
                value,
                expected: "at least twice --max-body",
            });
        }
        for (given, missing, fault) in [
            ("tls-cert", "tls-key", self.tls_cert.is_some() && self.tls_key.is_none()),
            ("tls-key", "tls-cert", self.tls_key.is_some() && self.tls_cert.is_none()),
            ("tls-client-ca", "tls-cert", self.tls_client_ca.is_some() && self.tls_cert.is_none()),
        ] {
            if fault {
                return Err(ConfigError::Pair { given, missing });
            }
        }
        self.shapes().map(drop)
    }

    /// The shapes that plans are made for.
    pub(crate) fn shapes(&self) -> Result<Vec<NamedShape>, ConfigError> {
        let parse =
            |text: &String| text.parse().map_err(|source| ConfigError::Shape { text: text.clone(), source });
        self.shape.iter().map(parse).collect()
    }

    /// Runs at once of each model, and the threads that they share.
    pub(crate) fn concurrency(&self) -> Concurrency {
        let cpus = poda_runtime::Threads::available();
        let fixed = |runs: usize| {
            let threads = self.threads.unwrap_or((cpus / runs).max(1));
            Concurrency { runs, overloaded_runs: runs, threads: runs.saturating_mul(threads) }
        };
        match (self.instances, self.mode) {
            (Some(instances), _) => fixed(instances),
            (None, Mode::Latency) => fixed(1),
            (None, Mode::Throughput) => fixed((cpus / self.threads.unwrap_or(1)).max(1)),
            (None, Mode::Auto) => {
                let threads = self.threads.unwrap_or(cpus);
                Concurrency { runs: threads.min(MOST_RUNS), overloaded_runs: 1, threads }
            }
        }
    }

    /// Samples of runs that are planned for: those of `warm`, and the most that there may be.
    pub(crate) fn batch_sizes(&self) -> Vec<usize> {
        let sizes = self.warm.iter().chain([&self.max_batch]);
        sizes.copied().filter(|&size| size > 1 && size <= self.max_batch).collect()
    }

    pub(crate) fn max_delay(&self) -> Duration {
        Duration::from_secs_f64(self.max_delay_ms / 1e3)
    }

    pub(crate) fn read_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.read_timeout)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }
}

/// As a TOML document that gives the same configuration, without the token.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = toml::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(text.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_what_is_shown_gives_it_again() {
        let flags: toml::Table = "queue = 7\ntoken = \"secret\"".parse().unwrap();
        let config = Config::from_tables("queue = 3\nmax-batch = 2\nmodels = [\"m.onnx\"]", flags).unwrap();
        assert_eq!((config.queue, config.max_batch), (7, 2));
        config.check().unwrap();
        let shown = config.to_string();
        assert!(!shown.contains("secret"), "{shown}");
        let again = Config::from_tables(&shown, toml::Table::new()).unwrap();
        assert_eq!(again, Config { token: None, ..config });
        assert!(Config::from_tables("quue = 3", toml::Table::new()).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_flag() {
        let config = |text: &str| Config::from_tables(text, toml::Table::new()).unwrap();
        for (text, flag) in [
            ("", "nothing to serve"),
            ("models = [\"m\"]\nqueue = 0", "--queue"),
            ("models = [\"m\", \"n\"]\nname = \"x\"", "--name"),
            ("models = [\"m\"]\ngrace = -1", "--grace"),
            ("models = [\"m\"]\nmax-in-flight = 1000", "--max-in-flight"),
            ("models = [\"m\"]\ntls-key = \"k\"", "--tls-cert"),
            ("models = [\"m\"]\nshape = [\"x\"]", "--shape"),
        ] {
            let error = config(text).check().unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn runs_share_out_the_cpus() {
        let of = |threads, instances, mode| {
            let config = Config { threads, instances, mode, ..Config::default() };
            let Concurrency { runs, overloaded_runs, threads } = config.concurrency();
            [runs, overloaded_runs, threads]
        };
        assert_eq!(of(Some(2), Some(3), Mode::Auto), [3, 3, 6]);
        assert_eq!(of(Some(2), None, Mode::Latency), [1, 1, 2]);
        assert_eq!(of(Some(5), None, Mode::Auto), [5, 1, 5]);
        assert_eq!(of(Some(64), None, Mode::Auto), [8, 1, 64]);
        let cpus = poda_runtime::Threads::available();
        assert_eq!(of(None, None, Mode::Auto), [cpus.min(8), 1, cpus]);
        assert_eq!(of(None, None, Mode::Latency), [1, 1, cpus]);
        assert_eq!(of(None, None, Mode::Throughput), [cpus, cpus, cpus]);
    }
}
