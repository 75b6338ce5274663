//! Checks that ops share on every device.

use crate::error::{check_index, check_shape};
use crate::{AttnShape, BatchRow, Injection, KvLayout, Parts, Result, Slot};

/// Checks that queries, keys and values of `rows` rows fit a cache.
pub(crate) fn check_qkv(
    op: &'static str,
    shape: &AttnShape,
    layout: &KvLayout,
    rows: usize,
    (qkv_rows, qkv_width): (usize, usize),
) -> Result<()> {
    check_shape(op, "width of qkv", shape.qkv_dim(), qkv_width)?;
    check_shape(op, "rows of qkv", rows, qkv_rows)?;
    check_shape(op, "heads of the cache", layout.kv_heads, shape.kv_heads)?;
    check_shape(op, "head_dim of the cache", layout.head_dim, shape.head_dim)
}

/// Checks that a table of rotations (`[table_rows, table_width]`) has the positions of all rows.
pub(crate) fn check_rope(
    op: &'static str,
    shape: &AttnShape,
    (table_rows, table_width): (usize, usize),
    rows: &[BatchRow],
) -> Result<()> {
    check_index(
        op,
        "width of the rope table",
        table_width,
        shape.head_dim + 1,
    )?;
    check_shape(
        op,
        "width of the rope table",
        table_width / 2 * 2,
        table_width,
    )?;
    for row in rows {
        let position = row.position as usize;
        check_index(op, "position in the rope table", position, table_rows)?;
    }
    Ok(())
}

/// Checks that the parts lie in rows of `width` and that the weight fits them.
pub(crate) fn check_parts(parts: Parts, weight: usize, width: usize) -> Result<()> {
    const OP: &str = "rms_norm_parts";
    check_shape(OP, "length of the weight", parts.width, weight)?;
    let end = parts.count.checked_mul(parts.width);
    let end = end.and_then(|n| n.checked_add(parts.first));
    check_index(OP, "end of the parts", end.unwrap_or(usize::MAX), width + 1)
}

/// Checks that the query heads divide evenly among the key heads.
pub(crate) fn check_groups(op: &'static str, shape: &AttnShape) -> Result<()> {
    let grouped = shape.heads / shape.kv_heads.max(1) * shape.kv_heads;
    check_shape(op, "query heads", grouped, shape.heads)
}

/// Checks that a slot can continue these positions of a prefix.
pub(crate) fn check_share(
    layout: &KvLayout,
    slot: usize,
    prefix: u32,
    shared: &[usize],
) -> Result<()> {
    const OP: &str = "kv_share";
    check_index(OP, "slot", slot, layout.slots)?;
    check_shape(OP, "number of layers", layout.own.len(), shared.len())?;
    // A slot that sees nothing continues no prefix.
    if shared.iter().all(|&n| n == 0) {
        return Ok(());
    }
    let prefix = prefix as usize;
    check_index(OP, "prefix", prefix, layout.prefixes.len())?;
    for &n in shared {
        check_index(OP, "position", n, layout.prefixes[prefix] + 1)?;
    }
    Ok(())
}

/// Checks that a row's slot and position exist at `layer`. A slot sees `seen(slot)` shared positions.
pub(crate) fn check_row(
    op: &'static str,
    layout: &KvLayout,
    layer: usize,
    row: &BatchRow,
    seen: impl Fn(usize) -> usize,
) -> Result<()> {
    check_index(op, "layer", layer, layout.own.len())?;
    let position = row.position as usize;
    match row.slot {
        Slot::Prefix(prefix) => {
            let prefix = prefix as usize;
            check_index(op, "prefix", prefix, layout.prefixes.len())?;
            check_index(op, "position", position, layout.prefixes[prefix])
        }
        Slot::Branch(slot) => {
            check_index(op, "slot", slot as usize, layout.slots)?;
            let shared = seen(slot as usize);
            let end = shared + layout.own[layer];
            // A position below the shared length has no place in the branch.
            check_index(op, "shared positions", shared, position + 1)?;
            check_index(op, "position", position, end)
        }
    }
}

/// Checks that the first `positions` of slot `from` can be copied; it has stored `stored(layer)`.
pub(crate) fn check_copy(
    layout: &KvLayout,
    from: usize,
    to: usize,
    positions: usize,
    stored: impl Fn(usize) -> usize,
) -> Result<()> {
    const OP: &str = "kv_copy";
    check_index(OP, "slot", from, layout.slots)?;
    check_index(OP, "slot", to, layout.slots)?;
    for layer in 0..layout.own.len() {
        check_index(OP, "end of what is stored", positions, stored(layer) + 1)?;
    }
    Ok(())
}

/// Checks that vectors (`[n, width]`) can be written into rows (`[n, width]`).
pub(crate) fn check_injections(
    writes: &[Injection],
    (vectors, vector_width): (usize, usize),
    (rows, width): (usize, usize),
) -> Result<()> {
    const OP: &str = "inject";
    check_shape(OP, "width of the vectors", width, vector_width)?;
    for write in writes {
        check_index(OP, "row", write.row, rows)?;
        check_index(OP, "vector", write.vector, vectors)?;
    }
    Ok(())
}
