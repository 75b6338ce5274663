//! The tables: shapes, ranges of values, positions. Sizes lie on both sides of every multiple at which a kernel may be
//! cut (a warp, a vector, a panel of 16, a tile of 32, a chunk of 512).

/// Values are uniform over `.0 .. .1`.
pub type Spread = (f32, f32);

const ONE: Spread = (-1.0, 1.0);

/// Row counts: around all tile heights, and a prompt.
pub const ROWS: [usize; 18] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 32, 33, 64,
];

/// `[n, k] x [out, k]`.
pub struct Linear {
    pub k: usize,
    pub out: usize,
    pub a: Spread,
    pub w: Spread,
}

const fn linear(k: usize, out: usize, a: Spread, w: Spread) -> Linear {
    Linear { k, out, a, w }
}

pub const LINEAR: &[Linear] = &[
    linear(1, 1, ONE, ONE),
    linear(1, 40, ONE, ONE),
    linear(2, 33, ONE, ONE),
    linear(3, 16, ONE, ONE),
    linear(16, 1, ONE, ONE),
    linear(17, 31, ONE, ONE),
    linear(31, 15, ONE, ONE),
    linear(32, 32, ONE, ONE),
    linear(33, 47, ONE, ONE),
    linear(64, 100, ONE, ONE),
    linear(127, 16, ONE, ONE),
    linear(255, 65, ONE, ONE),
    linear(256, 320, ONE, ONE),
    // Rows of whole 16 bytes that end inside a tensor core's step of k, inside a warp's round, and in the third step of
    // a block.
    linear(8, 130, ONE, ONE),
    linear(72, 160, ONE, ONE),
    linear(1160, 99, ONE, ONE),
    // Wide enough that each of several threads gets a share of the columns.
    linear(20, 1111, ONE, ONE),
    linear(2048, 96, ONE, ONE),
    linear(5632, 33, ONE, ONE),
    // All of one sign: no partial sum cancels. Then large and small values.
    linear(1000, 17, (-2.0, -1.0), (0.5, 1.5)),
    linear(77, 48, (-3e4, 3e4), (-1e3, 1e3)),
    linear(77, 48, (-1e-4, 1e-4), (-1e-5, 1e-5)),
];

/// A table of `vocab` rows.
pub struct Embed {
    pub vocab: usize,
    pub width: usize,
    pub tokens: &'static [u32],
}

const fn embed(vocab: usize, width: usize, tokens: &'static [u32]) -> Embed {
    Embed {
        vocab,
        width,
        tokens,
    }
}

pub const EMBED: &[Embed] = &[
    embed(1, 1, &[0]),
    embed(31, 2, &[30, 0, 15, 16]),
    embed(33, 17, &[32, 31, 32, 32, 0]),
    embed(100, 64, &[99, 1, 2, 3, 64, 63, 47, 48]),
    embed(1100, 100, &[511, 512, 1023, 1024, 1099, 0]),
];

/// `[n, width]` rows of `x` with a norm's weight of about 1.
pub struct Norm {
    pub width: usize,
    pub x: Spread,
    pub eps: f32,
}

const fn norm(width: usize, x: Spread, eps: f32) -> Norm {
    Norm { width, x, eps }
}

pub const NORM: &[Norm] = &[
    norm(1, ONE, 1e-5),
    norm(2, ONE, 1e-5),
    norm(15, ONE, 1e-6),
    norm(16, ONE, 1e-6),
    norm(17, ONE, 1e-6),
    norm(100, ONE, 1e-5),
    norm(1000, (-3.0, -1.0), 1e-5),
    norm(2048, ONE, 1e-5),
    norm(64, (-1e4, 1e4), 1e-5),
    // Here eps is most of the sum; in a row of zeros it is all of it.
    norm(64, (-1e-3, 1e-3), 1e-5),
    norm(33, (0.0, 0.0), 1e-5),
    // On a GPU the row and the sums of warps exceed the 48 KiB that a kernel has without an opt-in.
    norm(12_257, ONE, 1e-5),
    norm(12_288, ONE, 1e-5),
];

/// `[n, 2 ffn]`.
pub struct Glu {
    pub ffn: usize,
    pub gate: Spread,
}

const fn glu(ffn: usize, gate: Spread) -> Glu {
    Glu { ffn, gate }
}

pub const GLU: &[Glu] = &[
    glu(1, ONE),
    glu(2, ONE),
    glu(15, (-8.0, 8.0)),
    glu(16, (-8.0, 8.0)),
    glu(17, (-8.0, 8.0)),
    glu(1000, (-30.0, 30.0)),
    // e^88 is near the end of f32, and e^89 is beyond it.
    glu(100, (-95.0, -80.0)),
    glu(64, (-1e4, 1e4)),
    glu(5, (0.0, 0.0)),
];

/// Query heads, key and value heads, width of a head.
pub type Heads = (usize, usize, usize);

/// Rotation at `positions`, one branch per row.
pub struct Rope {
    pub heads: Heads,
    pub positions: &'static [u32],
}

const fn rope(heads: Heads, positions: &'static [u32]) -> Rope {
    Rope { heads, positions }
}

pub const ROPE: &[Rope] = &[
    rope((1, 1, 2), &[0, 1, 2, 3]),
    rope((4, 1, 6), &[7]),
    rope((3, 3, 20), &[0, 99, 1, 98, 2]),
    rope((8, 1, 64), &[15, 16, 17, 31, 32, 33, 0, 1, 2, 3, 4, 5]),
    rope((4, 4, 80), &[127, 128]),
    rope((8, 2, 128), &[1023]),
    rope((2, 1, 256), &[5, 500, 50]),
];

/// One slot: the prefix that it continues, how many of its positions it sees at each of two layers, and the end of its
/// sequence.
pub struct Branch {
    pub prefix: u32,
    pub seen: [usize; 2],
    pub end: usize,
}

/// A cache of two layers: shared prompts, branches of different lengths after them, then one more token per branch.
pub struct AttendCase {
    pub heads: Heads,
    pub prefixes: &'static [usize],
    pub branches: &'static [Branch],
    pub qkv: Spread,
}

const fn attend(
    heads: Heads,
    prefixes: &'static [usize],
    branches: &'static [Branch],
    qkv: Spread,
) -> AttendCase {
    AttendCase {
        heads,
        prefixes,
        branches,
        qkv,
    }
}

const fn branch(seen: [usize; 2], end: usize) -> Branch {
    on(0, seen, end)
}

const fn on(prefix: u32, seen: [usize; 2], end: usize) -> Branch {
    Branch { prefix, seen, end }
}

pub const ATTEND: &[AttendCase] = &[
    attend((1, 1, 2), &[], &[branch([0, 0], 1)], ONE),
    attend((4, 1, 6), &[], &[branch([0, 0], 37)], ONE),
    attend(
        (8, 1, 16),
        &[1],
        &[branch([1, 0], 3), branch([0, 1], 2)],
        ONE,
    ),
    attend(
        (2, 2, 20),
        &[15],
        &[branch([15, 14], 16), branch([7, 8], 40)],
        ONE,
    ),
    attend(
        (8, 2, 64),
        &[16],
        &[branch([16, 16], 17), branch([0, 16], 50)],
        ONE,
    ),
    attend(
        (8, 1, 64),
        &[37],
        &[
            branch([37, 17], 38),
            branch([24, 24], 25),
            branch([33, 32], 34),
            branch([31, 37], 70),
            branch([0, 37], 40),
            branch([1, 1], 2),
            branch([36, 5], 39),
        ],
        ONE,
    ),
    attend(
        (4, 4, 80),
        &[20],
        &[branch([20, 3], 24), branch([19, 20], 21)],
        ONE,
    ),
    attend(
        (4, 1, 128),
        &[33],
        &[branch([33, 9], 65), branch([33, 33], 34)],
        ONE,
    ),
    attend((2, 1, 256), &[5], &[branch([5, 4], 9)], ONE),
    // Several prefixes, one of which nobody sees, with neighbours that continue different ones.
    attend(
        (4, 2, 16),
        &[17, 16, 5, 40],
        &[
            on(1, [16, 3], 20),
            on(0, [17, 17], 18),
            on(3, [33, 40], 41),
            on(0, [2, 16], 30),
            on(3, [40, 1], 41),
            on(1, [0, 15], 16),
            on(0, [0, 0], 3),
        ],
        ONE,
    ),
    attend(
        (2, 1, 64),
        &[1, 70],
        &[on(1, [70, 65], 71), on(0, [1, 0], 5)],
        ONE,
    ),
    // A long history, past the end of every block.
    attend(
        (4, 4, 16),
        &[300],
        &[branch([300, 200], 301), branch([150, 300], 420)],
        ONE,
    ),
    // Scores of some hundreds: the softmax picks one position. Then values of one sign.
    attend((4, 2, 32), &[20], &[branch([20, 18], 40)], (-30.0, 30.0)),
    attend((4, 2, 32), &[20], &[branch([20, 18], 40)], (-2.0, -1.0)),
];

/// How rows attend: the window, the soft cap, and a factor of a LLaMA's scale.
pub type Rule = (Option<usize>, Option<f32>, f32);

/// A LLaMA's rule, with which every case is run; then those of other families, one of which each case gets.
pub const PLAIN: Rule = (None, None, 1.0);
pub const RULES: &[Rule] = &[
    (Some(1), None, 1.0),
    (Some(7), None, 1.0),
    (None, Some(2.0), 1.5),
    (Some(16), Some(5.0), 1.0),
    (Some(40), None, 0.25),
    (Some(64), None, 1.0),
    (Some(1000), Some(50.0), 1.0),
];

/// Parts of rows to norm: the first column, columns of a part, the number of parts, and the columns after them.
pub const PARTS: &[[usize; 4]] = &[
    [0, 1, 1, 0],
    [0, 16, 4, 0],
    [64, 16, 1, 32],
    [3, 5, 7, 2],
    [4, 6, 3, 2],
    [0, 128, 9, 128],
    [256, 64, 2, 64],
    [0, 1000, 2, 24],
];

/// Slot 1 becomes a fork of slot 0, or of itself, with the first `positions` positions. Slot 0 sees `seen` shared
/// positions at each of two layers and ends at 9; slot 1 continues another prefix.
pub struct Fork {
    pub from: usize,
    pub seen: [usize; 2],
    pub positions: usize,
}

const fn fork(from: usize, seen: [usize; 2], positions: usize) -> Fork {
    Fork {
        from,
        seen,
        positions,
    }
}

pub const FORK: &[Fork] = &[
    fork(0, [4, 4], 9),
    fork(0, [4, 1], 7),
    fork(0, [0, 0], 1),
    // First only one layer has own positions below the limit; then none has, and nothing is copied.
    fork(0, [4, 2], 3),
    fork(0, [4, 4], 4),
    fork(0, [4, 4], 2),
    fork(0, [0, 0], 0),
    fork(1, [4, 4], 6),
];

/// `[n, k]` against a vocabulary. In row 0 the tokens of `tie` have equal logits, larger than all others.
pub struct Head {
    pub k: usize,
    pub vocab: usize,
    pub a: Spread,
    pub tie: &'static [usize],
}

const fn head(k: usize, vocab: usize, a: Spread, tie: &'static [usize]) -> Head {
    Head { k, vocab, a, tie }
}

/// The tokens that [`HEAD`] scores, if they are in the vocabulary: both sides of the ends of chunks.
pub const SCORED: [u32; 15] = [
    0, 1, 15, 16, 31, 32, 255, 256, 511, 512, 513, 1023, 1024, 1098, 1099,
];

pub const HEAD: &[Head] = &[
    head(1, 1, ONE, &[]),
    head(17, 31, ONE, &[29, 30]),
    head(64, 32, ONE, &[0, 31]),
    head(33, 100, ONE, &[98]),
    head(64, 512, ONE, &[15, 16]),
    head(64, 513, ONE, &[511, 512]),
    head(20, 1024, ONE, &[1023]),
    head(257, 1100, ONE, &[700, 1050, 300]),
    // Logits of some hundreds, with log-probabilities far below where e^x becomes 0. Then operands of one sign.
    head(64, 1100, (-100.0, 100.0), &[]),
    head(16, 1100, (-3.0, -2.0), &[1099, 512]),
];

/// Logits of one row that are not finite. The row's operand begins with two numbers near the end of f32, and the
/// weights of `token` begin with these numbers; all other logits are finite.
pub struct NotFinite {
    pub vocab: usize,
    pub token: usize,
    pub weights: [f32; 2],
}

const fn not_finite(vocab: usize, token: usize, weights: [f32; 2]) -> NotFinite {
    NotFinite {
        vocab,
        token,
        weights,
    }
}

pub const NOT_FINITE: &[NotFinite] = &[
    // Too large, too small, and neither: infinite terms of both signs.
    not_finite(1, 0, [2.0, 0.0]),
    not_finite(1, 0, [-2.0, 0.0]),
    not_finite(1, 0, [2.0, -2.0]),
    not_finite(33, 32, [-2.0, 0.0]),
    not_finite(513, 0, [2.0, 0.0]),
    not_finite(513, 511, [-2.0, 0.0]),
    not_finite(513, 512, [-2.0, 0.0]),
    not_finite(1024, 1023, [2.0, -2.0]),
    not_finite(5001, 4095, [-2.0, 0.0]),
    not_finite(5001, 5000, [-2.0, 0.0]),
    not_finite(5001, 4096, [2.0, 0.0]),
];

/// Rows to gather and to write: rows `index` of `n` source rows of `width`, written to `at`.
pub struct Move {
    pub n: usize,
    pub width: usize,
    pub index: &'static [usize],
    pub at: &'static [usize],
}

const fn moved(n: usize, width: usize, index: &'static [usize], at: &'static [usize]) -> Move {
    Move {
        n,
        width,
        index,
        at,
    }
}

pub const MOVE: &[Move] = &[
    moved(1, 1, &[0], &[0]),
    moved(5, 3, &[4, 0, 4, 2], &[1, 0, 4, 3]),
    moved(13, 33, &[12, 11, 0], &[0, 12, 5]),
    moved(64, 100, &[63, 1, 1, 1, 62, 30], &[0, 63, 62, 1, 2, 3]),
    moved(3, 2048, &[], &[]),
];

/// The strengths of all modes of injection.
pub const STRENGTHS: [f32; 6] = [1.0, 0.0, 0.5, -1.0, 2.5, 1e3];

/// The vectors to write. The second has no direction, the squares of the third are beyond f32, and the lengths of the
/// last are below the least length that a vector is divided by.
pub const WRITTEN: [Spread; 4] = [(-3.0, 3.0), (0.0, 0.0), (-1e25, 1e25), (-1e-15, 1e-15)];

/// A step of Adam on `[out, width]` with a gradient of `n` outer products.
pub struct Step {
    pub n: usize,
    pub width: usize,
    pub out: usize,
    pub number: u32,
    pub d: Spread,
}

const fn step(n: usize, width: usize, out: usize, number: u32, d: Spread) -> Step {
    Step {
        n,
        width,
        out,
        number,
        d,
    }
}

pub const ADAM: &[Step] = &[
    step(1, 1, 1, 1, ONE),
    step(1, 64, 172, 1, ONE),
    step(1, 300, 33, 7, ONE),
    step(3, 255, 16, 2, ONE),
    step(16, 256, 17, 1000, ONE),
    step(70, 513, 15, 3, ONE),
    step(2, 1, 40, 1, ONE),
    step(5, 40, 40, 1, (-1e-6, 1e-6)),
    step(5, 40, 40, 20, (-1e3, 1e3)),
    // Without a gradient, the moments decay.
    step(4, 33, 9, 5, (0.0, 0.0)),
];
