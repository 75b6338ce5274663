//! Every instruction against the wording of the PTX ISA: the table of `cases`, run on the simulator.

use selfie_ptxsim::{Arg, Config, Gpu, Module};
use selfie_testkit::instructions::{self as cases};
use selfie_testkit::instructions::{Case, THREADS};

fn run(case: &Case) -> Result<(), String> {
    let module = Module::parse(&case.ptx()).map_err(|error| format!("{}: {error}", case.body))?;
    let mut gpu = Gpu::new();
    let mut output = vec![0; 8 * case.rows.len()];
    let input = gpu.alloc(case.input().len() as u64).unwrap();
    gpu.write(input, &case.input()).unwrap();
    let result = gpu.alloc(output.len() as u64).unwrap();
    let threads = THREADS.min(case.rows.len() as u32);
    let config = Config {
        grid: [case.blocks(), 1, 1],
        block: [threads, 1, 1],
        dynamic_shared: 0,
    };
    let args = [
        Arg::U64(input),
        Arg::U64(result),
        Arg::U32(case.rows.len() as u32),
    ];
    gpu.launch(&module, "k", &config, &args)
        .map_err(|error| format!("{}: {error}", case.body))?;
    gpu.read(result, &mut output).unwrap();
    case.check(&output)
}

#[test]
fn instructions_do_what_the_isa_says() {
    let cases = cases::cases();
    let failures: Vec<String> = cases.iter().filter_map(|case| run(case).err()).collect();
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    let rows: usize = cases.iter().map(|case| case.rows.len()).sum();
    println!("{} cases, {rows} rows", cases.len());
    assert!(cases.len() > 300 && cases.iter().all(|case| !case.rows.is_empty()));
}

/// The table detects a wrong result for every kind of expectation.
#[test]
fn the_table_can_fail() {
    for case in cases::cases() {
        let flipped: Vec<u8> = (0..case.rows.len())
            .flat_map(|_| 0x5a5a_5a5a_1234_5a5au64.to_le_bytes())
            .collect();
        assert!(case.check(&flipped).is_err(), "{}", case.body);
    }
}
