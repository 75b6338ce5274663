//! Each check has kernels that fail it, and correct twins that pass.

mod common;

use common::{FIRST, SHARED, at, body, device, failure, launch, module, run};
use selfie_ptxsim::{Arg, Config, Gpu, Module, SimError, Space};

#[test]
fn global_out_of_bounds() {
    let error = failure(
        "",
        "mul.wide.u32 %rd1, %r0, 4;\nadd.u64 %rd1, %rd0, %rd1;\nst.global.u32 [%rd1+128], %r0; ret;",
        64,
    );
    let SimError::OutOfBounds {
        place,
        space,
        bytes,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (at(&place), space, bytes),
        ((FIRST + 2, 32), Space::Global, 4)
    );
    // A vector access that starts inside and ends outside.
    let error = failure(
        "",
        "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0+256]; ret;",
        1,
    );
    assert!(
        matches!(error, SimError::OutOfBounds { bytes: 16, .. }),
        "{error}"
    );
    let error = failure("", "ld.global.u32 %r1, [%rd0+-4]; ret;", 1);
    assert!(matches!(error, SimError::OutOfBounds { .. }), "{error}");
}

#[test]
fn freed_memory_is_out_of_bounds() {
    let (mut gpu, p) = device(4, &[1, 2, 3, 4]);
    gpu.free(p).unwrap();
    let other = gpu.alloc(16).unwrap();
    assert_ne!(p, other);
    let error = launch(
        &mut gpu,
        &module("", "ld.global.u32 %r1, [%rd0]; ret;"),
        1,
        1,
        p,
    )
    .unwrap_err();
    assert!(matches!(error, SimError::OutOfBounds { .. }), "{error}");
}

#[test]
fn shared_out_of_bounds() {
    let error = failure(SHARED, &body("st.shared.u32 [%r1+896], %r0;"), 64);
    let SimError::OutOfBounds { place, space, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((at(&place), space), ((FIRST, 32), Space::Shared));
    // Address 0 is below the first variable.
    let error = failure(SHARED, "mov.u32 %r1, 0; st.shared.u32 [%r1], %r0; ret;", 1);
    assert!(
        matches!(
            error,
            SimError::OutOfBounds {
                space: Space::Shared,
                ..
            }
        ),
        "{error}"
    );
    // The same, through a generic address.
    let error = failure(
        SHARED,
        "mov.u64 %rd1, s; cvta.shared.u64 %rd1, %rd1; st.u32 [%rd1+1024], %r0; ret;",
        1,
    );
    assert!(
        matches!(
            error,
            SimError::OutOfBounds {
                space: Space::Shared,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn param_out_of_bounds() {
    let error = failure("", "ld.param.u32 %r1, [p+8]; ret;", 1);
    let SimError::BadInstruction { at, message, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(at.line, FIRST);
    assert!(message.contains("out of bounds"), "{message}");
}

#[test]
fn misaligned() {
    let error = failure("", "ld.global.u32 %r1, [%rd0+2]; ret;", 1);
    assert!(
        matches!(
            error,
            SimError::Misaligned {
                space: Space::Global,
                bytes: 4,
                ..
            }
        ),
        "{error}"
    );
    let error = failure("", "ld.global.v2.u32 {%r1, %r2}, [%rd0+4]; ret;", 1);
    assert!(
        matches!(
            error,
            SimError::Misaligned {
                space: Space::Global,
                bytes: 8,
                ..
            }
        ),
        "{error}"
    );
    let error = failure(
        SHARED,
        &body("st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0};"),
        2,
    );
    assert!(
        matches!(
            error,
            SimError::Misaligned {
                space: Space::Shared,
                bytes: 16,
                ..
            }
        ),
        "{error}"
    );
    let error = failure("", "ld.param.u32 %r1, [p+2]; ret;", 1);
    assert!(
        matches!(
            error,
            SimError::Misaligned {
                space: Space::Param,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn uninitialised_register() {
    let error = failure("", "add.u32 %r1, %r0, 1;\nadd.u32 %r2, %r1, %r3; ret;", 1);
    let SimError::UninitialisedRegister { place, register } = error else {
        panic!("{error}")
    };
    assert_eq!((place.line, register.as_str()), (FIRST + 1, "%r3"));
    // Written by some lanes only.
    let error = failure(
        "",
        "setp.lt.u32 %p0, %r0, 5;\n@%p0 mov.u32 %r1, 7;\nadd.u32 %r2, %r1, 1; ret;",
        32,
    );
    let SimError::UninitialisedRegister { place, register } = error else {
        panic!("{error}")
    };
    assert_eq!((at(&place), register.as_str()), ((FIRST + 2, 5), "%r1"));
    // A guard, 64-bit registers, and a path that leaves the register unwritten.
    let error = failure("", "@%p3 add.u32 %r1, %r0, 1; ret;", 1);
    assert!(
        matches!(&error, SimError::UninitialisedRegister { register, .. } if register == "%p3"),
        "{error}"
    );
    let error = failure("", "add.u64 %rd1, %rd0, %rd2; ret;", 1);
    assert!(
        matches!(&error, SimError::UninitialisedRegister { register, .. } if register == "%rd2"),
        "{error}"
    );
    let error = failure(
        "",
        "setp.eq.u32 %p0, %r0, 0; @%p0 bra L; mov.u32 %r5, 1; L: add.u32 %r6, %r5, 1; ret;",
        2,
    );
    assert!(
        matches!(&error, SimError::UninitialisedRegister { register, .. } if register == "%r5"),
        "{error}"
    );
    // Two complementary guarded writes cover all lanes.
    let both = "setp.lt.u32 %p0, %r0, 5; @%p0 mov.u32 %r1, 7; @!%p0 mov.u32 %r1, 8; st.global.u32 [%rd0], %r1; ret;";
    assert_eq!(run("", both, 1, &[0]).unwrap(), [7]);
}

#[test]
fn uninitialised_memory() {
    let (mut gpu, p) = device(4, &[1, 2, 3]);
    let read = |offset| module("", &format!("ld.global.u32 %r1, [%rd0+{offset}]; ret;"));
    launch(&mut gpu, &read(8), 1, 1, p).unwrap();
    let error = launch(&mut gpu, &read(12), 1, 1, p).unwrap_err();
    let SimError::UninitialisedMemory { space, address, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((space, address), (Space::Global, p + 12));
    assert!(
        matches!(gpu.read(p, &mut [0; 16]), Err(SimError::UninitialisedCopy { address }) if address == p + 12)
    );
    // A 16-bit store makes only half of a word readable.
    launch(
        &mut gpu,
        &module("", "mov.u16 %h0, 5; st.global.b16 [%rd0+12], %h0; ret;"),
        1,
        1,
        p,
    )
    .unwrap();
    launch(
        &mut gpu,
        &module("", "ld.global.u16 %h0, [%rd0+12]; ret;"),
        1,
        1,
        p,
    )
    .unwrap();
    assert!(launch(&mut gpu, &read(12), 1, 1, p).is_err());

    let error = failure(
        SHARED,
        &body("st.shared.u32 [%r1], %r0; ld.shared.u32 %r2, [%r1+4];"),
        1,
    );
    assert!(
        matches!(
            error,
            SimError::UninitialisedMemory {
                space: Space::Shared,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn shared_memory_is_poisoned_again_for_each_block() {
    let text = "mov.u32 %r2, %ctaid.x; setp.eq.u32 %p0, %r2, 0; @%p0 st.shared.u32 [%r1], %r0; ld.shared.u32 %r3, [%r1];";
    let (mut gpu, p) = device(1, &[0]);
    let error = launch(&mut gpu, &module(SHARED, &body(text)), 2, 32, p).unwrap_err();
    let SimError::UninitialisedMemory { place, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(place.block, [1, 0, 0]);
}

#[test]
fn endless_loop() {
    let module = Module::parse(&module("", "L: bra L;")).unwrap();
    let mut gpu = Gpu::new();
    gpu.set_instruction_limit(1000);
    let config = Config {
        grid: [1, 1, 1],
        block: [32, 1, 1],
        dynamic_shared: 0,
    };
    let error = gpu
        .launch(&module, "k", &config, &[Arg::U64(0)])
        .unwrap_err();
    let SimError::InstructionLimit { place, limit } = error else {
        panic!("{error}")
    };
    assert_eq!((place.line, limit), (FIRST, 1000));
}

#[test]
fn what_is_unknown_is_an_error() {
    let parse = |body: &str| Module::parse(&module(SHARED, body)).unwrap_err();
    for (text, column, what) in [
        ("frobnicate.b32 %r1, %r0;", 1, "instruction frobnicate"),
        ("tex.2d.v4.f32.f32 %r1, %r0;", 1, "instruction tex"),
        ("add.rn.ftz.f32.x %f1, %f2, %f3;", 15, "modifier x"),
        (
            "ld.global.L1::keep.u32 %r1, [%rd0];",
            10,
            "modifier L1::keep",
        ),
        ("add.ftz.u32 %r1, %r0, %r0;", 4, "modifier ftz"),
        (
            "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1}, {%r1}, {%r1}, {%r1};",
            17,
            "modifier m16n8k32",
        ),
        ("cp.async.bulk.commit_group;", 9, "modifier bulk"),
        ("add.u32 %r1, %nothing, %r0;", 14, "name %nothing"),
        ("bra NOWHERE;", 5, "name NOWHERE"),
        ("mov.u32 %r1, %clock;", 14, "name %clock"),
        (".local .b32 x[4];", 1, "directive .local"),
    ] {
        let error = parse(&format!("{text} ret;"));
        let (at, found) = match &error {
            SimError::UnknownInstruction { at, name } => (at, format!("instruction {name}")),
            SimError::UnknownModifier { at, name, .. } => (at, format!("modifier {name}")),
            SimError::UnknownName { at, name } => (at, format!("name {name}")),
            SimError::UnknownDirective { at, name } => (at, format!("directive {name}")),
            other => panic!("{text}: {other}"),
        };
        assert_eq!(
            (at.line, at.column, found.as_str()),
            (FIRST, column, what),
            "{error}"
        );
    }
    for text in [
        "add.u32 %r1, %r0;",
        "add.f32 %f1, %r0, %f2;x",
        "add.u32 %rd1, %r0, %r0;",
        "add.u32 %f1, %r0, %r0;",
        "add.u32 %r1, %r0, 0x100000000;",
        "mov.u32 %r1, 0f3f800000;",
        "ld.global.u32 %r1, [%r0];",
        "ld.global.v2.u32 {%r1, %r2, %r3}, [%rd0];",
        "ld.global.v4.u64 {%rd1, %rd2, %rd3, %rd4}, [%rd0];",
        "cvt.f32.s32 %f1, %r0;",
        "cvt.s32.f32 %r1, %f0;",
        "cvt.bf16x2.f32 %r1, %f0, %f1;",
        "setp.lt.b32 %p0, %r0, %r0;",
        "setp.ltu.u32 %p0, %r0, %r0;",
        "cp.async.cg.shared.global [s], [%rd0], 8;",
        "add.rn.bf16 %h0, %h1, %h2;",
        "ex2.f32 %f0, %f1;",
        "fma.f32 %f0, %f1, %f2, %f3;",
        "mul.u32 %r1, %r0, %r0;",
        "mov.u32 %r1, %r0",
        "@%r0 mov.u32 %r1, 1;",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r1,%r2,%r3}, {%r4,%r5}, {%f0,%f1,%f2,%f3};",
    ] {
        let error = parse(text);
        assert!(
            matches!(
                error,
                SimError::BadInstruction { .. }
                    | SimError::UnknownModifier { .. }
                    | SimError::Syntax { .. }
            ),
            "{text}: {error}"
        );
    }
}

#[test]
fn launches_that_do_not_fit() {
    let source = module("", "ret;").replace("{\n.reg .pred", ".reqntid 64 {\n.reg .pred");
    let module = Module::parse(&source).unwrap();
    let mut gpu = Gpu::new();
    let config = |threads| Config {
        grid: [1, 1, 1],
        block: [threads, 1, 1],
        dynamic_shared: 0,
    };
    gpu.launch(&module, "k", &config(64), &[Arg::U64(0)])
        .unwrap();
    let mut fails = |entry: &str, config: Config, args: &[Arg]| {
        gpu.launch(&module, entry, &config, args).unwrap_err()
    };
    assert!(matches!(
        fails("k", config(32), &[Arg::U64(0)]),
        SimError::BadLaunch { .. }
    ));
    assert!(matches!(
        fails("k", config(64), &[]),
        SimError::BadLaunch { .. }
    ));
    assert!(matches!(
        fails("k", config(64), &[Arg::U32(0)]),
        SimError::BadLaunch { .. }
    ));
    assert!(matches!(
        fails("k", config(2048), &[Arg::U64(0)]),
        SimError::BadLaunch { .. }
    ));
    assert!(matches!(
        fails(
            "k",
            Config {
                dynamic_shared: 4,
                ..config(64)
            },
            &[Arg::U64(0)]
        ),
        SimError::BadLaunch { .. }
    ));
    assert!(matches!(
        fails("q", config(64), &[Arg::U64(0)]),
        SimError::NoEntry { .. }
    ));
}

#[test]
fn host_memory_functions_check_their_ranges() {
    let mut gpu = Gpu::with_memory(1000);
    let p = gpu.alloc(600).unwrap();
    assert!(matches!(
        gpu.alloc(600),
        Err(SimError::OutOfMemory { used: 600, .. })
    ));
    assert!(matches!(
        gpu.write(p + 590, &[0; 20]),
        Err(SimError::BadPointer { .. })
    ));
    assert!(matches!(
        gpu.free(p + 256),
        Err(SimError::BadPointer { .. })
    ));
    gpu.write(p + 1, &[1, 2, 3, 4, 5, 6, 7]).unwrap();
    let q = gpu.alloc(8).unwrap();
    gpu.copy(q, p, 8).unwrap();
    let mut bytes = [0; 7];
    gpu.read(q + 1, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7]);
    assert!(matches!(
        gpu.read(q, &mut bytes),
        Err(SimError::UninitialisedCopy { .. })
    ));
    gpu.free(p).unwrap();
    assert_eq!(gpu.memory(), (8, 1000));
}
