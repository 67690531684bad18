//! What a fresh process needs to load a model.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// What a process of its own needs for one model.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Footprint {
    /// Until the first outputs are there: open, prepare, plan, run; in milliseconds.
    pub(crate) load_ms: f64,
    /// Resident bytes after load and a few runs.
    pub(crate) loaded: u64,
    /// The most resident bytes until then.
    pub(crate) peak: u64,
}

/// What two processes need, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprints {
    /// The first on this machine, which knows no kernels and times them.
    pub(crate) first: Footprint,
    /// One that finds the kernels chosen.
    pub(crate) tuned: Footprint,
}

/// Starts this program twice with `args`, which make it print a [`Footprint`], with a cache of kernels of their own.
pub(crate) fn footprints(model: &Path, args: &[String]) -> Result<Footprints> {
    let cache = tempfile::tempdir().context("no temporary folder")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let run = || -> Result<Footprint> {
        let output = Command::new(&program)
            .args(["bench", "--footprint"])
            .arg(model)
            .args(args)
            .env("XDG_CACHE_HOME", cache.path())
            .output()
            .context("cannot start a process to measure memory")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", said.trim_start_matches("poda: ").trim());
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    Ok(Footprints { first: run()?, tuned: run()? })
}
