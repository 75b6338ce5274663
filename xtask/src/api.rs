//! `cargo xtask api`: the public API of each published library, listed in its folder. A change of the API must change
//! the list.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use public_api::PublicApi;
use serde::Deserialize;

use crate::Result;

/// Compares the public API of each library with `api.txt` in its folder.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the lists instead
    #[arg(long)]
    write: bool,
}

/// The parts of `cargo metadata` that are used here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    /// Empty where `publish = false`.
    publish: Option<Vec<String>>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let metadata = metadata()?;
    let libraries: Vec<&Package> = metadata
        .packages
        .iter()
        .filter(|p| p.is_library())
        .collect();
    document(&libraries)?;
    let mut changed = BTreeMap::new();
    for package in libraries {
        let json = package.name.replace('-', "_") + ".json";
        let listed = list(&metadata.target_directory.join("doc").join(json))?;
        let path = package.manifest_path.with_file_name("api.txt");
        if args.write {
            fs::write(&path, listed)?;
        } else if let Some(difference) = first_difference(&path, &listed) {
            changed.insert(package.name.as_str(), difference);
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    for (name, difference) in &changed {
        eprintln!("{name}: {difference}");
    }
    Err(
        "the public API has changed: see that it is meant, and run `cargo xtask api --write`"
            .into(),
    )
}

impl Package {
    fn is_library(&self) -> bool {
        let lib = |target: &Target| target.kind.iter().any(|kind| kind == "lib");
        self.publish.is_none() && self.targets.iter().any(lib)
    }
}

fn metadata() -> Result<Metadata> {
    let args = ["metadata", "--no-deps", "--locked", "--format-version=1"];
    let output = Command::new(env!("CARGO")).args(args).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Makes rustdoc write JSON. That is unstable, and the toolchain is stable. `xtask/rustdoc.sh` allows it for rustdoc
/// alone, so nothing else is compiled again.
fn document(libraries: &[&Package]) -> Result<()> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["doc", "--quiet", "--locked", "--no-deps"]);
    for package in libraries {
        cargo.args(["--package", &package.name]);
    }
    let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("rustdoc.sh");
    cargo.env("RUSTDOC", wrapper);
    cargo.env("RUSTDOCFLAGS", "-Zunstable-options --output-format json");
    if !cargo.status()?.success() {
        return Err("rustdoc failed".into());
    }
    Ok(())
}

/// The items of a library, one per line.
fn list(json: &Path) -> Result<String> {
    let api: PublicApi = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()?;
    Ok(api.to_string())
}

/// The first line where the list in the tree differs from `listed`.
fn first_difference(path: &Path, listed: &str) -> Option<String> {
    let kept = fs::read_to_string(path).unwrap_or_default();
    let (mut kept, mut listed) = (kept.lines(), listed.lines());
    loop {
        match (kept.next(), listed.next()) {
            (None, None) => return None,
            (Some(kept), Some(listed)) if kept == listed => {}
            (kept, listed) => {
                let kept = kept.unwrap_or("nothing more");
                let listed = listed.unwrap_or("nothing more");
                return Some(format!(
                    "{} has\n  {kept}\nand the library\n  {listed}",
                    path.display()
                ));
            }
        }
    }
}
