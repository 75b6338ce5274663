//! Turns a launch into blocks.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use super::block::Block;
use super::tensor::TensorCores;
use crate::device::Memory;
use crate::error::{Result, SimError};
use crate::ir::{Kernel, Param};
use crate::report::{Counters, Report};

/// The most threads of a block.
const MOST_THREADS: u64 = 1024;
/// The most shared memory of a block: sm_90's 227 KiB.
const MOST_SHARED: u64 = 227 * 1024;

/// The sizes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of `.extern .shared` memory.
    pub dynamic_shared: u32,
}

/// A kernel argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A `.u32`, `.s32` or `.b32`.
    U32(u32),
    /// A `.u64`, `.s64` or `.b64`, such as an address.
    U64(u64),
    /// An `.f32`.
    F32(f32),
}

impl Arg {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::U32(value) => value.to_le_bytes().into(),
            Self::U64(value) => value.to_le_bytes().into(),
            Self::F32(value) => value.to_le_bytes().into(),
        }
    }

    /// A zero argument for `param`.
    pub(crate) fn zero(param: &Param) -> Self {
        match param.ty {
            crate::ir::Type::F32 => Self::F32(0.0),
            _ if param.bytes == 8 => Self::U64(0),
            _ => Self::U32(0),
        }
    }

    fn fits(self, param: &Param) -> bool {
        use crate::ir::Type::{B32, B64, F32, S32, S64, U32, U64};
        let types: &[_] = match self {
            Self::U32(_) => &[U32, S32, B32],
            Self::U64(_) => &[U64, S64, B64],
            Self::F32(_) => &[F32],
        };
        types.contains(&param.ty) && param.bytes == param.ty.bytes()
    }
}

/// What launches have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Warp instructions that a block may run.
    pub(crate) limit: u64,
    /// The seed of a random schedule.
    pub(crate) schedule: Option<u64>,
    pub(crate) tensor_cores: TensorCores,
}

/// The state that all blocks of a launch share.
pub(super) struct Env<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) memory: &'a Memory<'a>,
    /// The address of the module's variables.
    pub(super) variables: u64,
    pub(super) config: Config,
    pub(super) params: Vec<u8>,
    /// Where dynamic shared memory starts, from the start of shared memory.
    pub(super) dynamic_start: u64,
    pub(super) shared_bytes: u64,
    pub(super) settings: Settings,
    /// Whether there are several blocks, which may race.
    pub(super) many_blocks: bool,
}

impl Env<'_> {
    pub(super) fn blocks(&self) -> u32 {
        self.config.grid.iter().product()
    }

    pub(super) fn threads(&self) -> u32 {
        self.config.block.iter().product()
    }
}

pub(crate) fn launch(
    kernel: &Kernel,
    memory: &Memory<'_>,
    variables: u64,
    config: &Config,
    args: &[Arg],
    settings: Settings,
) -> Result<Report> {
    let bad = |message: String| SimError::BadLaunch {
        entry: kernel.name.clone(),
        message,
    };
    check_sizes(kernel, config).map_err(bad)?;
    let params = params(kernel, args).map_err(bad)?;
    let dynamic_start = kernel
        .static_shared
        .next_multiple_of(kernel.dynamic_shared_align);
    let shared_bytes = match config.dynamic_shared {
        0 => kernel.static_shared,
        dynamic => dynamic_start + u64::from(dynamic),
    };
    if shared_bytes > MOST_SHARED {
        return Err(bad(format!(
            "{shared_bytes} bytes of shared memory are more than {MOST_SHARED}"
        )));
    }
    let env = Env {
        kernel,
        memory,
        variables,
        config: *config,
        params,
        dynamic_start,
        shared_bytes,
        settings,
        many_blocks: config.grid.iter().any(|&n| n > 1),
    };
    let tallies = if kernel.in_order {
        run_in_order(&env)?
    } else {
        run_in_parallel(&env)?
    };
    Ok(Report::new(kernel, &tallies))
}

fn check_sizes(kernel: &Kernel, config: &Config) -> std::result::Result<(), String> {
    let Config {
        grid,
        block,
        dynamic_shared,
    } = config;
    let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
    let blocks: u128 = grid.iter().map(|&n| u128::from(n)).product();
    if threads == 0 || threads > MOST_THREADS || block[2] > 64 {
        return Err(format!(
            "a block of {block:?} threads is not possible: 1 to {MOST_THREADS} in all, 64 in z"
        ));
    }
    if blocks == 0 || blocks > i32::MAX as u128 || grid[1] > 65535 || grid[2] > 65535 {
        return Err(format!("a grid of {grid:?} blocks is not possible here"));
    }
    if let Some(required) = kernel.required_threads
        && required != *block
    {
        return Err(format!(
            "the kernel's .reqntid is {required:?}, but a block has {block:?}"
        ));
    }
    if let Some(most) = kernel.max_threads
        && threads > most.iter().map(|&n| u64::from(n)).product()
    {
        return Err(format!(
            "the kernel's .maxntid is {most:?}, but a block has {block:?}"
        ));
    }
    if *dynamic_shared > 0 && !kernel.has_dynamic_shared {
        return Err("dynamic shared memory was requested, but the module declares none".into());
    }
    Ok(())
}

fn params(kernel: &Kernel, args: &[Arg]) -> std::result::Result<Vec<u8>, String> {
    if args.len() != kernel.params.len() {
        return Err(format!(
            "{} arguments are given, but the kernel has {}",
            args.len(),
            kernel.params.len()
        ));
    }
    let mut bytes = vec![0; kernel.param_bytes as usize];
    for (i, (arg, param)) in args.iter().zip(&kernel.params).enumerate() {
        if !arg.fits(param) {
            let Param { name, ty, .. } = param;
            return Err(format!(
                "argument {i}, {arg:?}, does not fit the parameter `{name}` of type {ty}"
            ));
        }
        let value = arg.bytes();
        let start = param.offset as usize;
        bytes[start..start + value.len()].copy_from_slice(&value);
    }
    Ok(bytes)
}

/// Runs blocks that communicate one after the other, by index.
fn run_in_order(env: &Env<'_>) -> Result<Vec<Counters>> {
    let mut block = Block::new(env);
    for index in 0..env.blocks() {
        block.run(index)?;
    }
    Ok(block.tallies)
}

/// Runs blocks on all cores. Their results do not depend on their order, or they race, which is an error. If several
/// blocks fail, the error of the first of them is returned.
fn run_in_parallel(env: &Env<'_>) -> Result<Vec<Counters>> {
    let blocks = env.blocks();
    let first_failed = AtomicU32::new(u32::MAX);
    let workers = rayon::current_num_threads() as u32;
    let piece = blocks.div_ceil(4 * workers).max(1);
    let pieces: Vec<_> = (0..blocks.div_ceil(piece))
        .into_par_iter()
        .map(|i| {
            let mut block = Block::new(env);
            for index in i * piece..blocks.min((i + 1) * piece) {
                if index > first_failed.load(Relaxed) {
                    break;
                }
                if let Err(error) = block.run(index) {
                    first_failed.fetch_min(index, Relaxed);
                    return Err((index, error));
                }
            }
            Ok(block.tallies)
        })
        .collect();
    let mut sum = vec![Counters::default(); env.kernel.insts.len()];
    let mut first: Option<(u32, SimError)> = None;
    for piece in pieces {
        match piece {
            Ok(tallies) => sum
                .iter_mut()
                .zip(tallies)
                .for_each(|(sum, tally)| *sum += tally),
            Err((index, error)) if first.as_ref().is_none_or(|(other, _)| index < *other) => {
                first = Some((index, error));
            }
            Err(_) => {}
        }
    }
    match first {
        Some((_, error)) => Err(error),
        None => Ok(sum),
    }
}
