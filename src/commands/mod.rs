//! One file for each command.

use anyhow::Result;
use clap::Subcommand;

mod bench;
mod compare;
mod convert;
mod demo;
mod eval;
mod finetune;
mod inspect;
#[cfg(feature = "serve")]
mod load;
mod prune;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod sweep;
mod tune;

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Inspect(inspect::Args),
    Convert(convert::Args),
    Prune(Box<prune::Args>),
    Finetune(Box<finetune::Args>),
    Sweep(Box<sweep::Args>),
    Run(run::Args),
    Eval(eval::Args),
    Compare(compare::Args),
    Bench(bench::Args),
    Tune(tune::Args),
    #[cfg(feature = "serve")]
    Load(load::Args),
    #[cfg(feature = "serve")]
    Serve(Box<serve::Args>),
    Demo(demo::Args),
}

impl Command {
    /// Carries the command out.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Inspect(args) => inspect::run(&args),
            Self::Convert(args) => convert::run(&args),
            Self::Prune(args) => prune::run(&args),
            Self::Finetune(args) => finetune::run(&args),
            Self::Sweep(args) => sweep::run(&args),
            Self::Run(args) => run::run(&args),
            Self::Eval(args) => eval::run(&args),
            Self::Compare(args) => compare::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Tune(args) => tune::run(&args),
            #[cfg(feature = "serve")]
            Self::Load(args) => load::run(&args),
            #[cfg(feature = "serve")]
            Self::Serve(args) => serve::run(&args),
            Self::Demo(args) => demo::run(&args),
        }
    }
}
