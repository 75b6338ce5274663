//! Tests the counters on accesses whose sectors and conflicts can be counted by hand.

mod common;

use common::{FIRST, device, launch, module};
use selfie_ptxsim::{Counters, Report, Traffic};

fn report(shared: &str, body: &str, threads: u32) -> Report {
    let values: Vec<u32> = (0..4096).collect();
    let (mut gpu, p) = device(4096, &values);
    launch(
        &mut gpu,
        &module(shared, &format!("{body} ret;")),
        1,
        threads,
        p,
    )
    .unwrap()
}

/// The counters of one global load of 32 lanes at `%r1` bytes.
fn load(offset: &str, access: &str) -> Traffic {
    let body = format!(
        "{offset} cvt.u64.u32 %rd1, %r1; add.u64 %rd1, %rd0, %rd1; ld.global.{access}, [%rd1];"
    );
    report("", &body, 32).total.global_load
}

#[test]
fn global_sectors() {
    let traffic = |sectors, ideal_sectors, bytes| Traffic {
        requests: 1,
        sectors,
        ideal_sectors,
        bytes,
    };
    // 32 adjacent words are 4 sectors; 32 vectors of 16 bytes are 16.
    assert_eq!(load("shl.b32 %r1, %r0, 2;", "u32 %r2"), traffic(4, 4, 128));
    assert_eq!(
        load("shl.b32 %r1, %r0, 4;", "v4.u32 {%r2, %r3, %r4, %r5}"),
        traffic(16, 16, 512)
    );
    assert_eq!(load("shl.b32 %r1, %r0, 1;", "u16 %r2"), traffic(2, 2, 64));
    // Shifted by one word: one sector more than necessary.
    assert_eq!(
        load("shl.b32 %r1, %r0, 2; add.u32 %r1, %r1, 4;", "u32 %r2"),
        traffic(5, 4, 128)
    );
    // Two words apart, and 128 bytes apart.
    assert_eq!(load("shl.b32 %r1, %r0, 3;", "u32 %r2"), traffic(8, 4, 128));
    assert_eq!(load("shl.b32 %r1, %r0, 7;", "u32 %r2"), traffic(32, 4, 128));
    // All lanes read one word; lanes in reverse order.
    assert_eq!(load("mov.u32 %r1, 0;", "u32 %r2"), traffic(1, 1, 128));
    assert_eq!(
        load("xor.b32 %r1, %r0, 31; shl.b32 %r1, %r1, 2;", "u32 %r2"),
        traffic(4, 4, 128)
    );
}

#[test]
fn global_stores_and_predicates() {
    let body = "setp.lt.u32 %p0, %r0, 8; mul.wide.u32 %rd1, %r0, 4; add.u64 %rd1, %rd0, %rd1; @%p0 st.global.u32 [%rd1], %r0;";
    let report = report("", body, 64);
    // The second warp executes the store without any lane: no request.
    assert_eq!(
        report.total.global_store,
        Traffic {
            requests: 1,
            sectors: 1,
            ideal_sectors: 1,
            bytes: 32
        }
    );
    assert_eq!(report.count("st.global.u32").warps, 2);
    assert_eq!(report.count("st").threads, 8);
}

/// Passes and conflicts of a shared load.
fn shared(address: &str, access: &str) -> (u64, u64) {
    let fill = "mov.u32 %r9, s; mad.lo.u32 %r9, %r0, 4, %r9; mov.u32 %r8, 0; F: st.shared.u32 [%r9], %r8; add.u32 %r9, %r9, 128; add.u32 %r8, %r8, 1; setp.lt.u32 %p0, %r8, 64; @%p0 bra F; bar.sync 0;";
    let body = format!("{fill} mov.u32 %r1, s; {address}\nld.shared.{access}, [%r1];");
    let report = report(".shared .align 128 .b8 s[8192];", &body, 32);
    let counters = report.within("k", FIRST + 1..FIRST + 2).shared_load;
    assert_eq!(counters.requests, 1);
    (counters.passes, counters.conflicts)
}

#[test]
fn bank_conflicts() {
    // Adjacent words, one word for all, two words apart (two lanes per bank), 128 bytes apart (all in one bank).
    assert_eq!(shared("mad.lo.u32 %r1, %r0, 4, %r1;", "u32 %r2"), (1, 0));
    assert_eq!(shared("", "u32 %r2"), (1, 0));
    assert_eq!(shared("mad.lo.u32 %r1, %r0, 8, %r1;", "u32 %r2"), (2, 1));
    assert_eq!(
        shared("mad.lo.u32 %r1, %r0, 128, %r1;", "u32 %r2"),
        (32, 31)
    );
    // Padded rows of 33 words have no conflicts.
    assert_eq!(shared("mad.lo.u32 %r1, %r0, 132, %r1;", "u32 %r2"), (1, 0));
    // Two 16-bit values of one word go together.
    assert_eq!(shared("mad.lo.u32 %r1, %r0, 2, %r1;", "u16 %r2"), (1, 0));
    // 8 bytes: two half warps. 16 bytes: four quarters.
    assert_eq!(
        shared("mad.lo.u32 %r1, %r0, 8, %r1;", "v2.u32 {%r2, %r3}"),
        (2, 0)
    );
    assert_eq!(
        shared(
            "mad.lo.u32 %r1, %r0, 16, %r1;",
            "v4.u32 {%r2, %r3, %r4, %r5}"
        ),
        (4, 0)
    );
    // Rows of 64 bytes: 8 lanes share 2 of 8 places, 4 lanes each.
    assert_eq!(
        shared(
            "mad.lo.u32 %r1, %r0, 64, %r1;",
            "v4.u32 {%r2, %r3, %r4, %r5}"
        ),
        (16, 12)
    );
    assert_eq!(
        shared(
            "mad.lo.u32 %r1, %r0, 128, %r1;",
            "v4.u32 {%r2, %r3, %r4, %r5}"
        ),
        (32, 28)
    );
}

#[test]
fn ldmatrix_conflicts() {
    let fill = "mov.u32 %r9, s; mad.lo.u32 %r9, %r0, 4, %r9; mov.u32 %r8, 0; F: st.shared.u32 [%r9], %r8; add.u32 %r9, %r9, 128; add.u32 %r8, %r8, 1; setp.lt.u32 %p0, %r8, 32; @%p0 bra F; bar.sync 0;";
    let counters = |address: &str| {
        let body = format!(
            "{fill} mov.u32 %r1, s; {address}\nldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r2, %r3, %r4, %r5}}, [%r1];"
        );
        report(".shared .align 128 .b8 s[4096];", &body, 32)
            .within("k", FIRST + 1..FIRST + 2)
            .shared_load
    };
    // Rows of 128 bytes collide, 8 in each matrix; swizzled by row, they do not.
    let plain = counters("mad.lo.u32 %r1, %r0, 128, %r1;");
    assert_eq!(
        (plain.requests, plain.passes, plain.conflicts, plain.bytes),
        (1, 32, 28, 512)
    );
    let swizzled = counters(
        "and.b32 %r6, %r0, 7; shl.b32 %r6, %r6, 4; mad.lo.u32 %r1, %r0, 128, %r1; add.u32 %r1, %r1, %r6;",
    );
    assert_eq!((swizzled.passes, swizzled.conflicts), (4, 0));
}

#[test]
fn loops_are_counted_by_line_and_launches_add_up() {
    let body = "mov.u32 %r1, 0;\nL: add.u32 %r1, %r1, 1;\nsetp.lt.u32 %p0, %r1, 10; @%p0 bra L;";
    let one = report("", body, 33);
    let in_loop = one.within("k", FIRST + 1..FIRST + 2);
    assert_eq!(
        (in_loop.instructions.warps, in_loop.instructions.threads),
        (20, 330)
    );
    assert_eq!(one.within("other", 0..100), Counters::default());
    let sum: Report = [one.clone(), one.clone(), one.clone()].into_iter().sum();
    assert_eq!(sum.launches, 3);
    assert_eq!(sum.count("add").threads, 990);
    assert_eq!(sum.within("k", FIRST + 1..FIRST + 2).instructions.warps, 60);
    assert_eq!(
        sum.total.instructions.warps,
        3 * one.total.instructions.warps
    );
}

/// Blocks run on several cores. Memory and report must not depend on how many.
#[test]
fn reports_do_not_depend_on_threads() {
    let body = "mov.u32 %r1, %ctaid.x; mad.lo.u32 %r2, %r1, 64, %r0; mul.wide.u32 %rd1, %r2, 4; add.u64 %rd1, %rd0, %rd1; ld.global.u32 %r3, [%rd1]; mad.lo.u32 %r3, %r3, 3, %r1; st.global.u32 [%rd1], %r3; ret;";
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let values: Vec<u32> = (0..64 * 40).collect();
            let (mut gpu, p) = device(64 * 40, &values);
            let report = launch(&mut gpu, &module("", body), 40, 64, p).unwrap();
            (report, common::words(&gpu, p, 64 * 40))
        })
    };
    assert_eq!(run(1), run(4));
    assert_eq!(run(1).1[64 * 39 + 5], (64 * 39 + 5) * 3 + 39);
}
