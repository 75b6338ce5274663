//! Control flow: where divergent paths meet again, and which registers are written on every path.

use std::collections::HashSet;

use crate::ir::{Inst, Op, Reg};

/// A run of instructions that is entered only at its start.
struct Block {
    start: usize,
    end: usize,
    next: Vec<usize>,
    /// Whether it ends in an exit that only some lanes may take.
    exits: bool,
}

/// For each instruction, the place where the paths of a divergent branch there meet again (`insts.len()` if they do
/// not). Removes registers that are written on every path from `reads`.
pub(super) fn analyse(insts: &mut [Inst], writes: &[Vec<Reg>]) -> Vec<u32> {
    exit_directly(insts);
    let blocks = blocks(insts);
    let post = post_dominators(&blocks);
    let mut meets = vec![insts.len() as u32; insts.len()];
    for (block, post) in blocks.iter().zip(&post) {
        if let Some(post) = post.filter(|&b| b < blocks.len()) {
            meets[block.end - 1] = blocks[post].start as u32;
        }
    }
    prune_reads(insts, writes, &blocks);
    meets
}

/// Turns a conditional branch to a `ret` into a conditional `ret`: the lanes that take it are gone at once, and no
/// barrier waits for them.
fn exit_directly(insts: &mut [Inst]) {
    for i in 0..insts.len() {
        if let Op::Bra { target, .. } = insts[i].op
            && let Some(next) = insts.get(target as usize)
            && matches!(next.op, Op::Exit)
            && next.guard.is_none()
        {
            insts[i].op = Op::Exit;
        }
    }
}

fn blocks(insts: &[Inst]) -> Vec<Block> {
    let mut leaders = vec![false; insts.len() + 1];
    leaders[0] = true;
    for (i, inst) in insts.iter().enumerate() {
        match inst.op {
            Op::Bra { target, .. } => {
                leaders[target as usize] = true;
                leaders[i + 1] = true;
            }
            Op::Exit => leaders[i + 1] = true,
            _ => {}
        }
    }
    let starts: Vec<usize> = (0..insts.len()).filter(|&i| leaders[i]).collect();
    let block_of = |pc: usize| starts.partition_point(|&start| start <= pc) - 1;
    starts
        .iter()
        .enumerate()
        .map(|(b, &start)| {
            let end = starts.get(b + 1).copied().unwrap_or(insts.len());
            let last = &insts[end - 1];
            let mut next = Vec::new();
            // A guarded exit only removes lanes; the others continue together.
            let falls_through =
                last.guard.is_some() || !matches!(last.op, Op::Bra { .. } | Op::Exit);
            if falls_through && end < insts.len() {
                next.push(block_of(end));
            }
            if let Op::Bra { target, .. } = last.op
                && (target as usize) < insts.len()
            {
                next.push(block_of(target as usize));
            }
            let exits = matches!(last.op, Op::Exit) && last.guard.is_some();
            Block {
                start,
                end,
                next,
                exits,
            }
        })
        .collect()
}

/// The immediate post-dominator of each block; `blocks.len()` is the kernel's end. `None` for blocks from which no path
/// leads to the end.
///
/// A guarded exit counts as a path to the end only if there is no other: in a loop that all lanes leave by it.
fn post_dominators(blocks: &[Block]) -> Vec<Option<usize>> {
    let end = blocks.len();
    let ends = reach_the_end(blocks);
    let successors = |b: usize| {
        let mut next = blocks[b].next.clone();
        if next.is_empty() || (blocks[b].exits && !ends[b]) {
            next.push(end);
        }
        next
    };
    let mut before = vec![Vec::new(); end + 1];
    for b in 0..end {
        for s in successors(b) {
            before[s].push(b);
        }
    }
    // Post-order of the reversed graph, from the end.
    let mut number = vec![usize::MAX; end + 1];
    let mut order = Vec::new();
    let mut seen = vec![false; end + 1];
    let mut stack = vec![(end, 0)];
    seen[end] = true;
    while let Some((b, i)) = stack.pop() {
        if let Some(&p) = before[b].get(i) {
            stack.push((b, i + 1));
            if !seen[p] {
                seen[p] = true;
                stack.push((p, 0));
            }
        } else {
            number[b] = order.len();
            order.push(b);
        }
    }
    let mut post: Vec<Option<usize>> = vec![None; end + 1];
    post[end] = Some(end);
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev().filter(|&&b| b != end) {
            let mut meet: Option<usize> = None;
            for s in successors(b).into_iter().filter(|&s| post[s].is_some()) {
                meet = Some(match meet {
                    None => s,
                    Some(other) => common(s, other, &post, &number),
                });
            }
            if post[b] != meet {
                post[b] = meet;
                changed = true;
            }
        }
    }
    post.truncate(end);
    post
}

/// For each block, whether a path without guarded exits leads to the end.
fn reach_the_end(blocks: &[Block]) -> Vec<bool> {
    let mut ends: Vec<bool> = blocks.iter().map(|block| block.next.is_empty()).collect();
    let mut changed = true;
    while changed {
        changed = false;
        for (b, block) in blocks.iter().enumerate() {
            if !ends[b] && block.next.iter().any(|&s| ends[s]) {
                ends[b] = true;
                changed = true;
            }
        }
    }
    ends
}

fn common(mut a: usize, mut b: usize, post: &[Option<usize>], number: &[usize]) -> usize {
    while a != b {
        while number[a] < number[b] {
            a = post[a].expect("processed blocks have one");
        }
        while number[b] < number[a] {
            b = post[b].expect("processed blocks have one");
        }
    }
    a
}

fn key(reg: Reg) -> (u8, u16) {
    crate::ir::register_key(reg)
}

/// Drops the run-time check of a register that is written on every path to an instruction.
fn prune_reads(insts: &mut [Inst], writes: &[Vec<Reg>], blocks: &[Block]) {
    let mut entry: Vec<Option<HashSet<(u8, u16)>>> = vec![None; blocks.len()];
    if blocks.is_empty() {
        return;
    }
    entry[0] = Some(HashSet::new());
    let mut work = vec![0];
    while let Some(b) = work.pop() {
        let mut written = entry[b].clone().expect("only reached blocks are worked on");
        for w in &writes[blocks[b].start..blocks[b].end] {
            written.extend(w.iter().map(|&reg| key(reg)));
        }
        for &s in &blocks[b].next {
            let met = match &entry[s] {
                None => written.clone(),
                Some(before) => before.intersection(&written).copied().collect(),
            };
            if entry[s].as_ref() != Some(&met) {
                entry[s] = Some(met);
                work.push(s);
            }
        }
    }
    for (block, entry) in blocks.iter().zip(entry) {
        let mut written = entry.unwrap_or_default();
        for i in block.start..block.end {
            let reads = insts[i]
                .reads
                .iter()
                .copied()
                .filter(|&reg| !written.contains(&key(reg)));
            insts[i].reads = reads.collect();
            written.extend(writes[i].iter().map(|&reg| key(reg)));
        }
    }
}
