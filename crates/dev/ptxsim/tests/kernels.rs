//! Compares whole kernels with plain Rust.

use selfie_ptxsim::{Arg, Config, Gpu, Module, SimError};

fn floats(gpu: &mut Gpu, values: &[f32]) -> u64 {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let p = gpu.alloc(bytes.len() as u64).unwrap();
    gpu.write(p, &bytes).unwrap();
    p
}

fn read_floats(gpu: &Gpu, p: u64, n: usize) -> Vec<f32> {
    let mut bytes = vec![0; 4 * n];
    gpu.read(p, &mut bytes).unwrap();
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

const SUM: &str = r#"
.version 8.0
.target sm_80
.address_size 64

// Sum of each row: one block a row, any width.
.visible .entry row_sum(
    .param .u64 in_p,
    .param .u64 out_p,
    .param .u32 width
)
.maxntid 128, 1, 1
{
    .reg .pred %p<4>;
    .reg .b32 %r<20>;
    .reg .f32 %f<8>;
    .reg .b64 %rd<10>;
    .shared .align 4 .f32 partial[4];

    ld.param.u64 %rd0, [in_p];
    cvta.to.global.u64 %rd0, %rd0;
    ld.param.u64 %rd1, [out_p];
    ld.param.u32 %r0, [width];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %ctaid.x;
    mul.lo.u32 %r3, %r2, %r0;
    mul.wide.u32 %rd2, %r3, 4;
    add.u64 %rd2, %rd0, %rd2;
    mov.f32 %f0, 0f00000000;
    mov.u32 %r4, %r1;
LOOP:
    setp.ge.u32 %p0, %r4, %r0;
    @%p0 bra END;
    mul.wide.u32 %rd3, %r4, 4;
    add.u64 %rd3, %rd2, %rd3;
    ld.global.nc.L1::no_allocate.f32 %f1, [%rd3];
    add.rn.f32 %f0, %f0, %f1;
    add.u32 %r4, %r4, 128;
    bra.uni LOOP;
END:
    mov.b32 %r5, %f0;
    shfl.sync.bfly.b32 %r6|%p1, %r5, 16, 31, 0xffffffff;
    mov.b32 %f1, %r6;
    add.f32 %f0, %f0, %f1;
    mov.b32 %r5, %f0;
    shfl.sync.bfly.b32 %r6, %r5, 8, 31, 0xffffffff;
    mov.b32 %f1, %r6;
    add.f32 %f0, %f0, %f1;
    mov.b32 %r5, %f0;
    shfl.sync.bfly.b32 %r6, %r5, 4, 31, 0xffffffff;
    mov.b32 %f1, %r6;
    add.f32 %f0, %f0, %f1;
    mov.b32 %r5, %f0;
    shfl.sync.bfly.b32 %r6, %r5, 2, 31, 0xffffffff;
    mov.b32 %f1, %r6;
    add.f32 %f0, %f0, %f1;
    mov.b32 %r5, %f0;
    shfl.sync.bfly.b32 %r6, %r5, 1, 31, 0xffffffff;
    mov.b32 %f1, %r6;
    add.f32 %f0, %f0, %f1;
    and.b32 %r7, %r1, 31;
    shr.u32 %r8, %r1, 5;
    setp.eq.u32 %p2, %r7, 0;
    mov.u32 %r9, partial;
    mad.lo.u32 %r10, %r8, 4, %r9;
    @%p2 st.shared.f32 [%r10], %f0;
    bar.sync 0;
    setp.ne.u32 %p3, %r1, 0;
    @%p3 bra DONE;
    ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [partial];
    add.f32 %f1, %f1, %f2;
    add.f32 %f3, %f3, %f4;
    add.f32 %f1, %f1, %f3;
    mul.wide.u32 %rd4, %r2, 4;
    add.u64 %rd4, %rd1, %rd4;
    st.global.f32 [%rd4], %f1;
DONE:
    ret;
}
"#;

#[test]
fn sums_rows() {
    let source = SUM.replace(
        ".shared .align 4 .f32 partial[4]",
        ".shared .align 16 .f32 partial[4]",
    );
    let module = Module::parse(&source).unwrap();
    let mut gpu = Gpu::new();
    let (rows, width) = (3, 300);
    let values: Vec<f32> = (0..rows * width).map(|i| (i % 17) as f32 - 5.0).collect();
    let input = floats(&mut gpu, &values);
    let output = gpu.alloc(4 * rows as u64).unwrap();
    let config = Config {
        grid: [rows as u32, 1, 1],
        block: [128, 1, 1],
        dynamic_shared: 0,
    };
    let args = [Arg::U64(input), Arg::U64(output), Arg::U32(width as u32)];
    let report = gpu.launch(&module, "row_sum", &config, &args).unwrap();
    let expected: Vec<f32> = values.chunks(width).map(|row| row.iter().sum()).collect();
    assert_eq!(read_floats(&gpu, output, rows), expected);
    println!("{report}");
    let loads = report.total.global_load;
    assert_eq!(loads.bytes, 4 * (rows * width) as u64);
    // 300 floats are 37.5 sectors, and rows 1 and 2 start at a half or a whole sector.
    assert_eq!(report.count("bar").warps, 12);
    assert_eq!(report.total.shared_load.conflicts, 0);
}

#[test]
fn out_of_bounds_names_line_and_thread() {
    let module = Module::parse(&SUM.replace("align 4 .f32", "align 16 .f32")).unwrap();
    let mut gpu = Gpu::new();
    let input = floats(&mut gpu, &[1.0; 100]);
    let output = gpu.alloc(4).unwrap();
    let config = Config {
        grid: [1, 1, 1],
        block: [128, 1, 1],
        dynamic_shared: 0,
    };
    let args = [Arg::U64(input), Arg::U64(output), Arg::U32(101)];
    let error = gpu.launch(&module, "row_sum", &config, &args).unwrap_err();
    let SimError::OutOfBounds { place, address, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((*address, place.thread), (input + 400, [100, 0, 0]));
    println!("{error}");
}
