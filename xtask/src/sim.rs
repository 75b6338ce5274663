//! `cargo xtask sim`: the tests on the simulated GPU.

use std::env;
use std::process::Command;

use crate::Result;

/// Runs the tests of the GPU backend and its kernels in the simulator, in the release profile.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also test ops at the sizes of real models
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tests = Command::new(cargo);
    tests.args(["test", "--release", "--package", "selfie-sim", "--package"]);
    tests.args(["selfie-ptxsim", "--"]);
    if args.all {
        tests.arg("--include-ignored");
    }
    if !tests.status()?.success() {
        return Err("tests on the simulated GPU failed".into());
    }
    Ok(())
}
