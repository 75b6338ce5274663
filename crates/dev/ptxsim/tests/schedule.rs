//! Random schedules of warps.

mod common;

use std::collections::BTreeSet;

use common::{device, module, words};
use selfie_ptxsim::{Arg, Config, Gpu, Module, Result};

/// Four warps add to one global word without atomics: each thread 0 reads it, and writes it 1 larger. `between` comes
/// before, with the warp's number in `%r1`.
fn counting(between: &str) -> String {
    let body = format!(
        "shr.u32 %r1, %r0, 5; and.b32 %r2, %r0, 31; {between}
         setp.eq.u32 %p0, %r2, 0;
         @%p0 ld.global.u32 %r3, [%rd0];
         @%p0 add.u32 %r3, %r3, 1;
         @%p0 st.global.u32 [%rd0], %r3;
         ret;"
    );
    module("", &body)
}

/// The word after a launch of 128 threads.
fn counted(source: &str, seed: Option<u64>) -> Result<u32> {
    let (mut gpu, p): (Gpu, u64) = device(1, &[0]);
    if let Some(seed) = seed {
        gpu.set_schedule(seed);
    }
    let config = Config {
        grid: [1, 1, 1],
        block: [128, 1, 1],
        dynamic_shared: 0,
    };
    gpu.launch(&Module::parse(source)?, "k", &config, &[Arg::U64(p)])?;
    Ok(words(&gpu, p, 1)[0])
}

#[test]
fn a_race_between_warps_shows_under_some_seeds() {
    let racing = counting("");
    assert_eq!(counted(&racing, None).unwrap(), 4);
    let results: BTreeSet<u32> = (0..32)
        .map(|seed| counted(&racing, Some(seed)).unwrap())
        .collect();
    assert!(
        results.len() > 1 && results.iter().all(|n| (1..=4).contains(n)),
        "{results:?}"
    );
}

#[test]
fn what_is_ordered_by_barriers_does_not_depend_on_the_seed() {
    // Warp w adds after w barriers, and before 4 - w more.
    let turns = counting(
        "mov.u32 %r4, 0;
         wait: setp.ge.u32 %p1, %r4, %r1; @%p1 bra turn;
         bar.sync 0; add.u32 %r4, %r4, 1; bra wait;
         turn:",
    )
    .replace(
        "ret;",
        "rest: setp.ge.u32 %p1, %r4, 4; @%p1 bra over; bar.sync 0; add.u32 %r4, %r4, 1; bra rest;
         over: ret;",
    );
    for seed in (0..32).map(Some).chain([None]) {
        assert_eq!(counted(&turns, seed).unwrap(), 4, "{seed:?}");
    }
}

#[test]
fn a_seed_gives_the_same_schedule_again() {
    let racing = counting("");
    for seed in 0..32 {
        let [once, again] = [(); 2].map(|()| counted(&racing, Some(seed)).unwrap());
        assert_eq!(once, again);
    }
}
