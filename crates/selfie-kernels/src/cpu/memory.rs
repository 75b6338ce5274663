//! How much memory there is: the machine's, a container's, and what this process may have of it.

use std::fs;

use sysinfo::System;

use crate::{KernelError, Memory, Result};

/// What can certainly not be exceeded: what the system keeps of files, mapped or not, counts as free, as it gives that up.
pub(super) fn memory() -> Result<Memory> {
    let mut system = System::new().map_err(KernelError::Memory)?;
    system.refresh_memory();
    let mut memory = Memory {
        total: system.total_memory(),
        available: system.available_memory(),
    };
    if let Some(container) = system.cgroup_limits() {
        // Its own count of what is free takes files that were read for used memory.
        let free = container.total_memory.saturating_sub(container.rss);
        memory = memory.at_most(container.total_memory, container.free_memory.max(free));
    }
    // `ulimit -v` and `ulimit -d`; only Linux tells.
    let text = |name: &str| fs::read_to_string(name).unwrap_or_default();
    let (limits, status) = (text("/proc/self/limits"), text("/proc/self/status"));
    for (limit, used) in [
        ("Max address space", "VmSize:"),
        ("Max data size", "VmData:"),
    ] {
        if let (Some(limit), Some(used)) = (number(&limits, limit), number(&status, used)) {
            memory = memory.at_most(limit, limit.saturating_sub(1024 * used));
        }
    }
    Ok(memory)
}

/// The number behind a name at the beginning of a line; `None` where there is none, as for `unlimited`.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

impl Memory {
    fn at_most(self, total: u64, available: u64) -> Self {
        Self {
            total: self.total.min(total),
            available: self.available.min(available),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_linux_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             unlimited            unlimited            bytes     \n\
                      Max address space         1073741824           unlimited            bytes     \n";
        assert_eq!(number(limits, "Max address space"), Some(1 << 30));
        assert_eq!(number(limits, "Max data size"), None);
        assert_eq!(number(limits, "Max resident set"), None);
        assert_eq!(
            number("Name:\tselfie\nVmSize:\t   12 kB\n", "VmSize:"),
            Some(12)
        );
    }
}
