//! The kernels' memory traffic: coalesced, without bank conflicts, and keys and values no more often than necessary.

use selfie_kernels::DType;
use selfie_kernels::gpu::Launch;
use selfie_kernels::gpu::plan::Splits;
use selfie_ptxsim::{Counters, Report};

use super::SHORTEST_SPLITS;
use super::cases::{CASES, Case, SPLIT_CASES};
use super::problem::Problem;

/// The counters of the lines that contain one of the `instructions`.
fn counters(launch: &Launch, report: &Report, instructions: &[&str]) -> Counters {
    let source = launch.module.source();
    let text: Vec<&str> = source.lines().collect();
    let lines = report.lines.iter().filter(|((_, line), _)| {
        let text = text[*line as usize - 1];
        instructions.iter().any(|i| text.contains(i))
    });
    lines.map(|(_, &counters)| counters).sum()
}

/// The launches of all cases, with their reports.
fn launches(dtype: DType) -> Vec<(Launch, Report)> {
    let whole = CASES.iter().map(|case| (case, Splits::Fixed));
    let split = SPLIT_CASES.iter().map(|case| (case, SHORTEST_SPLITS));
    let run = |(case, splits)| {
        let problem = Problem::new(case, dtype);
        problem.run(&problem.rows(), splits).ran
    };
    whole.chain(split).flat_map(run).collect()
}

#[test]
fn queries_keys_values_and_outputs_are_coalesced() {
    // Everything except the look-ups of rows, slots, positions and the logarithms of parts, which are one word a row.
    const BULK: [&str; 7] = [
        "cp.async.cg",
        "ld.global.v4.b32",
        "ld.global.v4.f32",
        "ld.global.f32 %q",
        "ld.global.f32 %x",
        "st.global.v",
        "], %o",
    ];
    let mut requests = 0;
    for dtype in [DType::Bf16, DType::F32] {
        for (launch, report) in launches(dtype) {
            let Counters {
                global_load: loads,
                global_store: stores,
                ..
            } = counters(&launch, &report, &BULK);
            let name = format!("{}, {}", launch.module.name(), launch.entry);
            assert_eq!(loads.sectors, loads.ideal_sectors, "{name}");
            assert_eq!(stores.sectors, stores.ideal_sectors, "{name}");
            requests += loads.requests.min(stores.requests);
        }
    }
    assert!(requests > 1000);
}

#[test]
fn shared_memory_has_no_bank_conflicts() {
    let mut requests = 0;
    for (launch, report) in launches(DType::Bf16) {
        let Counters {
            shared_load: loads,
            shared_store: stores,
            ..
        } = report.total;
        let name = format!("{}, {}", launch.module.name(), launch.entry);
        assert_eq!((loads.conflicts, stores.conflicts), (0, 0), "{name}");
        requests += loads.requests.min(stores.requests);
    }
    assert!(requests > 1000);
}

/// Bytes of keys and values that `entry` reads of a case's cache.
fn bytes_read(case: &Case, entry: &str) -> u64 {
    let problem = Problem::new(case, DType::Bf16);
    let ran = problem.run(&problem.rows(), Splits::Fixed).ran;
    let ran = ran
        .iter()
        .filter(|(launch, _)| launch.entry.starts_with(entry));
    let bytes =
        ran.map(|(launch, report)| counters(launch, report, &["cp.async.cg"]).global_load.bytes);
    bytes.sum()
}

/// Bytes of a key and a value of all heads of a case.
fn position_bytes(case: &Case) -> u64 {
    let (_, kv_heads, head_dim) = case.heads;
    2 * u64::from(kv_heads * head_dim) * DType::Bf16.size() as u64
}

#[test]
fn decoding_reads_own_keys_once_and_those_of_a_prefix_once_for_sixteen_rows() {
    for case in CASES {
        let (heads, kv_heads, _) = case.heads;
        let group = heads / kv_heads;
        let singles: Vec<_> = case.branches.iter().filter(|b| b.rows == 1).collect();
        if singles.is_empty() {
            continue;
        }
        let own: u32 = singles.iter().map(|b| b.own).sum();
        let tiles: Vec<u32> = (0..singles.len() as u32 * group).collect();
        // Of each prefix, the part that the row with the longest view sees.
        let farthest = |tile: &[u32]| -> u32 {
            let mut seen = vec![0; case.prefixes.len()];
            for m in tile {
                let branch = singles[(m / group) as usize];
                let seen = &mut seen[branch.prefix as usize];
                *seen = branch.seen.max(*seen);
            }
            seen.iter().sum()
        };
        let shared: u32 = tiles.chunks(16).map(farthest).sum();
        let positions = own * group.div_ceil(16) + shared;
        assert_eq!(
            bytes_read(case, "attention_decode"),
            u64::from(positions) * position_bytes(case),
            "{:?}",
            case.heads
        );
    }
}

#[test]
fn a_prompt_of_one_tile_reads_its_keys_once() {
    let mut cases = 0;
    for case in CASES {
        let (heads, kv_heads, head_dim) = case.heads;
        let warp_rows = if head_dim > 128 { 16 } else { 32 };
        let runs: Vec<_> = case.branches.iter().filter(|b| b.rows > 1).collect();
        let one_tile = |rows: u32| rows * (heads / kv_heads) <= 4 * warp_rows;
        if runs.is_empty()
            || case.prefixes.iter().any(|&[_, rows]| rows > 0)
            || !runs.iter().all(|b| one_tile(b.rows))
        {
            continue;
        }
        cases += 1;
        let positions: u32 = runs.iter().map(|b| b.seen + b.own).sum();
        assert_eq!(
            bytes_read(case, "attention_prompt"),
            u64::from(positions) * position_bytes(case),
            "{:?}",
            case.heads
        );
    }
    assert!(cases > 2);
}
