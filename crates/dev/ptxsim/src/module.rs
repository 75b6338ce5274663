//! A parsed and decoded module.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::decode::{Data, decode};
use crate::error::{Result, SimError};
use crate::exec::Arg;
use crate::ir::Kernel;
use crate::parse::parse;

/// A PTX module whose kernels can be launched.
#[derive(Clone, Debug)]
pub struct Module {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Identifies the module: a device keeps the variables of each.
    id: u64,
    kernels: Vec<Kernel>,
    data: Data,
}

impl Module {
    /// Parses PTX.
    ///
    /// # Errors
    ///
    /// Anything unknown to the simulator is an error with its line and column: directives, instructions, modifiers,
    /// names, and operands of the wrong type.
    pub fn parse(source: &str) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (kernels, data) = decode(&parse(source)?)?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            inner: Arc::new(Inner { id, kernels, data }),
        })
    }

    /// The names of the kernels, in the order of the source.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.inner.kernels.iter().map(|kernel| kernel.name.as_str())
    }

    /// Bytes of shared memory that an entry declares, without those that a launch adds.
    ///
    /// # Errors
    ///
    /// The module has no such entry.
    pub fn static_shared(&self, entry: &str) -> Result<u64> {
        Ok(self.kernel(entry)?.static_shared)
    }

    /// The parameters of an entry, each as an argument of 0. They tell the number and the types.
    ///
    /// # Errors
    ///
    /// The module has no such entry.
    pub fn params(&self, entry: &str) -> Result<Vec<Arg>> {
        let params = self.kernel(entry)?.params.iter();
        Ok(params.map(Arg::zero).collect())
    }

    pub(crate) fn id(&self) -> u64 {
        self.inner.id
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.inner.data.bytes
    }

    pub(crate) fn kernel(&self, entry: &str) -> Result<&Kernel> {
        self.inner
            .kernels
            .iter()
            .find(|kernel| kernel.name == entry)
            .ok_or_else(|| SimError::NoEntry {
                name: entry.into(),
                entries: self.entries().map(str::to_owned).collect(),
            })
    }
}
