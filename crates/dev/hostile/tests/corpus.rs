//! Every file of `fuzz/corpus` against the check of its kind: no panic, little memory, at most a second.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use selfie_hostile::{KINDS, bounded};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let files =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn no_file_of_the_corpora_breaks_anything() {
    let mut faults = Vec::new();
    for (kind, check) in KINDS {
        let (mut taken, mut refused) = (0, 0);
        for name in names(&corpus().join(kind)) {
            let bytes = fs::read(corpus().join(kind).join(&name)).unwrap();
            // A thread of its own: what it leaves behind is not counted as the next one's.
            let ran = std::thread::spawn(move || bounded(check, &bytes)).join();
            match ran {
                // The message is on stderr.
                Err(_) => faults.push(format!("{kind}/{name}")),
                Ok(cost) if cost.taken => taken += 1,
                Ok(_) => refused += 1,
            }
        }
        // Else the corpus does not reach what comes behind the first check.
        if taken == 0 || refused == 0 {
            faults.push(format!(
                "{kind}: {taken} inputs are taken, {refused} refused"
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_kind_has_its_target_and_its_corpus() {
    let kinds: BTreeSet<String> = KINDS.iter().map(|(kind, _)| (*kind).to_owned()).collect();
    assert_eq!(names(&corpus()), kinds);
    let targets = names(&corpus().join("../fuzz_targets"));
    let targets: BTreeSet<String> = targets
        .iter()
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .collect();
    assert_eq!(targets, kinds);
}

#[test]
#[should_panic(expected = "bytes were allocated for an input of 3")]
fn memory_without_bound_is_seen() {
    bounded(|_| !black_box(vec![0u8; 1 << 30]).is_empty(), b"abc");
}
