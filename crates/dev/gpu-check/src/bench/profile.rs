//! Where the time of steps and of a sweep goes: each launch by itself, with an event before and after it.

use std::collections::BTreeMap;
use std::path::Path;

use selfie_kernels::gpu::{Cuda, Timed};
use selfie_llama::Llama;

use crate::Result;
use crate::decode::write_texts;
use crate::report::Report;
use crate::sizes::Sizes;
use crate::sweep::Sweep;

/// Profiles one decode step for each number of sequences, a pass of many rows, and a whole sweep.
pub(crate) fn measure(
    model: &Llama<Cuda>,
    dir: &Path,
    sizes: &Sizes,
    report: &mut Report,
) -> Result<()> {
    for &batch in sizes.decode {
        let two = texts(model, batch, sizes.prompt, 2)?;
        let three = texts(model, batch, sizes.prompt, 3)?;
        // The longer run has one more step, its last one.
        let step = &three[two.len().min(three.len())..];
        add(&format!("step of {batch}"), step, report);
    }
    let (sequences, tokens) = sizes.wide;
    let pass = texts(model, sequences, tokens, 1)?;
    add(&format!("pass of {sequences} x {tokens}"), &pass, report);
    let sweep = Sweep::new(model, dir, sizes)?;
    sweep.run()?;
    let swept = profiled(model, || sweep.run())?;
    add("sweep", &swept, report);
    Ok(())
}

/// The launches of `batch` texts, the second time.
fn texts(model: &Llama<Cuda>, batch: usize, tokens: usize, new: usize) -> Result<Vec<Timed>> {
    write_texts(model, batch, tokens, new)?;
    profiled(model, || write_texts(model, batch, tokens, new))
}

/// The launches of `run` on the model.
fn profiled(model: &Llama<Cuda>, run: impl FnOnce() -> Result<()>) -> Result<Vec<Timed>> {
    let mut done = Ok(());
    let times = model.backend().driver().profiled(|| {
        done = run();
        Ok(())
    })?;
    done.map(|()| times)
}

fn add(what: &str, launches: &[Timed], report: &mut Report) {
    let mut kinds: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for launch in launches {
        let kind = kinds.entry(&launch.name).or_default();
        kind.0 += 1;
        kind.1 += launch.seconds;
    }
    let total: f64 = launches.iter().map(|launch| launch.seconds).sum();
    report.add(
        &format!("profile, {what}: {} launches", launches.len()),
        total * 1e3,
        "ms",
    );
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (name, (count, seconds)) in kinds {
        report.add(
            &format!("profile, {what}: {count} x {name}"),
            seconds * 1e3,
            "ms",
        );
    }
}
