//! Writes the demo checkpoint into a folder, as Hugging Face lays one out: for programs that open a folder.
//!
//! `cargo run -p selfie-demo --example write DIR`

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args()
        .nth(1)
        .ok_or("give the folder to write, DIR")?;
    let dir = Path::new(&dir);
    selfie_demo::write(dir).map_err(|e| format!("cannot write {}: {e}", dir.display()))?;
    println!("{}: {} files", dir.display(), selfie_demo::FILES.len());
    Ok(())
}
