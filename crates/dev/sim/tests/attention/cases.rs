//! The table: heads, segments and rows on both sides of every multiple at which the kernels are cut (8 and 16 rows, 16
//! and 64 keys, 256 keys of a split, 32 to 128 rows of a tile).

/// One slot of the cache.
pub(super) struct Branch {
    /// The prefix that it continues.
    pub(super) prefix: u32,
    /// Shared positions that it sees.
    pub(super) seen: u32,
    /// Own positions in the cache, including those of the batch.
    pub(super) own: u32,
    /// How many of the last own positions are rows of the batch.
    pub(super) rows: u32,
}

/// A cache, and a batch of the last rows of its segments.
pub(super) struct Case {
    /// Query heads, key and value heads, width of a head.
    pub(super) heads: (u32, u32, u32),
    /// The positions of each prefix, and how many of the last ones are rows of the batch.
    pub(super) prefixes: &'static [[u32; 2]],
    pub(super) branches: &'static [Branch],
    /// Queries and keys are spread evenly over `-spread .. spread`.
    pub(super) spread: f32,
}

const fn branch(seen: u32, own: u32, rows: u32) -> Branch {
    on(0, seen, own, rows)
}

const fn on(prefix: u32, seen: u32, own: u32, rows: u32) -> Branch {
    Branch {
        prefix,
        seen,
        own,
        rows,
    }
}

const fn case(
    heads: (u32, u32, u32),
    prefixes: &'static [[u32; 2]],
    branches: &'static [Branch],
) -> Case {
    Case {
        heads,
        prefixes,
        branches,
        spread: 1.0,
    }
}

pub(super) const CASES: &[Case] = &[
    // One row that sees itself, in either kernel.
    case((1, 1, 16), &[[0, 0]], &[branch(0, 1, 1)]),
    case((2, 1, 32), &[[1, 1]], &[]),
    // A shared segment of one position that one slot does not see.
    case(
        (2, 2, 16),
        &[[1, 0]],
        &[branch(1, 1, 1), branch(0, 3, 1), branch(1, 4, 3)],
    ),
    // Decoding: more slots than rows of a tile, each with different limits.
    case(
        (4, 4, 32),
        &[[26, 0]],
        &[
            branch(26, 8, 1),
            branch(26, 9, 1),
            branch(25, 16, 1),
            branch(0, 17, 1),
            branch(1, 15, 1),
            branch(24, 64, 1),
            branch(26, 65, 1),
            branch(26, 1, 1),
            branch(10, 30, 1),
            branch(26, 31, 1),
            branch(26, 32, 1),
            branch(8, 33, 1),
            branch(7, 2, 1),
            branch(16, 3, 1),
            branch(15, 4, 1),
            branch(17, 5, 1),
            branch(26, 6, 1),
            branch(26, 7, 1),
        ],
    ),
    // A mixture: rows of the shared segment, single rows, short and longer runs.
    case(
        (8, 2, 64),
        &[[65, 5]],
        &[
            branch(64, 20, 1),
            branch(15, 7, 7),
            branch(65, 40, 33),
            branch(0, 70, 1),
            branch(16, 2, 2),
        ],
    ),
    // The whole shared prompt at once.
    case((4, 1, 48), &[[100, 100]], &[]),
    case((2, 2, 64), &[[150, 150]], &[]),
    // A prompt pass in pieces: some positions are already in the cache.
    case(
        (4, 1, 64),
        &[[15, 0]],
        &[branch(15, 130, 40), branch(14, 129, 2)],
    ),
    case(
        (8, 1, 128),
        &[[16, 0]],
        &[branch(16, 50, 30), branch(16, 51, 1)],
    ),
    case(
        (8, 2, 128),
        &[[26, 0]],
        &[branch(26, 34, 34), branch(8, 70, 1), branch(26, 3, 1)],
    ),
    // Long contexts: several splits of either segment.
    case(
        (4, 1, 64),
        &[[300, 0]],
        &[
            branch(300, 600, 1),
            branch(256, 256, 1),
            branch(257, 257, 1),
        ],
    ),
    case(
        (2, 1, 128),
        &[[130, 0]],
        &[branch(130, 300, 20), branch(100, 513, 1)],
    ),
    // Groups that do not divide 16, and one with more heads than a tile has rows.
    case(
        (3, 1, 80),
        &[[20, 0]],
        &[branch(20, 24, 1), branch(19, 21, 11), branch(3, 9, 1)],
    ),
    case(
        (20, 1, 16),
        &[[16, 0]],
        &[branch(16, 5, 1), branch(9, 6, 1), branch(16, 18, 9)],
    ),
    case(
        (6, 2, 96),
        &[[33, 0]],
        &[branch(33, 65, 1), branch(9, 34, 12)],
    ),
    case(
        (2, 1, 256),
        &[[5, 3]],
        &[branch(5, 66, 1), branch(4, 40, 37)],
    ),
    // Several prefixes: single rows whose neighbours continue other prefixes, runs, and rows of the prefixes
    // themselves.
    case(
        (2, 1, 32),
        &[[33, 0], [70, 3], [5, 0], [1, 1]],
        &[
            on(1, 70, 8, 1),
            on(0, 33, 9, 1),
            on(1, 65, 16, 1),
            on(0, 1, 17, 1),
            on(2, 5, 15, 1),
            on(1, 1, 64, 1),
            on(0, 0, 65, 1),
            on(0, 20, 1, 1),
            on(1, 64, 30, 1),
            on(0, 33, 20, 12),
            on(1, 69, 7, 7),
        ],
    ),
    case(
        (4, 4, 16),
        &[[20, 0], [90, 0]],
        &[on(0, 20, 3, 1), on(1, 90, 4, 1), on(1, 66, 5, 1)],
    ),
    // Scores of some hundreds: the softmax picks one position.
    Case {
        spread: 12.0,
        ..case(
            (4, 2, 32),
            &[[70, 0]],
            &[branch(70, 70, 1), branch(33, 80, 20)],
        )
    },
];

/// Head dimensions that only the f32 kernel supports.
pub(super) const F32_CASES: &[Case] = &[
    case((1, 1, 1), &[[2, 1]], &[branch(2, 3, 2)]),
    case((4, 1, 6), &[[0, 0]], &[branch(0, 37, 20)]),
    case(
        (2, 2, 20),
        &[[15, 0]],
        &[branch(15, 40, 3), branch(7, 2, 1)],
    ),
    case((2, 1, 33), &[[4, 2]], &[branch(3, 35, 1)]),
];

/// Single rows with a split context, where splits have 64 keys: up to more splits than a warp has lanes.
pub(super) const SPLIT_CASES: &[Case] = &[
    case(
        (4, 1, 64),
        &[[300, 0]],
        &[
            branch(300, 600, 1),
            branch(256, 256, 1),
            branch(0, 257, 1),
            branch(1, 1, 1),
            branch(300, 20, 5),
        ],
    ),
    case(
        (2, 2, 128),
        &[[65, 0]],
        &[branch(65, 64, 1), branch(64, 65, 1)],
    ),
    case((2, 1, 256), &[[0, 0]], &[branch(0, 129, 1)]),
    case(
        (20, 1, 48),
        &[[64, 0]],
        &[branch(64, 130, 1), branch(63, 3, 1)],
    ),
    case(
        (1, 1, 16),
        &[[100, 0]],
        &[branch(100, 2100, 1), branch(3, 70, 1)],
    ),
    case(
        (2, 1, 64),
        &[[100, 0], [300, 0], [65, 0]],
        &[
            on(2, 65, 70, 1),
            on(0, 100, 10, 1),
            on(1, 300, 130, 1),
            on(1, 129, 3, 1),
            on(0, 64, 64, 1),
        ],
    ),
];

/// A single row and a run, for any heads.
pub(super) const fn small(heads: (u32, u32, u32)) -> Case {
    const BRANCHES: &[Branch] = &[branch(17, 70, 1), branch(9, 20, 6)];
    case(heads, &[[17, 0]], BRANCHES)
}
