//! Feeds the parser text that is not a kernel: it must return errors and never panic.

mod common;

use common::module;
use selfie_ptxsim::{Module, SimError};

const KERNEL: &str = "
.const .align 8 .f32 table[4] = {0f3f800000, 1.5, -2.25e1, 0f00000000};
.global .u32 counter = 3;
.extern .shared .align 16 .b8 dynamic[];
";

const BODY: &str = "
/* a comment */ .reg .b32 %x, %y<3>;
.pragma \"nounroll\";
{ .reg .f32 %inner; mov.f32 %inner, 0f3f800000; }
mov.u32 %r1, dynamic; setp.lt.and.s32 %p0|%p1, %r0, 5, !%p2; @!%p0 bra $L_1;
ld.const.f32 %f1, [table+4]; ld.global.u32 %r2, [counter];
$L_1: shfl.sync.idx.b32 %r3|%p3, %r1, 0x1f, 037, 0b11; st.shared.v2.u32 [%r1+8], {%r2, %r3};
mov.b64 {%r4, _}, %rd0; ret;
";

/// SplitMix64
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ x >> 31) % below as u64) as usize
    }
}

fn source() -> String {
    module(KERNEL, BODY)
}

#[test]
fn the_kernel_itself_parses() {
    let module = Module::parse(&source()).unwrap();
    assert_eq!(module.entries().collect::<Vec<_>>(), ["k"]);
    assert_eq!(module.static_shared("k").unwrap(), 0);
}

#[test]
fn truncated_kernels_are_errors() {
    let source = source();
    for end in 0..source.trim_end().len() - 1 {
        // Before the first kernel begins, a module without kernels is complete.
        match Module::parse(&source[..end]) {
            Ok(module) => assert_eq!(module.entries().count(), 0, "{end}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn random_bytes_do_not_panic() {
    let mut random = Random(1);
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..random.next(200))
            .map(|_| random.next(256) as u8)
            .collect();
        assert!(Module::parse(&String::from_utf8_lossy(&bytes)).is_err());
    }
}

/// Tokens of a kernel are deleted, doubled, swapped, or replaced with others.
#[test]
fn shuffled_tokens_do_not_panic() {
    let source = source();
    let starts: Vec<usize> = (0..source.len())
        .filter(|&i| {
            i == 0
                || !source.as_bytes()[i].is_ascii_alphanumeric()
                || !source.as_bytes()[i - 1].is_ascii_alphanumeric()
        })
        .collect();
    let tokens: Vec<&str> = starts
        .iter()
        .enumerate()
        .map(|(i, &at)| &source[at..starts.get(i + 1).copied().unwrap_or(source.len())])
        .collect();
    let others = [
        "0",
        "-1",
        "18446744073709551616",
        "0f3f",
        "{",
        "}",
        "[",
        "|",
        "%r4095",
        ".v4",
        ".f32",
        "_",
        "é",
        "<9999>",
    ];
    let mut random = Random(2);
    let mut errors = 0;
    for _ in 0..3000 {
        let mut tokens = tokens.clone();
        for _ in 0..1 + random.next(4) {
            let (i, j) = (random.next(tokens.len()), random.next(tokens.len()));
            match random.next(4) {
                0 => drop(tokens.remove(i)),
                1 => tokens.insert(i, tokens[j]),
                2 => tokens.swap(i, j),
                _ => tokens[i] = others[random.next(others.len())],
            }
        }
        errors += usize::from(Module::parse(&tokens.concat()).is_err());
    }
    assert!(errors > 1500, "{errors}");
}

/// Bytes are flipped. Text that still parses is not run.
#[test]
fn flipped_bytes_do_not_panic() {
    let source = source();
    let mut random = Random(3);
    for _ in 0..5000 {
        let mut bytes = source.clone().into_bytes();
        for _ in 0..1 + random.next(3) {
            let i = random.next(bytes.len());
            bytes[i] = random.next(256) as u8;
        }
        let _ = Module::parse(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn errors_say_where() {
    for (text, line, column) in [
        ("", 1, 1),
        (".version 8.0\n.target sm_80\n.visible .func f { }", 3, 10),
        (".version 8.0\n.target sm_80\n  /* open", 3, 3),
        (".version 8.0\n.target cuda", 2, 9),
        (".version 8.0\n.target sm_80\n.address_size 32", 3, 15),
        (".version 8.0\n.target sm_80\n.shared .b8 s[];", 3, 13),
        (
            ".version 8.0\n.target sm_80\n.visible .entry k() { .reg .b32 %r<70000>; }",
            3,
            33,
        ),
        // Each fits, and both together do not.
        (
            ".version 8.0\n.target sm_80\n.global .b8 a[10000000];\n.const .b8 b[10000000];",
            4,
            12,
        ),
        (
            ".version 8.0\n.target sm_80\n.visible .entry k() { .reg .b32 %r, %r; }",
            3,
            37,
        ),
    ] {
        let error = Module::parse(text).unwrap_err();
        let (SimError::Syntax { at, .. }
        | SimError::UnknownDirective { at, .. }
        | SimError::DuplicateName { at, .. }) = error
        else {
            panic!("{text}: {error}")
        };
        assert_eq!((at.line, at.column), (line, column), "{text}");
    }
}
