//! Each kernel's memory traffic on a slice of a real model: coalesced, no bank conflicts, nothing twice.

use std::sync::LazyLock;

use selfie_kernels::gpu::File;
use selfie_sim::survey::{Surveyed, survey};

static SURVEYED: LazyLock<Vec<Surveyed>> =
    LazyLock::new(|| survey().unwrap_or_else(|e| panic!("{e}")));

/// Kernels whose traffic is tested in tests/attention.
fn is_attention(kernel: &Surveyed) -> bool {
    kernel.entry.starts_with("attention")
}

#[test]
fn accesses_are_coalesced_and_without_bank_conflicts() {
    let mut wrong = Vec::new();
    for kernel in SURVEYED.iter().filter(|kernel| !is_attention(kernel)) {
        let total = kernel.ran.report.total;
        for (what, traffic) in [("loads", total.global_load), ("stores", total.global_store)] {
            if traffic.sectors != traffic.ideal_sectors {
                wrong.push(format!("{}: {what}: {traffic:?}", kernel.entry));
            }
        }
        for traffic in [total.shared_load, total.shared_store] {
            if traffic.conflicts != 0 {
                wrong.push(format!("{}: {traffic:?}", kernel.entry));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Sectors beyond the floor come from caches: the weight of a norm or the bias for each row again, the rotation table
/// for each warp again, the rows of a gradient for each tile again. The rest is one list entry per warp.
#[test]
fn traffic_stays_at_its_floor() {
    for kernel in SURVEYED.iter().filter(|kernel| !is_attention(kernel)) {
        let total = kernel.ran.report.total;
        let moved = 32 * (total.global_load.sectors + total.global_store.sectors);
        let cached = match kernel.entry {
            "rms_norm" | "add" => 3 * 4096 * 4,
            // And the look-ups of each of its 64 warps: three sectors.
            "rope_append" => 7 * 8 * 128 * 4 + 64 * 3 * 32,
            "adam" => 63 * 20 * 64 * 4,
            // The look-ups of each of its 64 warps: three sectors.
            "kv_copy" => 64 * 3 * 32,
            // Each block reads the rows of the batch again.
            name if name.starts_with("matvec") => matvec_rows(kernel),
            // A pass for each step of both bisections, of 32 and of 15, and for each sum.
            "draw" => 51 * kernel.floor,
            // Eight bytes of a sector for each row.
            "head_merge" => 4 * 24,
            _ => 0,
        };
        let at_most = kernel.floor + cached + kernel.floor / 50;
        assert!(
            (kernel.floor..=at_most).contains(&moved),
            "{}: {moved} bytes; floor {}, with caches {at_most}",
            kernel.entry,
            kernel.floor
        );
    }
}

/// Bytes of the batch that the blocks after the first one read.
fn matvec_rows(kernel: &Surveyed) -> u64 {
    let rows = if kernel.entry.ends_with("_16") { 16 } else { 8 };
    u64::from(kernel.ran.launch.grid[0] - 1) * rows * 4096 * 2
}

#[test]
fn every_file_is_surveyed() {
    for file in File::ALL {
        let files: Vec<&str> = SURVEYED
            .iter()
            .map(|kernel| kernel.ran.launch.module.file().name())
            .collect();
        assert!(
            files.contains(&file.name()),
            "{} is not in {files:?}",
            file.name()
        );
    }
}
