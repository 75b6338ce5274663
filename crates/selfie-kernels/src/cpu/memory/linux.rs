//! Linux: `/proc/meminfo`, the limits of the process's control groups (a container's, a batch job's), and its `ulimit`.

use std::fs;
use std::io;
use std::path::Path;

use crate::Memory;

pub(crate) fn memory() -> io::Result<Memory> {
    read(Path::new("/"))
}

/// The files that bound a control group, below the mount of its hierarchy, and where `/proc/self/cgroup` names it.
struct Hierarchy {
    controllers: &'static str,
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    cache: &'static str,
}

const HIERARCHIES: [Hierarchy; 2] = [
    Hierarchy {
        controllers: "",
        mount: "sys/fs/cgroup",
        limit: "memory.max",
        usage: "memory.current",
        cache: "inactive_file",
    },
    Hierarchy {
        controllers: "memory",
        mount: "sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        cache: "total_inactive_file",
    },
];

/// The memory of the system whose files are below `root`.
fn read(root: &Path) -> io::Result<Memory> {
    let path = root.join("proc/meminfo");
    let text = fs::read_to_string(&path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    let kib = |name: &str| {
        value(&text, name, ':').ok_or_else(|| {
            let message = format!("{} has no number for {name}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    };
    let mut memory = Memory {
        total: kib("MemTotal")? << 10,
        available: kib("MemAvailable")? << 10,
    };
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    for line in groups.lines() {
        // "4:memory:/jobs/17"; version 2 is "0::/jobs/17".
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let named = |h: &&Hierarchy| controllers.split(',').any(|name| name == h.controllers);
        if let Some(hierarchy) = HIERARCHIES.iter().find(named) {
            bound(root, hierarchy, group, &mut memory);
        }
    }
    ulimit(root, &mut memory);
    Ok(memory)
}

/// Lowers `memory` to `ulimit -v` and `ulimit -d`, less what the process has already.
fn ulimit(root: &Path, memory: &mut Memory) {
    let text = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    let (limits, status) = (text("proc/self/limits"), text("proc/self/status"));
    for (limit, used) in [("Max address space", "VmSize"), ("Max data size", "VmData")] {
        // "Max data size  unlimited  unlimited  bytes": no number is no limit.
        if let (Some(limit), Some(kib)) = (value(&limits, limit, ' '), value(&status, used, ':')) {
            memory.total = memory.total.min(limit);
            memory.available = memory.available.min(limit.saturating_sub(kib << 10));
        }
    }
}

/// Lowers `memory` to the limits of a group and of all that it is in. A container may see its own group as the mount's
/// root, under a name that is not there: groups without files set no limit.
fn bound(root: &Path, hierarchy: &Hierarchy, group: &str, memory: &mut Memory) {
    let mount = root.join(hierarchy.mount);
    for group in Path::new(group.trim_start_matches('/')).ancestors() {
        let group = mount.join(group);
        let number = |file: &str| -> Option<u64> {
            let text = fs::read_to_string(group.join(file)).ok()?;
            text.trim().parse().ok()
        };
        let (Some(limit), Some(usage)) = (number(hierarchy.limit), number(hierarchy.usage)) else {
            continue;
        };
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        // Pages of files that nobody uses count as used, and are given back when somebody asks.
        let cache = value(&stat, hierarchy.cache, ' ').unwrap_or(0);
        let available = limit.saturating_sub(usage.saturating_sub(cache));
        memory.total = memory.total.min(limit);
        memory.available = memory.available.min(available);
    }
}

/// The number of the line that begins with `name` and `separator`.
fn value(table: &str, name: &str, separator: char) -> Option<u64> {
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(separator))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str =
        "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    9000 kB\n";
    const MIB: u64 = 1 << 20;

    /// A root with these files, by path and text.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn without_limits_it_is_the_machines() {
        let unlimited = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
            ("sys/fs/cgroup/memory.current", "4096\n"),
        ];
        for files in [&unlimited[..1], &unlimited] {
            let memory = read(root(files).path()).unwrap();
            assert_eq!(
                (memory.total, memory.available),
                (16_000 << 10, 9_000 << 10)
            );
        }
    }

    #[test]
    fn the_tightest_group_counts_and_gives_its_file_cache_back() {
        let root = root(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "4:cpu:/x\n0::/jobs/17\n"),
            ("sys/fs/cgroup/jobs/memory.max", "8388608"),
            ("sys/fs/cgroup/jobs/memory.current", "7340032"),
            (
                "sys/fs/cgroup/jobs/memory.stat",
                "anon 1\ninactive_file 2097152\n",
            ),
            ("sys/fs/cgroup/jobs/17/memory.max", "6291456"),
            ("sys/fs/cgroup/jobs/17/memory.current", "1048576"),
        ]);
        let memory = read(root.path()).unwrap();
        // The job may have 6 MiB and has 1; all jobs may have 8 and have 7, of which 2 come back.
        assert_eq!((memory.total, memory.available), (6 * MIB, 3 * MIB));
    }

    #[test]
    fn version_1_of_control_groups_is_read_too() {
        let root = root(&[
            ("proc/meminfo", MEMINFO),
            (
                "proc/self/cgroup",
                "9:cpu,cpuacct:/\n4:memory:/not/mounted/here\n0::/\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4194304\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "3145728\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "total_inactive_file 1048576\n",
            ),
        ]);
        let memory = read(root.path()).unwrap();
        assert_eq!((memory.total, memory.available), (4 * MIB, 2 * MIB));
    }

    #[test]
    fn a_group_that_is_over_its_limit_has_nothing_left() {
        let root = root(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "1048576"),
            ("sys/fs/cgroup/a/memory.current", "2097152"),
        ]);
        assert_eq!(read(root.path()).unwrap().available, 0);
    }

    #[test]
    fn ulimit_counts_less_what_the_process_has() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             unlimited            unlimited            bytes     \n\
                      Max address space         6291456              unlimited            bytes     \n";
        let root = root(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/limits", limits),
            (
                "proc/self/status",
                "Name:\tselfie\nVmSize:\t    2048 kB\nVmData:\t    1024 kB\n",
            ),
        ]);
        let memory = read(root.path()).unwrap();
        assert_eq!((memory.total, memory.available), (6 * MIB, 4 * MIB));
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = read(root(&[]).path()).unwrap_err().to_string();
        assert!(message.contains("proc/meminfo"), "{message}");
        let old = root(&[("proc/meminfo", "MemTotal: 16000 kB\n")]);
        let message = read(old.path()).unwrap_err().to_string();
        assert!(message.contains("no number for MemAvailable"), "{message}");
    }
}
