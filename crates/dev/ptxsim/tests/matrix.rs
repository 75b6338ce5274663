//! Compares `ldmatrix`, `mma.sync`, `cp.async` and atomics with plain loops.

mod common;

use common::{device, launch, module, run, words};
use half::{bf16, f16};
use selfie_ptxsim::TensorCores;

/// Small integers and halves: every product and sum is exact, so the order and the rounding of the sum do not matter.
fn value(row: usize, column: usize) -> f32 {
    ((row * 7 + column * 3) % 11) as f32 * 0.5 - 2.0
}

/// Packs values `[rows, k]` in the layout of the type, with k running fastest.
fn pack(ty: &str, rows: usize, k: usize, at: impl Fn(usize, usize) -> f32) -> Vec<u32> {
    let flat: Vec<f32> = (0..rows * k).map(|i| at(i / k, i % k)).collect();
    match ty {
        "f16" => flat
            .chunks(2)
            .map(|x| join(x, |x| f16::from_f32(x).to_bits()))
            .collect(),
        "bf16" => flat
            .chunks(2)
            .map(|x| join(x, |x| bf16::from_f32(x).to_bits()))
            .collect(),
        // The last 13 bits of a tf32 are ignored.
        _ => flat.iter().map(|x| x.to_bits() | 0x1fff).collect(),
    }
}

fn join(pair: &[f32], bits: impl Fn(f32) -> u16) -> u32 {
    u32::from(bits(pair[1])) << 16 | u32::from(bits(pair[0]))
}

/// Loads the fragments word by word according to the ISA's figures, multiplies, and stores D `[16, 8]`.
fn check_mma(ty: &str, k: usize) {
    let per_word = if ty == "tf32" { 1 } else { 2 };
    let words_of_row = k / per_word;
    let a = pack(ty, 16, k, value);
    // B is stored by columns.
    let b = pack(ty, 8, k, |n, k| value(k + 1, n + 2));
    let c: Vec<u32> = (0..128)
        .map(|i| value(i / 8, i % 8 + 5).to_bits())
        .collect();
    let mut memory = a.clone();
    memory.extend(&b);
    memory.extend(&c);
    let steps = words_of_row / 4;
    // Lane l: row l/4 (and the row 8 below it), word l%4 of each step of 4 words.
    let mut body = String::from("shr.u32 %r1, %r0, 2; and.b32 %r2, %r0, 3;\n");
    let load = |to: &str, ty: &str, row: &str, row_words: usize, word: usize, base: usize| {
        format!(
            "mad.lo.u32 %r30, {row}, {row_words}, {word}; add.u32 %r30, %r30, %r2; mul.wide.u32 %rd1, %r30, 4; add.u64 %rd1, %rd0, %rd1; ld.global.{ty} {to}, [%rd1+{}];\n",
            4 * base
        )
    };
    body += "add.u32 %r3, %r1, 8;\n";
    for step in 0..steps {
        body += &load(
            &format!("%r{}", 10 + 2 * step),
            "b32",
            "%r1",
            words_of_row,
            4 * step,
            0,
        );
        body += &load(
            &format!("%r{}", 11 + 2 * step),
            "b32",
            "%r3",
            words_of_row,
            4 * step,
            0,
        );
        body += &load(
            &format!("%r{}", 20 + step),
            "b32",
            "%r1",
            words_of_row,
            4 * step,
            a.len(),
        );
    }
    // C: row l/4 and the row 8 below it, columns 2(l%4) and 2(l%4) + 1.
    let base = 4 * (a.len() + b.len());
    body += "shl.b32 %r4, %r2, 1; mad.lo.u32 %r4, %r1, 8, %r4; mul.wide.u32 %rd2, %r4, 4; add.u64 %rd2, %rd0, %rd2;\n";
    body += &format!(
        "ld.global.v2.f32 {{%f0, %f1}}, [%rd2+{base}]; ld.global.v2.f32 {{%f2, %f3}}, [%rd2+{}];\n",
        base + 256
    );
    let list = |first: usize, n: usize| {
        (first..first + n)
            .map(|i| format!("%r{i}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    body += &format!(
        "mma.sync.aligned.m16n8k{k}.row.col.f32.{ty}.{ty}.f32 {{%f4, %f5, %f6, %f7}}, {{{}}}, {{{}}}, {{%f0, %f1, %f2, %f3}};\n",
        list(10, 2 * steps),
        list(20, steps)
    );
    body += &format!(
        "st.global.v2.f32 [%rd2+{base}], {{%f4, %f5}}; st.global.v2.f32 [%rd2+{}], {{%f6, %f7}}; ret;",
        base + 256
    );
    let out = run("", &body, 32, &memory).unwrap();
    for row in 0..16 {
        for column in 0..8 {
            let products = (0..k).map(|k| value(row, k) * value(k + 1, column + 2));
            let expected = value(row, column + 5) + products.sum::<f32>();
            let found = f32::from_bits(out[a.len() + b.len() + 8 * row + column]);
            assert_eq!(found, expected, "{ty} k {k}: row {row} column {column}");
        }
    }
}

#[test]
fn mma_multiplies() {
    for ty in ["bf16", "f16"] {
        check_mma(ty, 16);
        check_mma(ty, 8);
    }
    check_mma("tf32", 8);
    check_mma("tf32", 4);
}

/// The f16 values with special cases in `widen`: subnormals, infinities and NaN in a diagonal A, times ones.
#[test]
fn mma_takes_special_values() {
    let specials = [
        0x0001u16, 0x8001, 0x03ff, 0x0400, 0x7bff, 0x7c00, 0xfc00, 0x3c00,
    ];
    // A register a0 holds row l/4, columns 2(l%4) and 2(l%4) + 1. Lane 4r gets the special value of row r in column 0.
    let mut body = String::from(
        "mov.u32 %r1, 0; mov.u32 %r2, 0; mov.f32 %f0, 0f00000000; mov.u32 %r5, 0x3c003c00;\n",
    );
    for (row, bits) in specials.iter().enumerate() {
        body += &format!(
            "setp.eq.u32 %p0, %r0, {}; @%p0 mov.u32 %r1, {bits};\n",
            4 * row
        );
    }
    // B is all ones, so D's row r is the special value (0 * 1 adds zeros).
    body += "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f4, %f5, %f6, %f7}, {%r1, %r2}, {%r5}, {%f0, %f0, %f0, %f0};\n";
    body += "mul.wide.u32 %rd1, %r0, 4; add.u64 %rd1, %rd0, %rd1; st.global.f32 [%rd1], %f4; ret;";
    let out = run("", &body, 32, &[0; 32]).unwrap();
    for (row, &bits) in specials.iter().enumerate() {
        assert_eq!(
            f32::from_bits(out[4 * row]),
            f16::from_bits(bits).to_f32(),
            "{bits:#x}"
        );
    }
}

/// Shared memory holds 4 matrices of 8x8 with the elements i*64 + 8*row + column.
#[test]
fn ldmatrix_distributes_rows_and_columns() {
    let memory: Vec<u32> = (0..128u32).map(|i| (2 * i + 1) << 16 | (2 * i)).collect();
    for (count, trans) in [
        (1, ""),
        (2, ""),
        (4, ""),
        (1, ".trans"),
        (2, ".trans"),
        (4, ".trans"),
    ] {
        let regs = (8..8 + count)
            .map(|i| format!("%r{i}"))
            .collect::<Vec<_>>()
            .join(", ");
        let mut body = String::from(
            "mul.wide.u32 %rd1, %r0, 16; add.u64 %rd1, %rd0, %rd1; mov.u32 %r1, s; mad.lo.u32 %r1, %r0, 16, %r1;
ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1]; st.shared.v4.u32 [%r1], {%r4, %r5, %r6, %r7}; bar.warp.sync 0xffffffff;
mul.wide.u32 %rd2, %r0, 4; add.u64 %rd2, %rd0, %rd2;\n",
        );
        body +=
            &format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{regs}}}, [%r1];\n");
        for i in 0..count {
            body += &format!("st.global.u32 [%rd2+{}], %r{};\n", 128 * i, 8 + i);
        }
        let out = run(
            ".shared .align 16 .b8 s[512];",
            &(body + "ret;"),
            32,
            &memory,
        )
        .unwrap();
        for i in 0..count {
            for lane in 0..32 {
                let element = |row: usize, column: usize| (64 * i + 8 * row + column) as u32;
                let (row, column) = (lane / 4, 2 * (lane % 4));
                let expected = match trans {
                    "" => element(row, column + 1) << 16 | element(row, column),
                    _ => element(column + 1, row) << 16 | element(column, row),
                };
                assert_eq!(
                    out[32 * i + lane],
                    expected,
                    "x{count}{trans} matrix {i} lane {lane}"
                );
            }
        }
    }
}

#[test]
fn cp_async_fills_with_zeros() {
    let values: Vec<u32> = (1..=8).collect();
    // The last 12 bytes are not read, so they need not exist.
    let text = "setp.eq.u32 %p1, %r0, %r0; mov.u32 %r9, {size}; cp.async.ca.shared.global [s], [%rd0+{from}], 16, {last}; cp.async.wait_all;
        ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [s]; st.global.v4.u32 [%rd0], {%r1, %r2, %r3, %r4}; ret;";
    let copied = |size: &str, from: &str, last: &str| {
        let body = text
            .replace("{size}", size)
            .replace("{from}", from)
            .replace("{last}", last);
        run(".shared .align 16 .b8 s[16];", &body, 1, &values).map(|out| out[..4].to_vec())
    };
    assert_eq!(copied("16", "16", "%r9").unwrap(), [5, 6, 7, 8]);
    assert_eq!(copied("8", "16", "%r9").unwrap(), [5, 6, 0, 0]);
    assert_eq!(copied("6", "16", "%r9").unwrap(), [5, 6 & 0xffff, 0, 0]);
    assert_eq!(copied("0", "4096", "%r9").unwrap(), [0; 4]);
    assert_eq!(copied("16", "16", "12").unwrap(), [5, 6, 7, 0]);
    // A true predicate ignores the source.
    assert_eq!(copied("16", "16", "%p1").unwrap(), [0; 4]);
    assert_eq!(copied("16", "16", "!%p1").unwrap(), [5, 6, 7, 8]);
    assert!(copied("17", "16", "%r9").is_err());
    assert!(copied("4", "4096", "%r9").is_err());
}

#[test]
fn atomics() {
    // (instruction, initial value, result after 32 lanes add or compare their index + 1)
    let cases = [
        ("red.{s}.add.u32 [{a}], %r1;", 5, 5 + 528),
        ("red.{s}.min.u32 [{a}], %r1;", 20, 1),
        ("red.{s}.max.s32 [{a}], %r1;", 0xffff_fff0, 32),
        ("red.{s}.min.s32 [{a}], %r1;", 0xffff_fff0, 0xffff_fff0),
        ("red.{s}.and.b32 [{a}], %r1;", 0xff, 0),
        ("red.{s}.or.b32 [{a}], %r1;", 0, 63),
        (
            "red.{s}.xor.b32 [{a}], %r1;",
            7,
            7 ^ (1..=32).fold(0, |x, y| x ^ y),
        ),
        ("red.{s}.inc.u32 [{a}], 9;", 0, 2),
        ("red.{s}.dec.u32 [{a}], 9;", 0, 8),
        ("atom.{s}.add.u32 %r2, [{a}], %r1;", 5, 5 + 528),
        ("atom.{s}.exch.b32 %r2, [{a}], %r1;", 5, 32),
        ("atom.{s}.cas.b32 %r2, [{a}], 5, %r1;", 5, 1),
        (
            "red.{s}.add.f32 [{a}], 0f3f800000;",
            0x3f80_0000,
            33f32.to_bits(),
        ),
        ("red.relaxed.gpu.{s}.add.u32 [{a}], %r1;", 5, 5 + 528),
    ];
    for (instruction, start, expected) in cases {
        let global = instruction.replace("{s}", "global").replace("{a}", "%rd0");
        let body = format!("add.u32 %r1, %r0, 1; {global} ret;");
        assert_eq!(
            run("", &body, 32, &[start]).unwrap(),
            [expected],
            "{global}"
        );
        let shared = instruction.replace("{s}", "shared").replace("{a}", "s");
        let body = format!(
            "add.u32 %r1, %r0, 1; setp.eq.u32 %p0, %r0, 0; ld.global.u32 %r3, [%rd0]; @%p0 st.shared.u32 [s], %r3; bar.warp.sync 0xffffffff;
             {shared} bar.warp.sync 0xffffffff; @%p0 ld.shared.u32 %r4, [s]; @%p0 st.global.u32 [%rd0], %r4; ret;"
        );
        assert_eq!(
            run(".shared .b32 s;", &body, 32, &[start]).unwrap(),
            [expected],
            "{shared}"
        );
    }
    // 64 bits, with old values: every lane gets a different one.
    let body = "mul.wide.u32 %rd1, %r0, 8; add.u64 %rd1, %rd0, %rd1; mov.u64 %rd2, 0x100000001; atom.global.add.u64 %rd3, [%rd0], %rd2; bar.warp.sync 0xf; st.global.u64 [%rd1+8], %rd3; ret;";
    assert_eq!(
        run("", body, 4, &[0; 10]).unwrap(),
        [4, 4, 0, 0, 1, 1, 2, 2, 3, 3]
    );
}

/// Blocks add to one counter at the same time. The result is the sum of all.
#[test]
fn reductions_of_many_blocks() {
    let (mut gpu, p) = device(1, &[0]);
    launch(
        &mut gpu,
        &module("", "red.global.add.u32 [%rd0], 1; ret;"),
        200,
        64,
        p,
    )
    .unwrap();
    assert_eq!(words(&gpu, p, 1), [200 * 64]);
}

/// `sum` plus products of powers of two, given by their exponents and signs.
fn tensor_sum(model: TensorCores, sum: f32, products: &[(f32, i32)]) -> f32 {
    let a: Vec<f32> = products.iter().map(|&(factor, _)| factor).collect();
    let b: Vec<f32> = products.iter().map(|&(_, e)| (e as f32).exp2()).collect();
    model.add_products(sum, &a, &b)
}

/// The values follow from the published behaviour: how many products are added at a time, to how many bits they are cut
/// off, and that nothing is rounded up.
#[test]
fn tensor_cores_cut_off_as_published() {
    let (a100, h100) = (TensorCores::A100, TensorCores::H100);
    let ulp = (-23f32).exp2();
    // An eighth of the last bit is below both; a quarter is what the H100 keeps, a half what the A100 keeps.
    for (exponent, of_a100, of_h100) in [(-26, 0.0, 0.0), (-25, 0.0, 4.0), (-24, 4.0, 8.0)] {
        let products = [(1.0, exponent); 16];
        assert_eq!(tensor_sum(a100, 1.0, &products), 1.0 + of_a100 * 2.0 * ulp);
        assert_eq!(tensor_sum(h100, 1.0, &products), 1.0 + of_h100 * ulp);
        assert_eq!(tensor_sum(TensorCores::Nearest, 1.0, &products), 1.0);
    }
    // Three quarters of the last bit are lost, for both signs; the nearest f32 would be one bit away from zero.
    for sign in [1.0, -1.0] {
        let products = [(sign, -24), (sign, -25)];
        assert_eq!(tensor_sum(h100, sign, &products), sign);
        assert_eq!(
            tensor_sum(TensorCores::Nearest, sign, &[(sign * 1.5, -24)]),
            sign * (1.0 + ulp)
        );
    }
    // Eight products at a time: what is left of the first eight is not larger than the next eight.
    let products: Vec<(f32, i32)> = [(1.0, 0), (-1.0, 0)]
        .into_iter()
        .chain([(0.0, 0); 6])
        .chain([(1.0, -30); 8])
        .collect();
    assert_eq!(tensor_sum(a100, 0.0, &products), (-27f32).exp2());
    assert_eq!(tensor_sum(h100, 0.0, &products), 0.0);
    // A sum past the largest f32, and products that are not finite.
    for model in [a100, h100] {
        assert_eq!(tensor_sum(model, 0.0, &[(1.0, 127); 2]), f32::INFINITY);
        assert!(model.add_products(0.0, &[f32::INFINITY], &[0.0]).is_nan());
        assert_eq!(
            model.add_products(1.0, &[f32::NEG_INFINITY], &[2.0]),
            f32::NEG_INFINITY
        );
    }
}
