//! Runs the simulator's table of instructions on the hardware, to check that both agree on what PTX means.

use selfie_kernels::gpu::{Arg, Cuda, Driver};

use crate::{Check, Opening};
use selfie_testkit::instructions::{self as cases};
use selfie_testkit::instructions::{Case, THREADS};

pub(crate) fn checks() -> Vec<Check> {
    vec![(
        "instructions do what the PTX ISA says".into(),
        Box::new(table),
    )]
}

fn table(opening: Opening) {
    let cuda = opening.fast();
    let cases = cases::cases();
    let failures: Vec<String> = cases.iter().filter_map(|c| run(&cuda, c).err()).collect();
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    println!("{} instructions", cases.len());
}

fn run(cuda: &Cuda, case: &Case) -> Result<(), String> {
    let driver = cuda.driver();
    let threads = THREADS.min(case.rows.len() as u32);
    let mut output = vec![0; 8 * case.rows.len()];
    let mut run = || {
        let input = driver.alloc("operands", case.input().len() as u64)?;
        let result = driver.alloc("results", output.len() as u64)?;
        let args = [
            Arg::Ptr(input),
            Arg::Ptr(result),
            Arg::U32(case.rows.len() as u32),
        ];
        // SAFETY: the kernel reads as many operands, and writes as many results, as it has rows.
        let ran = unsafe {
            driver.write(input, &case.input())?;
            let ran = driver.run_ptx(&case.ptx(), "k", [case.blocks(), threads], &args);
            ran.and_then(|()| driver.read(result, &mut output))
        };
        // SAFETY: both came from `alloc`, and nothing uses them any more.
        unsafe {
            driver.free(input);
            driver.free(result);
        }
        ran
    };
    run().map_err(|error: selfie_kernels::KernelError| format!("{}: {error}", case.body))?;
    case.check(&output)
}
