//! Races, barriers, pending copies and masks: kernels that fail, and correct twins that pass.

mod common;

use common::{FIRST, SHARED, at, body, device, failure, launch, module, run};
use selfie_ptxsim::SimError;

/// Threads of different warps exchange values through shared memory.
#[test]
fn race_between_warps() {
    let exchange = |barrier: &str| {
        body(&format!(
            "st.shared.u32 [%r1], %r0;\n{barrier}\nxor.b32 %r2, %r0, 32; mov.u32 %r3, s; mad.lo.u32 %r3, %r2, 4, %r3;\nld.shared.u32 %r4, [%r3];"
        ))
    };
    // Warp 0 runs first here and reads what nobody has written yet, unless it waits so long that warp 1 gets its turn.
    let long =
        "mov.u32 %r9, 0; WAIT: add.u32 %r9, %r9, 1; setp.lt.u32 %p0, %r9, 5000; @%p0 bra WAIT;";
    let error = failure(SHARED, &exchange(long), 64);
    let SimError::SharedRace {
        place, other, did, ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((at(&place), other, did), ((FIRST + 3, 0), 32, "wrote"));
    let values: Vec<u32> = (0..64).collect();
    run(SHARED, &exchange("bar.sync 0;"), 64, &values).unwrap();
    // A barrier of a warp does not order two warps.
    assert!(matches!(
        failure(
            SHARED,
            &exchange(&format!("bar.warp.sync 0xffffffff; {long}")),
            64
        ),
        SimError::SharedRace { .. }
    ));
}

#[test]
fn race_of_a_write_after_a_read() {
    let text = |barrier: &str| {
        body(&format!(
            "st.shared.u32 [%r1], %r0; bar.sync 0; ld.shared.u32 %r2, [s]; {barrier}\nsetp.eq.u32 %p0, %r0, 40; @%p0 st.shared.u32 [s], %r0;"
        ))
    };
    let error = failure(SHARED, &text(""), 64);
    let SimError::SharedRace { place, did, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((at(&place), did), ((FIRST + 1, 40), "read"));
    let values: Vec<u32> = (0..64).collect();
    run(SHARED, &text("bar.sync 0;"), 64, &values).unwrap();
}

#[test]
fn race_within_a_warp() {
    let exchange = |barrier: &str| {
        body(&format!(
            "st.shared.u32 [%r1], %r0;\n{barrier}\nxor.b32 %r2, %r0, 1; mov.u32 %r3, s; mad.lo.u32 %r3, %r2, 4, %r3;\nld.shared.u32 %r4, [%r3];"
        ))
    };
    assert!(matches!(
        failure(SHARED, &exchange(""), 32),
        SimError::SharedRace { .. }
    ));
    let values: Vec<u32> = (0..64).collect();
    run(SHARED, &exchange("bar.warp.sync 0xffffffff;"), 32, &values).unwrap();
    run(SHARED, &exchange("bar.sync 0;"), 32, &values).unwrap();
    // A shuffle does not order memory.
    let shuffle = "shfl.sync.bfly.b32 %r9, %r0, 1, 31, 0xffffffff;";
    assert!(matches!(
        failure(SHARED, &exchange(shuffle), 32),
        SimError::SharedRace { .. }
    ));
    // Each half of the warp synchronises by itself.
    let halves =
        "setp.lt.u32 %p0, %r0, 16; selp.b32 %r8, 0xffff, 0xffff0000, %p0; bar.warp.sync %r8;";
    run(SHARED, &exchange(halves), 32, &values).unwrap();
    let across = exchange(halves).replace("xor.b32 %r2, %r0, 1;", "xor.b32 %r2, %r0, 16;");
    assert!(matches!(
        failure(SHARED, &across, 32),
        SimError::SharedRace { .. }
    ));
}

#[test]
fn two_lanes_write_one_address() {
    assert!(matches!(
        failure(SHARED, "st.shared.u32 [s], %r0; ret;", 2),
        SimError::SharedRace { did: "wrote", .. }
    ));
}

#[test]
fn atomics_do_not_race_with_each_other() {
    let text = "setp.eq.u32 %p0, %r0, 0; @%p0 st.shared.u32 [s], 5; bar.sync 0; atom.shared.add.u32 %r2, [s], 1; {barrier} ld.shared.u32 %r3, [s]; @%p0 st.global.u32 [%rd0], %r3; ret;";
    assert_eq!(
        run(SHARED, &text.replace("{barrier}", "bar.sync 0;"), 64, &[0]).unwrap(),
        [69]
    );
    assert!(matches!(
        failure(SHARED, &text.replace("{barrier}", ""), 64),
        SimError::SharedRace { .. }
    ));
}

/// Half of a block passes values to the other half through a separate barrier.
#[test]
fn named_barriers_order_their_participants() {
    let text = |consumer: &str| {
        body(&format!(
            "setp.ge.u32 %p0, %r0, 64; @%p0 bra WAIT;
            st.shared.u32 [%r1], %r0; bar.sync 1, 64; xor.b32 %r2, %r0, 32; mov.u32 %r3, s; mad.lo.u32 %r3, %r2, 4, %r3; ld.shared.u32 %r4, [%r3];
            WAIT: {consumer}"
        ))
    };
    let values: Vec<u32> = (0..64).collect();
    run(SHARED, &text(""), 128, &values).unwrap();
    let reads = "@%p0 ld.shared.u32 %r5, [s];";
    assert!(matches!(
        failure(SHARED, &text(reads), 128),
        SimError::SharedRace { .. }
    ));
    run(SHARED, &text(&format!("bar.sync 0; {reads}")), 128, &values).unwrap();
}

#[test]
fn divergent_barrier() {
    let text = "setp.lt.u32 %p0, %r0, 40;\n@%p0 bar.sync 0; ret;";
    let error = failure("", text, 64);
    let SimError::DivergentBarrier {
        place,
        active,
        live,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((place.line, active, live), (FIRST + 1, 0xff, u32::MAX));
    let branch = "setp.lt.u32 %p0, %r0, 8; @!%p0 bra L; bar.sync 0; L: add.u32 %r1, %r0, 1; ret;";
    assert!(matches!(
        failure("", branch, 32),
        SimError::DivergentBarrier { active: 0xff, .. }
    ));
    // A barrier does not wait for threads that have exited.
    let values: Vec<u32> = (0..64).collect();
    run(
        "",
        "setp.lt.u32 %p0, %r0, 40; @!%p0 exit; bar.sync 0; ret;",
        64,
        &values,
    )
    .unwrap();
    run(
        "",
        "setp.lt.u32 %p0, %r0, 40; @!%p0 bra END; bar.sync 0; END: ret;",
        64,
        &values,
    )
    .unwrap();
}

#[test]
fn deadlock() {
    let error = failure(
        "",
        "setp.lt.u32 %p0, %r0, 32; @%p0 bra L; bar.sync 1; ret; L: bar.sync 2; ret;",
        64,
    );
    let SimError::Deadlock {
        arrived, expected, ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((arrived, expected), (32, 64));
    let error = failure(
        "",
        "setp.lt.u32 %p0, %r0, 32; @%p0 bar.sync 1, 64; ret;",
        64,
    );
    assert!(
        matches!(
            error,
            SimError::Deadlock {
                barrier: 1,
                arrived: 32,
                expected: 64,
                ..
            }
        ),
        "{error}"
    );
}

/// Thread t copies 16 bytes. What follows is `after`.
fn copy(after: &str) -> String {
    format!(
        "mov.u32 %r1, s; mad.lo.u32 %r1, %r0, 16, %r1; mul.wide.u32 %rd1, %r0, 16; add.u64 %rd1, %rd0, %rd1;
cp.async.cg.shared.global [%r1], [%rd1], 16;
{after} ret;"
    )
}

#[test]
fn copy_read_before_its_wait() {
    let values: Vec<u32> = (0..64).collect();
    let own = "ld.shared.u32 %r2, [%r1+4]; st.global.u32 [%rd1], %r2;";
    let error = failure(SHARED, &copy(&format!("cp.async.commit_group; {own}")), 16);
    let SimError::PendingCopy { place, issuer, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((at(&place), issuer), ((FIRST + 2, 0), 0));
    for wait in [
        "cp.async.wait_all;",
        "cp.async.commit_group; cp.async.wait_group 0;",
    ] {
        let out = run(SHARED, &copy(&format!("{wait} {own}")), 16, &values).unwrap();
        assert_eq!(out[4..6], [5, 5]);
    }
    // A group that is not committed is not waited for.
    let error = failure(SHARED, &copy(&format!("cp.async.wait_group 0; {own}")), 16);
    assert!(matches!(error, SimError::PendingCopy { .. }), "{error}");
    // wait_group 1 leaves the newest group pending.
    let error = failure(
        SHARED,
        &copy(&format!(
            "cp.async.commit_group; cp.async.wait_group 1; {own}"
        )),
        16,
    );
    assert!(matches!(error, SimError::PendingCopy { .. }), "{error}");
    let out = run(
        SHARED,
        &copy(&format!(
            "cp.async.commit_group; cp.async.commit_group; cp.async.wait_group 1; {own}"
        )),
        16,
        &values,
    );
    assert_eq!(out.unwrap()[4..6], [5, 5]);
    // A barrier does not wait for a copy.
    let error = failure(
        SHARED,
        &copy(&format!("cp.async.commit_group; bar.sync 0; {own}")),
        16,
    );
    assert!(matches!(error, SimError::PendingCopy { .. }), "{error}");
}

#[test]
fn copy_read_by_others_needs_a_barrier_after_the_wait() {
    let other = "xor.b32 %r2, %r0, 1; mov.u32 %r3, s; mad.lo.u32 %r3, %r2, 16, %r3; ld.shared.u32 %r4, [%r3];";
    let values: Vec<u32> = (0..64).collect();
    let error = failure(SHARED, &copy(&format!("cp.async.wait_all; {other}")), 16);
    assert!(
        matches!(error, SimError::SharedRace { did: "wrote", .. }),
        "{error}"
    );
    let error = failure(
        SHARED,
        &copy(&format!("bar.sync 0; cp.async.wait_all; {other}")),
        16,
    );
    assert!(matches!(error, SimError::SharedRace { .. }), "{error}");
    run(
        SHARED,
        &copy(&format!("cp.async.wait_all; bar.sync 0; {other}")),
        16,
        &values,
    )
    .unwrap();
}

#[test]
fn copy_over_what_others_still_read() {
    let text = |barrier: &str| {
        format!(
            "mov.u32 %r1, s; mad.lo.u32 %r1, %r0, 4, %r1; st.shared.u32 [%r1], %r0; bar.sync 0; ld.shared.u32 %r2, [s+4]; {barrier}
            setp.eq.u32 %p0, %r0, 0; @%p0 cp.async.ca.shared.global [s+4], [%rd0], 4; ret;"
        )
    };
    assert!(matches!(
        failure(SHARED, &text(""), 32),
        SimError::SharedRace { did: "read", .. }
    ));
    let values: Vec<u32> = (0..64).collect();
    run(SHARED, &text("bar.sync 0;"), 32, &values).unwrap();
}

#[test]
fn race_between_blocks() {
    let (mut gpu, p) = device(64, &(0..64).collect::<Vec<_>>());
    let mut launched = |body: &str| launch(&mut gpu, &module("", body), 2, 32, p);
    let own = "mov.u32 %r1, %ctaid.x; mad.lo.u32 %r2, %r1, 32, %r0; mul.wide.u32 %rd1, %r2, 4; add.u64 %rd1, %rd0, %rd1;";
    launched(&format!(
        "{own} ld.global.u32 %r3, [%rd1]; st.global.u32 [%rd1], %r3; ret;"
    ))
    .unwrap();
    let error =
        launched("setp.eq.u32 %p0, %r0, 0; @%p0 st.global.u32 [%rd0], %r0; ret;").unwrap_err();
    assert!(
        matches!(error, SimError::GlobalRace { did: "writes", .. }),
        "{error}"
    );
    let error = launched(&format!(
        "{own} st.global.u32 [%rd1], %r0; ld.global.u32 %r3, [%rd0]; ret;"
    ))
    .unwrap_err();
    assert!(matches!(error, SimError::GlobalRace { .. }), "{error}");
    // Two successive launches do not race.
    launched(&format!("{own} st.global.u32 [%rd1], %r0; ret;")).unwrap();
    launched("ld.global.u32 %r3, [%rd0]; ret;").unwrap();
}

/// Two blocks may write the two halves of a word.
#[test]
fn blocks_share_a_word_but_no_byte() {
    let (mut gpu, p) = device(1, &[0]);
    let half = |at: &str| {
        let body = format!(
            "mov.u32 %r1, %ctaid.x; {at} mul.wide.u32 %rd1, %r1, 2; add.u64 %rd1, %rd0, %rd1;
            mov.b16 %h0, 7; st.global.b16 [%rd1], %h0; ret;"
        );
        module("", &body)
    };
    launch(&mut gpu, &half(""), 2, 1, p).unwrap();
    assert_eq!(common::words(&gpu, p, 1), [0x0007_0007]);
    let error = launch(&mut gpu, &half("mov.u32 %r1, 0;"), 2, 1, p).unwrap_err();
    assert!(matches!(error, SimError::GlobalRace { .. }), "{error}");
}

/// Threads leave a loop one after the other and meet after it. The same in a kernel that ends in a loop, which they
/// leave by exiting.
#[test]
fn lanes_meet_after_a_loop() {
    let text = "mov.u32 %r1, 0;
        first: setp.ge.u32 %p0, %r1, %r0; @%p0 bra met; add.u32 %r1, %r1, 1; bra first;
        met: shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; mul.wide.u32 %rd1, %r0, 4; add.u64 %rd1, %rd0, %rd1;
        last: setp.eq.u32 %p0, %r1, 0; st.global.u32 [%rd1], %r2; @%p0 bra end; sub.u32 %r1, %r1, 1; bra last;
        end: ret;";
    let want: Vec<u32> = (0..32).map(|lane| lane ^ 1).collect();
    assert_eq!(run("", text, 32, &[0; 32]).unwrap(), want);
}

/// The last block to finish sums what all blocks have written. The counter and the fence order them.
#[test]
fn blocks_may_meet_at_a_counter() {
    let (mut gpu, p) = device(8, &[0; 8]);
    let text = "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd1, %r1, 4; add.u64 %rd1, %rd0, %rd1; add.u32 %r2, %r1, 10;
        st.global.u32 [%rd1+8], %r2; {fence} atom.global.inc.u32 %r3, [%rd0], 3; setp.ne.u32 %p0, %r3, 3; @%p0 exit; {fence}
        ld.global.u32 %r4, [%rd0+8]; ld.global.u32 %r5, [%rd0+20]; add.u32 %r4, %r4, %r5; st.global.u32 [%rd0+4], %r4; ret;";
    launch(
        &mut gpu,
        &module("", &text.replace("{fence}", "membar.gl;")),
        4,
        1,
        p,
    )
    .unwrap();
    assert_eq!(common::words(&gpu, p, 6), [0, 23, 10, 11, 12, 13]);
}

#[test]
fn masks_name_lanes_that_are_there() {
    let cases = [
        ("shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffffffff; ret;", 16),
        (
            "setp.lt.u32 %p0, %r0, 8; @%p0 shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffffffff; ret;",
            32,
        ),
        ("vote.sync.ballot.b32 %r1, %p1, 0xffffffff; ret;", 31),
        ("bar.warp.sync 0xffffffff; ret;", 16),
        ("redux.sync.add.u32 %r1, %r0, 0x3; ret;", 1),
        // The mask omits the thread itself.
        ("bar.warp.sync 0xfe; ret;", 8),
        // Members have different masks.
        ("selp.b32 %r2, 0x3, 0x2, %p1; bar.warp.sync %r2; ret;", 2),
        // The thread reads from a lane outside the mask.
        ("shfl.sync.idx.b32 %r1, %r0, 5, 31, 0xf; ret;", 4),
        (
            "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [s]; ret;",
            16,
        ),
    ];
    for (text, threads) in cases {
        let text = format!("setp.eq.u32 %p1, %r0, 0; {text}");
        let error = failure(SHARED, &text, threads);
        assert!(
            matches!(error, SimError::SyncMask { .. }),
            "{text}: {error}"
        );
    }
    let values: Vec<u32> = (0..64).collect();
    run(
        "",
        "shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffff; ret;",
        16,
        &values,
    )
    .unwrap();
}
