//! `selfie random-checkpoint`.

use std::io::{self, Write};

use selfie::control::OutputFolder;
use selfie::demo::RandomCheckpoint;

use crate::args::RandomCheckpointArgs;
use crate::error::{CliError, Result, usage};

pub(crate) fn random_checkpoint(args: &RandomCheckpointArgs) -> Result<()> {
    let Some(shape) = RandomCheckpoint::shape(&args.shape) else {
        return usage(format!(
            "--shape {}: expected one of {}",
            args.shape,
            RandomCheckpoint::SHAPES.join(", ")
        ));
    };
    if args.out.join("config.json").exists() {
        return usage(format!(
            "--out {}: the folder already has a checkpoint; name another folder",
            args.out.display()
        ));
    }
    let out = OutputFolder::new(&args.out)?;
    let checkpoint = RandomCheckpoint {
        family: args.family,
        seed: args.seed,
        ..shape
    };
    checkpoint.write(out.partial(), &args.tokenizer)?;
    out.finish()?;
    writeln!(
        io::stdout(),
        "{}: random weights in the shape of {}",
        args.out.display(),
        args.shape
    )
    .map_err(CliError::Stdout)
}
