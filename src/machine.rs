//! What measured: CPU, instruction set, version.

use std::fmt;

use poda_runtime::kernels::Level;
use serde::Serialize;

/// The machine and the program that figures are of.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The CPU's name for itself.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// What the kernels use.
    pub instruction_set: &'static str,
    /// Of Poda.
    pub version: &'static str,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        Self {
            cpu: cpu_name(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            instruction_set: match Level::best() {
                Level::Portable => "no vector extensions",
                Level::Avx2 => "AVX2",
                Level::Avx512 => "AVX-512",
            },
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cpus, instruction_set, version } = self;
        write!(f, "{cpu}, {cpus} CPUs, {instruction_set}; Poda {version}")
    }
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
