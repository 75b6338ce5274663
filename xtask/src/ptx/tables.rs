//! The two tables that `cargo xtask ptx` prints and `kernels/README.md` quotes.

use std::fmt::Write;

use selfie_ptxsim::Report;
use selfie_sim::survey::Surveyed;

use super::assemble::{ARCHITECTURES, Assembled};
use super::occupancy::occupancy;

/// The registers, shared memory and occupancy of each kernel as launched.
pub(super) fn assembled(kernels: &[Assembled], surveyed: &[Surveyed]) -> String {
    let mut table = String::from(
        "| kernel | threads | registers (sm_80, 90, 100, 120) | shared bytes | resident warps (sm_80, 90, 100, 120) |\n\
         |---|---|---|---|---|\n",
    );
    for Surveyed { entry, ran, .. } in surveyed {
        let launch = &ran.launch;
        let found = ARCHITECTURES.map(|architecture| {
            kernels.iter().find(|kernel| {
                kernel.module == launch.module
                    && kernel.entry == *entry
                    && kernel.architecture == architecture
            })
        });
        let threads: u32 = launch.block.iter().product();
        let shared = |kernel: &Assembled| kernel.shared + launch.shared_bytes;
        let registers = |kernel: &Assembled| kernel.registers.to_string();
        let resident = |kernel: &Assembled| {
            let share = occupancy(
                kernel.architecture,
                threads,
                kernel.registers,
                shared(kernel),
            );
            format!("{share}%")
        };
        let all = |what: &dyn Fn(&Assembled) -> String| {
            let each = found.map(|kernel| kernel.map_or("-".to_owned(), what));
            each.join(", ")
        };
        let _ = writeln!(
            table,
            "| `{entry}` | {threads} | {} | {} | {} |",
            all(&registers),
            found[0].map_or(launch.shared_bytes, shared),
            all(&resident),
        );
    }
    table
}

/// The work of each kernel in the simulator.
pub(super) fn simulated(surveyed: &[Surveyed]) -> String {
    let mut table = String::from(
        "| kernel | on | warp instructions: global, shared, mma, special, f32, other | sectors a load, a store (if coalesced) | bank conflicts | bytes moved / floor |\n\
         |---|---|---|---|---|---|\n",
    );
    for Surveyed {
        entry,
        case,
        ran,
        floor,
    } in surveyed
    {
        let total = ran.report.total;
        let (loads, stores) = (total.global_load, total.global_store);
        let moved = 32 * (loads.sectors + stores.sectors);
        let per_request = |sectors: u64, requests: u64| sectors as f64 / requests.max(1) as f64;
        let _ = writeln!(
            table,
            "| `{entry}` | {case} | {} | {:.1} ({:.1}), {:.1} ({:.1}) | {} | {:.2} |",
            kinds(&ran.report).map(|n| n.to_string()).join(", "),
            per_request(loads.sectors, loads.requests),
            per_request(loads.ideal_sectors, loads.requests),
            per_request(stores.sectors, stores.requests),
            per_request(stores.ideal_sectors, stores.requests),
            total.shared_load.conflicts + total.shared_store.conflicts,
            moved as f64 / *floor as f64,
        );
    }
    table
}

/// Warp instructions by execution unit.
fn kinds(report: &Report) -> [u64; 6] {
    let mut kinds = [0; 6];
    for (text, count) in &report.instructions {
        kinds[kind(text)] += count.warps;
    }
    kinds
}

fn kind(instruction: &str) -> usize {
    let mut parts = instruction.split('.');
    let name = parts.next().unwrap_or_default();
    let space = parts.next().unwrap_or_default();
    let on_floats = instruction.contains(".f32") || instruction.contains("f16");
    match name {
        "ld" | "st" | "red" | "atom" if space == "global" => 0,
        "cp" => 0,
        "ld" | "st" if space == "shared" => 1,
        "ldmatrix" => 1,
        "mma" => 2,
        "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "div" => 3,
        "add" | "sub" | "mul" | "fma" | "max" | "min" | "cvt" if on_floats => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn kinds() {
        for (instruction, want) in [
            ("ld.global.nc.v4.f32", 0),
            ("cp.async.cg.shared.global", 0),
            ("red.global.add.u32", 0),
            ("st.shared.v4.f32", 1),
            ("ldmatrix.sync.aligned.m8n8.x4.shared.b16", 1),
            ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 2),
            ("ex2.approx.ftz.f32", 3),
            ("fma.rn.f32", 4),
            ("cvt.rn.bf16x2.f32", 4),
            ("add.u32", 5),
            ("mov.f32", 5),
            ("shfl.sync.bfly.b32", 5),
            ("ld.param.u64", 5),
        ] {
            assert_eq!(kind(instruction), want, "{instruction}");
        }
    }
}
