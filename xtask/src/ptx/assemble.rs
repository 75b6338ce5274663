//! Assembles kernels with `ptxas` for each architecture.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use selfie_kernels::gpu::Module;

use crate::Result;

/// The architectures to assemble for: the oldest that the kernels support, and later generations.
pub(super) const ARCHITECTURES: [u32; 4] = [80, 90, 100, 120];

/// One kernel entry as the device will run it.
#[derive(Clone, Debug)]
pub(super) struct Assembled {
    pub(super) module: Module,
    pub(super) entry: String,
    /// `sm_` this.
    pub(super) architecture: u32,
    /// Registers per thread.
    pub(super) registers: u32,
    /// Shared memory that the kernel declares, in bytes.
    pub(super) shared: u32,
    /// The machine code of all entries in the module.
    pub(super) cubin: PathBuf,
}

/// Assembles the kernels of `module` into `out`.
pub(super) fn assemble_kernels(
    ptxas: &Path,
    module: Module,
    architecture: u32,
    out: &Path,
) -> Result<Vec<Assembled>> {
    let (name, source) = (module.name(), module.source());
    let (cubin, entries) = assemble(ptxas, &name, &source, architecture, out)?;
    let assembled = entries.into_iter().map(|entry| Assembled {
        module,
        entry: entry.name,
        architecture,
        registers: entry.registers,
        shared: entry.shared,
        cubin: cubin.clone(),
    });
    Ok(assembled.collect())
}

/// Assembles `source` into `out`. Spills, local memory, and any other warning of `ptxas` are errors. Returns the file
/// with the machine code, and what the kernels use.
pub(super) fn assemble(
    ptxas: &Path,
    name: &str,
    source: &str,
    architecture: u32,
    out: &Path,
) -> Result<(PathBuf, Vec<Entry>)> {
    // Others may assemble the same module for other architectures at the same time.
    let text = out.join(format!("{name}.sm_{architecture}.ptx"));
    let cubin = out.join(format!("{name}.sm_{architecture}.cubin"));
    fs::write(&text, source)?;
    let done = Command::new(ptxas)
        .args(["-v", "-Werror", "-warn-spills", "-warn-lmem-usage", "-arch"])
        .arg(format!("sm_{architecture}"))
        .arg("-o")
        .args([&cubin, &text])
        .output()
        .map_err(|e| format!("cannot run {}: {e}", ptxas.display()))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if !done.status.success() {
        return Err(format!("ptxas rejects {}:\n{said}", text.display()).into());
    }
    let entries = parse(&said)?;
    if entries.is_empty() {
        return Err(format!("ptxas reports nothing about {}:\n{said}", text.display()).into());
    }
    Ok((cubin, entries))
}

/// What a kernel uses.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Entry {
    name: String,
    registers: u32,
    shared: u32,
}

/// Parses the report of `ptxas -v` about each entry.
fn parse(said: &str) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or_default().to_owned();
            entries.push(Entry {
                name,
                ..Entry::default()
            });
        }
        let Some(entry) = entries.last_mut() else {
            continue;
        };
        if line.contains("bytes stack frame")
            && line
                .split(|c: char| !c.is_ascii_digit())
                .any(|n| !matches!(n, "" | "0"))
        {
            return Err(format!("{} uses local memory: {}", entry.name, line.trim()).into());
        }
        if let Some((_, used)) = line.split_once("Used ") {
            for part in used.split(", ") {
                let number = part.split(' ').find_map(|word| word.parse().ok());
                if let (Some(number), true) = (number, part.contains("registers")) {
                    entry.registers = number;
                } else if let (Some(number), true) = (number, part.contains("bytes smem")) {
                    entry.shared = number;
                }
            }
        }
    }
    match entries.iter().find(|entry| entry.registers == 0) {
        Some(entry) => Err(format!("ptxas does not report the registers of {}", entry.name).into()),
        None => Ok(entries),
    }
}

/// Counts the instructions with `mnemonic` in each of `entries`, using `nvdisasm`.
pub(super) fn count(
    nvdisasm: &Path,
    cubin: &Path,
    entries: &[&str],
    mnemonic: &str,
) -> Result<Vec<usize>> {
    let done = Command::new(nvdisasm)
        .arg("-c")
        .arg(cubin)
        .output()
        .map_err(|e| format!("cannot run {}: {e}", nvdisasm.display()))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("nvdisasm rejects {}:\n{said}", cubin.display()).into());
    }
    let code = String::from_utf8_lossy(&done.stdout);
    entries
        .iter()
        .map(|entry| match section(&code, entry) {
            Some(code) => Ok(code.lines().filter(|line| line.contains(mnemonic)).count()),
            None => Err(format!("{} has no code for {entry}", cubin.display()).into()),
        })
        .collect()
}

/// The instructions of an entry.
fn section<'a>(code: &'a str, entry: &str) -> Option<&'a str> {
    let (_, code) = code.split_once(&format!("\n.text.{entry}:"))?;
    code.split("\n\t.section").next()
}

#[cfg(test)]
mod tests {
    use super::{Entry, parse, section};

    #[test]
    fn each_entry_has_its_code() {
        let code = "\t.section\t.text.a\n.text.a:\n HMMA\n\t.section\t.text.b\n.text.b:\n FADD\n";
        assert_eq!(section(code, "a"), Some("\n HMMA"));
        assert_eq!(section(code, "b"), Some("\n FADD\n"));
        assert_eq!(section(code, "c"), None);
    }

    #[test]
    fn registers_and_shared_memory() {
        let said = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_90'
ptxas info    : Function properties for a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 28 registers, used 1 barriers, 128 bytes smem
ptxas info    : Compiling entry function 'b' for 'sm_90'
ptxas info    : Function properties for b
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers, 376 bytes cmem[0]
";
        let entry = |name: &str, registers, shared| Entry {
            name: name.to_owned(),
            registers,
            shared,
        };
        assert_eq!(
            parse(said).unwrap(),
            [entry("a", 28, 128), entry("b", 18, 0)]
        );
        let spilled = said.replacen("0 bytes stack", "8 bytes stack", 1);
        assert!(
            parse(&spilled)
                .unwrap_err()
                .to_string()
                .contains("a uses local memory")
        );
        let silent = said.replace("Used 18", "Used");
        assert!(parse(&silent).is_err());
    }
}
