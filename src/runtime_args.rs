//! Options of the commands that run a model.

use anyhow::{Result, ensure};
use poda_runtime::optimize::PassesError;
use poda_runtime::{Options, Passes, Prefer};

/// How to run a model.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct RuntimeArgs {
    /// Threads; by default as many as this container may use
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// The fastest kernel of each weight, or the fastest of the smallest
    #[arg(long, value_enum, default_value = "latency")]
    prefer: PreferArg,
    /// Choose kernels by a built-in cost model, without timing them on this CPU
    #[arg(long)]
    no_tune: bool,
    /// Leave passes out that make models faster, for comparison: names with commas between, or all; `poda inspect --passes`
    /// lists them
    #[arg(long, value_name = "NAMES", value_parser = without)]
    without_pass: Option<Passes>,
}

fn without(names: &str) -> Result<Passes, PassesError> {
    Passes::without(names)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PreferArg {
    Latency,
    Memory,
}

impl RuntimeArgs {
    /// The options that they stand for.
    pub(crate) fn options(&self) -> Result<Options> {
        ensure!(self.threads != Some(0), "--threads must be at least 1");
        let prefer = match self.prefer {
            PreferArg::Latency => Prefer::Latency,
            PreferArg::Memory => Prefer::Memory,
        };
        let (tune, passes) = (!self.no_tune, self.passes());
        Ok(Options { threads: self.threads, prefer, tune, passes, ..Options::default() })
    }

    /// The passes that are applied.
    pub(crate) fn passes(&self) -> Passes {
        self.without_pass.unwrap_or_default()
    }

    /// The same, as flags for another process.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags: Vec<String> = self.threads.iter().map(|n| format!("--threads={n}")).collect();
        if self.prefer == PreferArg::Memory {
            flags.push("--prefer=memory".to_owned());
        }
        if self.no_tune {
            flags.push("--no-tune".to_owned());
        }
        flags.extend(self.without_pass.map(|passes| format!("--without-pass={}", passes.switched_off())));
        flags
    }
}
