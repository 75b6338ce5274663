#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod check;
mod decode;
mod device;
mod error;
mod exec;
mod ir;
mod module;
mod parse;
mod report;

pub use device::Gpu;
pub use error::{Place, Position, Result, SimError, Space};
pub use exec::{Arg, Config, TensorCores};
pub use module::Module;
pub use report::{Count, Counters, Report, SharedTraffic, Traffic};
