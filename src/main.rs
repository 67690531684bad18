//! The command `poda`: one line for an error, exit code 1 for a failure and 2 for wrong usage.

use std::process::ExitCode;
use std::{io, panic};

use clap::Parser;

mod commands;
mod footprint;
mod kernel_table;
mod page;
mod passes;
mod profile_table;
mod progress;
mod runtime_args;
mod shape_args;
mod table;
mod values;

/// Prune neural networks, and run what is left with SIMD sparse kernels
#[derive(Parser)]
#[command(name = "poda", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        // A panic is reported below, like any other error.
        panic::set_hook(Box::new(|_| {}));
    }
    let result = panic::catch_unwind(|| cli.command.run()).unwrap_or_else(|_| {
        Err(anyhow::anyhow!("internal error, please report it; RUST_BACKTRACE=1 says more"))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("poda: {}", table::escaped(&message(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without those whose words are there already.
fn message(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        match &said[..] {
            "" => cause,
            _ if said.ends_with(&cause) => said,
            _ => format!("{said}: {cause}"),
        }
    })
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
