//! `cargo xtask gpu-bundle`: a folder that checks and measures the CUDA backend on a machine with only a GPU driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::bench::commit;

/// The maximum size of a packed bundle, in bytes.
const MOST: u64 = 48 << 20;

/// The newest glibc that the programs may need.
const GLIBC: (u32, u32) = (2, 36);

const PROGRAMS: [&str; 3] = ["selfie", "gpu-check", "gpu-bench"];

/// Builds the programs in release mode and packs them with the golden checkpoints, a script, and the PyTorch baseline,
/// as a folder and as an archive of it (.tar.xz).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder to write; it must not exist yet
    #[arg(long)]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.out.exists() {
        let out = args.out.display();
        return Err(format!("{out} already exists; remove it, or name another folder").into());
    }
    let packages = ["-p", "selfie-cli", "-p", "selfie-gpu-check"];
    done(
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--locked"])
            .args(packages),
    )?;
    let bin = args.out.join("bin");
    fs::create_dir_all(&bin)?;
    for program in PROGRAMS {
        let to = bin.join(program);
        fs::copy(Path::new("target/release").join(program), &to)?;
        // Keep the line numbers of panics; strip the debugger's data.
        done(Command::new("strip").arg("--strip-all").arg(&to))?;
        check_glibc(&to)?;
    }
    copy_all(
        Path::new("crates/selfie-llama/tests/golden"),
        &args.out.join("golden"),
    )?;
    copy_all(Path::new("benches/baseline"), &args.out.join("baseline"))?;
    fs::copy("crates/dev/gpu-check/run.sh", args.out.join("run.sh"))?;
    fs::write(args.out.join("COMMIT"), commit() + "\n")?;

    let archive = archive(&args.out)?;
    let bytes = fs::metadata(&archive)?.len();
    let megabytes = bytes as f64 / f64::from(1 << 20);
    if bytes > MOST {
        let most = MOST >> 20;
        return Err(format!("the archive has {megabytes:.1} MiB; the limit is {most} MiB").into());
    }
    println!(
        "{}, and {} ({megabytes:.1} MiB); on the GPU machine, run: run.sh check, run.sh bench, run.sh all FOLDER",
        args.out.display(),
        archive.display()
    );
    Ok(())
}

/// Packs the folder into an archive beside it.
fn archive(folder: &Path) -> Result<PathBuf> {
    let name = folder.file_name().ok_or("--out names no folder")?;
    let mut archive = folder.as_os_str().to_owned();
    archive.push(".tar.xz");
    let archive = PathBuf::from(archive);
    let parent = folder.parent().filter(|parent| *parent != Path::new(""));
    let mut tar = Command::new("tar");
    tar.arg("-cJf").arg(&archive);
    tar.arg("-C")
        .arg(parent.unwrap_or(Path::new(".")))
        .arg(name);
    done(&mut tar)?;
    Ok(archive)
}

fn done(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|e| format!("cannot run {program}: {e}"))?;
    if !status.success() {
        return Err(format!("{program} failed: {status}").into());
    }
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// An error if a program needs a newer glibc than bundles may.
fn check_glibc(program: &Path) -> Result<()> {
    let name = program.display();
    let bytes = fs::read(program)?;
    match newest_glibc(&bytes) {
        Some(newest) if newest > GLIBC => {
            let (newest, most) = (newest.1, GLIBC.1);
            Err(format!("{name} needs glibc 2.{newest}, and a bundle runs with 2.{most}: build it on an older system").into())
        }
        Some(_) => Ok(()),
        None => Err(format!("{name} names no version of glibc").into()),
    }
}

/// The newest of the versions `GLIBC_2.x` that a program's symbols name.
fn newest_glibc(bytes: &[u8]) -> Option<(u32, u32)> {
    const PREFIX: &[u8] = b"GLIBC_";
    let at =
        (0..bytes.len().saturating_sub(PREFIX.len())).filter(|&i| bytes[i..].starts_with(PREFIX));
    let version = |i: usize| {
        let digits = bytes[i + PREFIX.len()..].iter();
        let text: String = digits
            .map(|&b| char::from(b))
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        let mut parts = text.split('.').map(|part| part.parse().ok());
        Some((parts.next()??, parts.next()??))
    };
    at.filter_map(version).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_counts_by_number() {
        let symbols = b"\0GLIBC_2.9\0__libc\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_PRIVATE\0";
        assert_eq!(newest_glibc(symbols), Some((2, 34)));
        assert_eq!(newest_glibc(b"static"), None);
    }
}
