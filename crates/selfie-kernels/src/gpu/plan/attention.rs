//! `attention_f32.ptx`, `attention_prompt.ptx`, `attention_decode.ptx` and `attention_merge.ptx`

use std::f64::consts::LOG2_E;

use super::{AttentionWork, KvLayer, WARP, check_count};
use crate::gpu::{Arg, File, Launch, Module};
use crate::{Attend, DType, Result};

/// The widest head that the kernels support.
pub const MAX_HEAD_DIM: u32 = 256;

/// Head dimensions of bf16 and f16 are multiples of this, the depth of a product on the tensor cores.
pub const HEAD_DIM_STEP: u32 = 16;

/// Warps of a block of `attention_f32`; each has one row and head.
const F32_WARPS: u32 = 4;
/// Keys that a block of the other kernels takes at a time.
const TILE_KEYS: u32 = 64;
/// Rows of a tile of `attention_decode`.
const DECODE_ROWS: u32 = 16;
/// Warps of a block of `attention_decode`.
const DECODE_WARPS: u32 = 4;
/// Warps of a block of the merge; each has one row and head.
const MERGE_WARPS: u32 = 4;
/// Keys in the longest split.
const SPLIT_KEYS: u32 = 512;
/// Blocks per multiprocessor that [`Splits::Fill`] aims for. Five fit one of sm_90 at a head dimension of 128.
const FILL_BLOCKS: u32 = 3;
/// More keys than any cache has: no splits.
const ALL_KEYS: u32 = 1 << 30;

/// How the context of single rows is cut into splits, whose sums are then merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splits {
    /// No splits: keys are walked in one order, that of the prompt kernel. The bits of a row depend on its position
    /// alone, and not on other rows, not even those of its own slot.
    Fixed,
    /// Enough splits for three blocks per multiprocessor of the device, if the context is long enough.
    Fill {
        /// The device's multiprocessors.
        multiprocessors: u32,
    },
}

/// Attention of a batch at one layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Scale, window and cap. Its heads equal `heads` and those of `kv`.
    pub attend: &'a Attend,
    /// `[n, (heads + 2 kv_heads) * head_dim]`, of the cache's dtype; the queries come first, rotated.
    pub qkv: u64,
    /// `[n, heads * head_dim]`, of the cache's dtype.
    pub out: u64,
    /// `[n]`, u32: the slot of each row.
    pub slot: u64,
    /// `[n]`, u32: the position of each row.
    pub position: u64,
    /// The words of `rows`, on the device.
    pub words: u64,
    /// [`scratch_bytes`](Self::scratch_bytes) that only this layer uses while it runs. May be 0 for 0 bytes.
    pub scratch: u64,
    /// The rows of the batch, sorted.
    pub rows: &'a AttentionWork,
    /// Rows of the batch, at least 1.
    pub n: u32,
    /// Query heads.
    pub heads: u32,
    /// The cache. Its head dimension is at most [`MAX_HEAD_DIM`]. It is a multiple of [`HEAD_DIM_STEP`] unless the
    /// elements are f32.
    pub kv: KvLayer,
    /// How to cut long contexts.
    pub splits: Splits,
}

impl Attention<'_> {
    /// An error if there are more rows or slots than the kernels' 32-bit offsets can reach.
    pub fn check(&self, op: &'static str) -> Result<()> {
        let width =
            u64::from(self.kv.head_dim) * (u64::from(self.heads) + 2 * u64::from(self.kv.kv_heads));
        check_count(
            op,
            "elements of qkv",
            [self.n.into(), width],
            u32::MAX.into(),
        )?;
        self.kv.check(op)
    }

    /// The launches in order; together they write each row of `out` once.
    ///
    /// With [`Splits::Fixed`], the launches of single rows depend only on their number, so a captured graph works for
    /// all positions.
    pub fn launches(&self) -> Vec<Launch> {
        if self.kv.dtype == DType::F32 {
            return vec![self.f32()];
        }
        let mut launches = Vec::new();
        if self.rows.runs() > 0 {
            launches.push(self.prompt());
        }
        if self.rows.singles() > 0 {
            let [shared, own] = self.parts();
            if self.is_chain() {
                // The slot's own keys continue from the shared ones.
                if shared > 0 {
                    launches.push(self.decode([shared, 0]));
                }
                launches.push(self.decode([0, own]));
            } else {
                launches.extend([self.decode([shared, own]), self.merge()]);
            }
        }
        launches
    }

    /// Bytes of `scratch`, summed over single rows and heads. With splits, each split takes the weighted values and the
    /// logarithm of the sum of the weights. Without splits, a prefix takes the values and five numbers.
    pub fn scratch_bytes(&self) -> u64 {
        if self.kv.dtype == DType::F32 {
            return 0;
        }
        let logarithms = if self.is_chain() { 5 } else { 1 };
        self.lse_at() + 4 * logarithms * self.partials()
    }

    fn f32(&self) -> Launch {
        let mut args = self.common();
        args.push(Arg::U32(self.n));
        args.extend(self.masks());
        Launch {
            module: self.module(File::AttentionF32),
            entry: "attention_f32",
            grid: [(self.n * self.heads).div_ceil(F32_WARPS), 1, 1],
            block: [WARP * F32_WARPS, 1, 1],
            shared_bytes: 0,
            args,
        }
    }

    fn prompt(&self) -> Launch {
        // The fewest warps that take the longest run in one tile: they determine the shared memory of a tile.
        let warp_rows = 16 * warp_tiles(self.kv.head_dim);
        let run = self.rows.longest() * self.group();
        let (warps, entry) = match run.div_ceil(warp_rows) {
            1 => (1, "attention_prompt_1"),
            2 => (2, "attention_prompt_2"),
            _ => (4, "attention_prompt_4"),
        };
        let tiles = run.div_ceil(warps * warp_rows);
        let mut args = self.common();
        args.extend([
            Arg::Ptr(self.words),
            Arg::Ptr(self.words + 4 * self.rows.order_at()),
            Arg::U32(tiles),
        ]);
        args.extend(self.masks());
        Launch {
            module: self.module(File::AttentionPrompt),
            entry,
            grid: [tiles * self.rows.runs(), self.kv.kv_heads, 1],
            block: [WARP * warps, 1, 1],
            shared_bytes: (2 * TILE_KEYS + warps * warp_rows) * stride(self.kv.head_dim),
            args,
        }
    }

    fn decode(&self, [shared, own]: [u32; 2]) -> Launch {
        let singles = self.rows.singles();
        let tiles = (singles * self.group()).div_ceil(DECODE_ROWS);
        let group_tiles = self.group().div_ceil(DECODE_ROWS);
        let mut args = self.common();
        args.extend([
            Arg::Ptr(self.words + 4 * self.rows.singles_at()),
            Arg::Ptr(self.scratch),
            Arg::Ptr(self.scratch + self.lse_at()),
            Arg::U32(singles),
            Arg::U32(self.split_keys()),
            Arg::U32(shared),
            Arg::U32(own),
            Arg::U32(group_tiles),
            Arg::U32(self.is_chain().into()),
        ]);
        args.extend(self.masks());
        Launch {
            module: self.module(File::AttentionDecode),
            entry: "attention_decode",
            grid: [
                tiles * shared + singles * group_tiles * own,
                self.kv.kv_heads,
                1,
            ],
            block: [WARP * DECODE_WARPS, 1, 1],
            // Queries, keys and values, then the weights in the operand's dtype.
            shared_bytes: (DECODE_ROWS + 2 * TILE_KEYS) * stride(self.kv.head_dim)
                + DECODE_ROWS * TILE_KEYS * 2,
            args,
        }
    }

    fn merge(&self) -> Launch {
        let items = self.rows.singles() * self.heads;
        Launch {
            module: self.module(File::AttentionMerge),
            entry: "attention_merge",
            grid: [items.div_ceil(MERGE_WARPS), 1, 1],
            block: [WARP * MERGE_WARPS, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.scratch),
                Arg::Ptr(self.scratch + self.lse_at()),
                Arg::Ptr(self.words + 4 * self.rows.singles_at()),
                Arg::Ptr(self.out),
                Arg::U32(items),
                Arg::U32(self.heads),
                Arg::U32(self.parts().iter().sum()),
            ],
        }
    }

    /// The leading arguments that all kernels share.
    fn common(&self) -> Vec<Arg> {
        let kv = &self.kv;
        // A cap already includes the scale.
        let scale = match self.attend.softcap {
            Some(_) => 1.0,
            None => self.attend.scale,
        };
        let scale = LOG2_E * f64::from(scale);
        vec![
            Arg::Ptr(self.qkv),
            Arg::Ptr(self.out),
            Arg::Ptr(self.slot),
            Arg::Ptr(self.position),
            Arg::Ptr(kv.places),
            Arg::Ptr(kv.keys),
            Arg::Ptr(kv.values),
            Arg::U64(kv.own_offset),
            Arg::U32(self.group()),
            Arg::U32(kv.kv_heads),
            Arg::U32(kv.shared),
            Arg::U32(kv.own),
            Arg::F32(scale as f32),
        ]
    }

    /// The trailing arguments of a kernel, if the family has a window or a cap.
    fn masks(&self) -> Vec<Arg> {
        let window = self.attend.window.map(|window| {
            // No position is as far away as the largest number.
            Arg::U32(u32::try_from(window).unwrap_or(ALL_KEYS).min(ALL_KEYS))
        });
        let cap = self.attend.softcap.map(|cap| {
            let inner = 2.0 * LOG2_E * f64::from(self.attend.scale) / f64::from(cap);
            [Arg::F32(cap), Arg::F32(inner as f32)]
        });
        window
            .into_iter()
            .chain(cap.into_iter().flatten())
            .collect()
    }

    fn module(&self, file: File) -> Module {
        let Attend {
            window, softcap, ..
        } = self.attend;
        Module::of_heads(file, self.kv.dtype, self.kv.head_dim)
            .masked(window.is_some(), softcap.is_some())
    }

    /// Query heads that share a key and value head.
    fn group(&self) -> u32 {
        self.heads / self.kv.kv_heads
    }

    fn split_keys(&self) -> u32 {
        let Splits::Fill { multiprocessors } = self.splits else {
            return ALL_KEYS;
        };
        let blocks = self.rows.singles() * self.group().div_ceil(DECODE_ROWS) * self.kv.kv_heads;
        let fill =
            |keys: u32| self.own_len().div_ceil(keys) * blocks >= FILL_BLOCKS * multiprocessors;
        if fill(ALL_KEYS) {
            return ALL_KEYS;
        }
        let mut keys = SPLIT_KEYS;
        while keys > TILE_KEYS && !fill(keys) {
            keys /= 2;
        }
        keys
    }

    /// Whether a slot's own keys continue from the sums of the shared ones, so that nothing needs merging.
    fn is_chain(&self) -> bool {
        self.parts().iter().all(|&parts| parts <= 1)
    }

    /// The most own positions that a single row can see.
    fn own_len(&self) -> u32 {
        self.rows.context().min(self.kv.own)
    }

    /// The splits of the longest prefix, and of the longest branch.
    fn parts(&self) -> [u32; 2] {
        let keys = self.split_keys();
        let shared = self.rows.context().min(self.kv.longest);
        [shared.div_ceil(keys), self.own_len().div_ceil(keys)]
    }

    /// The number of partial sums in `scratch`.
    fn partials(&self) -> u64 {
        let [shared, own] = self.parts();
        let parts = if self.is_chain() {
            shared
        } else {
            shared + own
        };
        u64::from(parts) * u64::from(self.rows.singles()) * u64::from(self.heads)
    }

    /// Where the logarithms begin in `scratch`, in bytes. The weighted values, f32, come first.
    fn lse_at(&self) -> u64 {
        4 * self.partials() * u64::from(self.kv.head_dim)
    }
}

/// Tiles of 16 query rows that a warp of `attention_prompt` keeps in registers.
pub(in crate::gpu) fn warp_tiles(head_dim: u32) -> u32 {
    if head_dim > 128 { 1 } else { 2 }
}

/// Bytes of a row of keys or values in shared memory: a power of two, because rows are swizzled by their 16-byte
/// columns.
pub(in crate::gpu) fn stride(head_dim: u32) -> u32 {
    (2 * head_dim).next_power_of_two().max(128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AttnShape, BatchRow, Slot};

    const PLAIN: Attend = Attend {
        shape: AttnShape {
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
        },
        scale: 1.0,
        window: None,
        softcap: None,
    };

    /// Shared memory that a block can have on every device since sm_80.
    const SHARED_BYTES: u32 = 99 << 10;

    fn attention(
        rows: &AttentionWork,
        (heads, kv_heads, head_dim): (u32, u32, u32),
    ) -> Attention<'_> {
        Attention {
            attend: &PLAIN,
            qkv: 0x1000,
            out: 0x2000,
            slot: 0x3000,
            position: 0x4000,
            words: 0x5000,
            scratch: 0x10_0000,
            rows,
            n: 1,
            heads,
            kv: KvLayer {
                keys: 0x6000,
                values: 0x7000,
                own_offset: 256,
                places: 0x8000,
                kv_heads,
                head_dim,
                shared: 26,
                longest: 26,
                own: 5000,
                slots: 64,
                dtype: DType::Bf16,
            },
            splits: Splits::Fixed,
        }
    }

    /// `slots` runs of `rows` rows each, ending at position `end`.
    fn work(slots: u32, rows: u32, end: u32) -> AttentionWork {
        let rows: Vec<_> = (0..slots)
            .flat_map(|slot| (end - rows..end).map(move |position| (slot, position)))
            .map(|(slot, position)| BatchRow {
                token: 0,
                slot: Slot::Branch(slot),
                position,
            })
            .collect();
        AttentionWork::new(&rows)
    }

    fn shapes(launches: &[Launch]) -> Vec<(&'static str, [u32; 2], u32)> {
        let shape = |l: &Launch| (l.entry, [l.grid[0], l.grid[1]], l.block[0]);
        launches.iter().map(shape).collect()
    }

    #[test]
    fn a_prompt_takes_as_many_warps_as_its_longest_run_fills() {
        for (rows, heads, tiles, warps, entry) in [
            (32, (4, 4, 128), 1, 1, "attention_prompt_1"),
            (33, (4, 4, 128), 1, 2, "attention_prompt_2"),
            (65, (4, 4, 128), 1, 4, "attention_prompt_4"),
            (129, (4, 4, 128), 2, 4, "attention_prompt_4"),
            (32, (32, 8, 128), 1, 4, "attention_prompt_4"),
            (512, (32, 8, 128), 16, 4, "attention_prompt_4"),
            (17, (8, 8, 256), 1, 2, "attention_prompt_2"),
        ] {
            let work = work(3, rows, 600);
            let launches = attention(&work, heads).launches();
            let want = [(entry, [3 * tiles, heads.1], 32 * warps)];
            assert_eq!(shapes(&launches), want, "{rows} rows, {heads:?}");
        }
    }

    #[test]
    fn more_elements_than_offsets_reach_are_refused() {
        // A 7B model has 12288 columns of queries, keys and values: 2^32 elements are 349525 rows and a third.
        let work = work(1, 1, 1);
        let mut attention = attention(&work, (32, 32, 128));
        attention.n = 349_525;
        assert!(attention.check("attend").is_ok());
        attention.n += 1;
        let message = attention.check("attend").unwrap_err().to_string();
        for part in ["attend", "349526 x 12288", "349525 x 12288"] {
            assert!(message.contains(part), "{message}");
        }
        attention.n = 1;
        attention.kv.slots = 1 << 27;
        let message = attention.check("attend").unwrap_err().to_string();
        assert!(message.contains("134217728 x 32"), "{message}");
    }

    const FILL: Splits = Splits::Fill {
        multiprocessors: 132,
    };

    #[test]
    fn singles_go_from_the_shared_keys_on_to_their_own() {
        // 64 rows of 4 heads are 16 tiles.
        let work = work(64, 1, 600);
        let mut attention = attention(&work, (32, 8, 128));
        let own = ("attention_decode", [64, 8], 128);
        let want = [("attention_decode", [16, 8], 128), own];
        assert_eq!(shapes(&attention.launches()), want);
        assert_eq!(attention.scratch_bytes(), 64 * 32 * 4 * (128 + 5));
        attention.kv.longest = 0;
        assert_eq!(shapes(&attention.launches()), [own]);
        assert_eq!(attention.scratch_bytes(), 0);
    }

    #[test]
    fn launches_of_singles_do_not_depend_on_their_positions() {
        let (early, late) = (work(3, 1, 1), work(3, 1, 5000));
        let launches = |rows| attention(rows, (8, 8, 128)).launches();
        assert_eq!(launches(&early), launches(&late));
    }

    #[test]
    fn splits_are_merged() {
        // 4 rows of 8 key heads make 32 blocks. At 64 keys a part, the 600 own keys are 10 parts and the shared ones
        // are 1.
        let work = work(4, 1, 600);
        let attention = Attention {
            splits: FILL,
            ..attention(&work, (32, 8, 128))
        };
        let want = [
            ("attention_decode", [1 + 4 * 10, 8], 128),
            ("attention_merge", [4 * 32 / 4, 1], 128),
        ];
        assert_eq!(shapes(&attention.launches()), want);
        assert_eq!(attention.scratch_bytes(), 11 * 4 * 32 * 4 * (128 + 1));
    }

    #[test]
    fn a_mixture_takes_both_ways() {
        let rows = [(0, 7), (1, 3), (1, 4)].map(|(slot, position)| BatchRow {
            token: 0,
            slot: Slot::Branch(slot),
            position,
        });
        let work = AttentionWork::new(&rows);
        let launches = attention(&work, (2, 1, 64)).launches();
        let entries: Vec<_> = launches.iter().map(|l| l.entry).collect();
        assert_eq!(
            entries,
            ["attention_prompt_1", "attention_decode", "attention_decode"]
        );
    }

    #[test]
    fn splits_fill_a_device() {
        for (slots, end, keys) in [
            (1, 4096, 64),
            (2, 4096, 128),
            (8, 4096, 512),
            (32, 4096, 512),
            (49, 4096, 512),
            (50, 4096, ALL_KEYS),
            (64, 512, ALL_KEYS),
        ] {
            let work = work(slots, 1, end);
            let attention = Attention {
                splits: FILL,
                ..attention(&work, (32, 8, 128))
            };
            assert_eq!(attention.split_keys(), keys, "{slots} slots of {end}");
        }
    }

    #[test]
    fn shared_memory_fits_every_device() {
        for head_dim in (HEAD_DIM_STEP..=MAX_HEAD_DIM).step_by(HEAD_DIM_STEP as usize) {
            for rows in [1, 2, 40, 1000] {
                let work = work(2, rows, 1000);
                for launch in attention(&work, (8, 8, head_dim)).launches() {
                    let bytes = launch.shared_bytes;
                    assert!(bytes <= SHARED_BYTES, "{}: {bytes}", launch.entry);
                }
            }
        }
    }
}
