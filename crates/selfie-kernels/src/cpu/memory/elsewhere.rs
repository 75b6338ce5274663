//! Systems other than Linux: as the crate sysinfo asks them.

use std::io;

use sysinfo::System;

use crate::Memory;

pub(crate) fn memory() -> io::Result<Memory> {
    let mut system = System::new().map_err(io::Error::other)?;
    system.refresh_memory();
    Ok(Memory {
        total: system.total_memory(),
        available: system.available_memory(),
    })
}
