//! Runs each kernel once on a slice of a model of 7 billion parameters, for tables and for tests of memory traffic.

use std::collections::BTreeMap;

use selfie_kernels::gpu::plan::Splits;
use selfie_kernels::reference::Matrix;
use selfie_kernels::{
    Activation, Adam, Attend, AttnShape, Backend, BatchRow, DType, InjectMode, Injection, KvLayout,
    LogitMap, Result, Slot, TokenDraw,
};

use crate::{Ran, Sim, SimDriver};

const D_MODEL: usize = 4096;
const FFN: usize = 11_008;
const VOCAB: usize = 32_000;
const ATTN: AttnShape = AttnShape {
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
};
/// Rows of a weight in decoding's products.
const OUT: usize = 256;
/// Rows of a batch.
const N: usize = 4;

/// A kernel's run.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// The name of the entry.
    pub entry: &'static str,
    /// The shape that it ran on.
    pub case: &'static str,
    /// The launch, and its report.
    pub ran: Ran,
    /// Bytes that must be moved from and to memory: each input and output once.
    pub floor: u64,
}

/// Runs each kernel.
pub fn survey() -> Result<Vec<Surveyed>> {
    let on = |splits| -> Result<Survey> {
        let sim = Sim::new(SimDriver::new(), splits)?;
        Ok(Survey { sim, splits })
    };
    let survey = on(Splits::Fixed)?;
    let fill = Splits::Fill {
        multiprocessors: 1 << 20,
    };
    let mut all = Vec::new();
    all.extend(survey.rows()?);
    all.extend(survey.mlp()?);
    all.extend(on(fill)?.products()?);
    let small = Splits::Fill { multiprocessors: 1 };
    all.extend(on(small)?.large_products()?);
    all.extend(survey.head()?);
    all.extend(survey.attention(DType::Bf16)?);
    all.extend(on(fill)?.attention(DType::Bf16)?);
    all.extend(survey.attention(DType::F32)?);
    Ok(all)
}

/// Arbitrary values that are not zero.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect()
}

struct Survey {
    sim: Sim,
    splits: Splits,
}

impl Survey {
    fn filled(&self, n: usize, width: usize) -> Result<<Sim as Backend>::Rows> {
        let mut rows = self.sim.rows(n, width)?;
        self.sim.write_rows(&values(n * width), &mut rows)?;
        Ok(rows)
    }

    /// The same as projections with weights of this type.
    fn projected(&self, n: usize, width: usize, weights: DType) -> Result<<Sim as Backend>::Rows> {
        let mut rows = self.sim.projections(n, width, weights)?;
        self.sim.write_rows(&values(n * width), &mut rows)?;
        Ok(rows)
    }

    /// What has run since the last call. It must match `floors`: entries and bytes.
    fn took<const E: usize>(
        &self,
        case: &'static str,
        floors: [(&'static str, usize); E],
    ) -> [Surveyed; E] {
        let mut ran: BTreeMap<_, _> = self.sim.driver().take_ran();
        let took = floors.map(|(entry, floor)| Surveyed {
            entry,
            case,
            ran: ran
                .remove(entry)
                .unwrap_or_else(|| panic!("{entry} did not run")),
            floor: floor as u64,
        });
        assert!(ran.is_empty(), "{case}: nobody asked for {:?}", ran.keys());
        took
    }

    /// The ops on rows of the residual stream.
    fn rows(&self) -> Result<Vec<Surveyed>> {
        let sim = &self.sim;
        let mut all = Vec::new();
        let x = self.filled(N, D_MODEL)?;
        let weight = sim.vector(&values(D_MODEL))?;
        let mut normed = sim.acts(N, D_MODEL, DType::Bf16)?;
        sim.rms_norm(&x, &weight, 1e-5, &mut normed)?;
        let floor = N * D_MODEL * 6 + D_MODEL * 4;
        all.extend(self.took("4 x 4096, bf16", [("rms_norm", floor)]));

        let table = Matrix::new(DType::Bf16, D_MODEL, &values(N * D_MODEL));
        let table = sim.matrix(&[&table], DType::Bf16)?;
        let rows: Vec<BatchRow> = (0..N).map(|i| row(Slot::Prefix(0), i)).collect();
        let mut batch = sim.batch(N)?;
        sim.load_batch(&rows, &mut batch)?;
        let mut out = sim.rows(N, D_MODEL)?;
        sim.embed(&table, &batch, 1.0, &mut out)?;
        let floor = N * (D_MODEL * 6 + 4);
        all.extend(self.took("4 x 4096, bf16", [("embed", floor)]));

        // A product with a single column, for the bias after it.
        let column = Matrix::new(DType::Bf16, 1, &values(D_MODEL));
        let column = sim.matrix(&[&column], DType::Bf16)?;
        let mut one = sim.acts(N, 1, DType::Bf16)?;
        sim.cast(&self.filled(N, 1)?, &mut one)?;
        sim.driver().take_ran();
        sim.linear(&one, &column, Some(&weight), &mut out)?;
        let floor = N * D_MODEL * 8 + D_MODEL * 4;
        all.extend(self.took("4 x 4096, a bias", [("add", floor)]));

        sim.cast(&x, &mut normed)?;
        let floor = N * D_MODEL * 6;
        all.extend(self.took("4 x 4096, bf16", [("cast", floor)]));

        let mut dst = sim.rows(N, D_MODEL)?;
        let index: Vec<usize> = (0..N).rev().collect();
        sim.gather(&x, &index, &mut dst)?;
        let floor = N * (D_MODEL * 8 + 8);
        all.extend(self.took("4 x 4096", [("gather_rows", floor)]));

        let writes: Vec<Injection> = (0..N)
            .map(|i| Injection {
                row: i,
                vector: N - 1 - i,
                mode: InjectMode::Replace,
                strength: 0.5,
            })
            .collect();
        sim.inject(&x, &writes, &mut dst, &mut sim.tally()?)?;
        let floor = N * (D_MODEL * 12 + 24);
        all.extend(self.took("4 x 4096", [("inject", floor)]));
        Ok(all)
    }

    /// The gated unit, its gradient, and a training step.
    fn mlp(&self) -> Result<Vec<Surveyed>> {
        let sim = &self.sim;
        let mut all = Vec::new();
        let gate_up = self.projected(N, 2 * FFN, DType::Bf16)?;
        let mut hidden = sim.acts(N, FFN, DType::Bf16)?;
        sim.glu(Activation::Silu, &gate_up, &mut hidden)?;
        all.extend(self.took("4 x 11008, bf16", [("glu", N * FFN * 6)]));

        let gate_up = self.filled(N, 2 * FFN)?;
        let d = self.filled(N, FFN)?;
        let mut out = sim.rows(N, 2 * FFN)?;
        sim.mlp_backward(Activation::Silu, &gate_up, &d, &mut out)?;
        all.extend(self.took("4 x 11008", [("mlp_backward", N * FFN * 20)]));

        // 64 rows of a weight, and the gradient of 20 rows.
        let (n, out) = (20, 64);
        let mut w = self.filled(out, D_MODEL)?;
        let [mut m, mut v] = [sim.rows(out, D_MODEL)?, sim.rows(out, D_MODEL)?];
        for moment in [&mut m, &mut v] {
            sim.write_rows(&vec![0.0; out * D_MODEL], moment)?;
        }
        let (d, x) = (self.filled(n, out)?, self.filled(n, D_MODEL)?);
        sim.adam(&mut w, [&mut m, &mut v], &d, &x, &Adam::new(1e-3))?;
        let floor = out * D_MODEL * 24 + n * (out + D_MODEL) * 4;
        all.extend(self.took("64 x 4096, gradient of 20 rows", [("adam", floor)]));
        Ok(all)
    }

    /// Products of 8 and of 16 rows with a slice of a weight that leaves multiprocessors idle.
    fn products(&self) -> Result<Vec<Surveyed>> {
        let mut all = Vec::new();
        for (m, case, entry) in [
            (8, "8 x 4096, 256 rows of a weight, bf16", "matvec_1_8"),
            (16, "16 x 4096, 256 rows of a weight, bf16", "matvec_1_16"),
        ] {
            all.extend(self.product(m, case, entry)?);
        }
        Ok(all)
    }

    /// The same with a slice that does not, also followed by a gated unit.
    fn large_products(&self) -> Result<Vec<Surveyed>> {
        let (m, sim) = (8, &self.sim);
        let (a, w) = self.operands(m)?;
        let mut gate_up = sim.projections(m, OUT, DType::Bf16)?;
        let mut out = sim.acts(m, OUT / 2, DType::Bf16)?;
        sim.driver().take_ran();
        sim.linear_glu(&a, &w, None, Activation::Silu, &mut gate_up, &mut out)?;
        let floor = (OUT + m) * D_MODEL * 2 + m * OUT;
        let case = "8 x 4096, 256 rows of a weight, bf16, gated";
        let mut all: Vec<Surveyed> = self.took(case, [("matvec_2_8", floor)]).into();
        let case = "16 x 4096, 256 rows of a weight, bf16";
        all.extend(self.product(16, case, "matvec_2_16")?);
        Ok(all)
    }

    /// `m` rows, and 256 rows of a weight.
    fn operands(&self, m: usize) -> Result<(<Sim as Backend>::Acts, <Sim as Backend>::Matrix)> {
        let mut a = self.sim.acts(m, D_MODEL, DType::Bf16)?;
        self.sim.cast(&self.filled(m, D_MODEL)?, &mut a)?;
        let w = Matrix::new(DType::Bf16, D_MODEL, &values(OUT * D_MODEL));
        Ok((a, self.sim.matrix(&[&w], DType::Bf16)?))
    }

    /// Their product, added to the output.
    fn product(&self, m: usize, case: &'static str, entry: &'static str) -> Result<[Surveyed; 1]> {
        let (a, w) = self.operands(m)?;
        let mut out = self.filled(m, OUT)?;
        self.sim.driver().take_ran();
        self.sim.linear_add(&a, &w, None, &mut out)?;
        let floor = (OUT + m) * D_MODEL * 2 + m * OUT * 8;
        Ok(self.took(case, [(entry, floor)]))
    }

    /// The head, after a GEMM with a single column.
    fn head(&self) -> Result<Vec<Surveyed>> {
        let sim = &self.sim;
        let mut a = sim.acts(N, 1, DType::Bf16)?;
        let gate_up = self.projected(N, 2, DType::Bf16)?;
        sim.glu(Activation::Silu, &gate_up, &mut a)?;
        let head = Matrix::new(DType::Bf16, 1, &values(VOCAB));
        let head = sim.matrix(&[&head], DType::Bf16)?;
        sim.driver().take_ran();
        let map = LogitMap {
            scale: 1.0,
            softcap: Some(30.0),
        };
        sim.head_best(&a, &head, &map)?;
        let parts = 16 * N * VOCAB.div_ceil(4096);
        let floors = [
            ("logit_map", N * VOCAB * 8),
            ("head_reduce", N * VOCAB * 4 + parts),
            ("head_merge", parts + N * 8),
        ];
        let mut all: Vec<Surveyed> = self.took("4 x 32000", floors).into();
        let draw = TokenDraw {
            temperature: 0.6,
            top_k: 0,
            top_p: 0.9,
            min_p: 0.0,
            chance: 0.5,
        };
        // Different logits: among equal ones the kernel would give up at the first cut.
        let logits: Vec<f32> = (0..VOCAB)
            .map(|i| (i * 7919 % VOCAB) as f32 / 2e3)
            .collect();
        let head = Matrix::new(DType::F32, 1, &logits);
        let head = sim.matrix(&[&head], DType::F32)?;
        let mut a = sim.acts(N, 1, DType::F32)?;
        sim.glu(Activation::Silu, &self.filled(N, 2)?, &mut a)?;
        sim.driver().take_ran();
        sim.head_draw(&a, &head, &LogitMap::PLAIN, &[draw; N])?;
        let floor = N * (VOCAB * 4 + 40 + 24);
        all.extend(self.took("4 x 32000, temperature 0.6, top_p 0.9", [("draw", floor)]));
        Ok(all)
    }

    /// A prompt of 64 shared positions, then a decode step of eight slots that see it and 80 of their own.
    fn attention(&self, weights: DType) -> Result<Vec<Surveyed>> {
        const SHARED: usize = 64;
        const SLOTS: usize = 8;
        const OWN: usize = 80;
        let (sim, size) = (&self.sim, weights.size());
        let (q, kv_dim) = (ATTN.q_dim(), ATTN.kv_dim());
        let mut all = Vec::new();
        let mut kv = sim.kv(&KvLayout {
            kv_heads: ATTN.kv_heads,
            head_dim: ATTN.head_dim,
            prefixes: vec![SHARED],
            own: vec![OWN],
            slots: SLOTS,
            dtype: weights,
        })?;
        for slot in 0..SLOTS {
            sim.kv_share(&mut kv, slot, 0, &[SHARED])?;
        }
        let rope = self.filled(SHARED + OWN, ATTN.head_dim)?;
        let mut append = |rows: &[BatchRow]| -> Result<_> {
            let mut batch = sim.batch(rows.len())?;
            sim.load_batch(rows, &mut batch)?;
            let mut qkv = self.projected(rows.len(), ATTN.qkv_dim(), weights)?;
            sim.driver().take_ran();
            sim.rope_append(&ATTN, Some(&rope), &batch, 0, &mut qkv, &mut kv)?;
            Ok((batch, qkv))
        };
        let prompt: Vec<BatchRow> = (0..SHARED).map(|p| row(Slot::Prefix(0), p)).collect();
        let branch = |slot: usize, p: usize| row(Slot::Branch(slot as u32), SHARED + p);
        let history = (0..SLOTS).flat_map(|slot| (0..OWN - 1).map(move |p| branch(slot, p)));
        let decode: Vec<BatchRow> = (0..SLOTS).map(|slot| branch(slot, OWN - 1)).collect();
        let prompt = append(&prompt)?;
        append(&history.collect::<Vec<_>>())?;
        let decode = append(&decode)?;
        if weights == DType::Bf16 {
            let floor = SLOTS * (2 * q * size + 4 * kv_dim * size + ATTN.head_dim * 4 + 16);
            let case = "8 rows, 32 heads and 8 kv heads of 128, bf16";
            all.extend(self.took(case, [("rope_append", floor)]));
        }
        sim.driver().take_ran();

        if weights == DType::Bf16 {
            let (batch, qkv) = &prompt;
            let mut out = sim.acts(SHARED, q, weights)?;
            sim.attend(&Attend::new(ATTN), qkv, batch, 0, &kv, &mut out)?;
            let floor = SHARED * (2 * q + 2 * kv_dim) * size;
            let case = "a prompt of 64, 32 heads and 8 kv heads of 128";
            all.extend(self.took(case, [("attention_prompt_4", floor)]));
        }
        let (batch, qkv) = &decode;
        let mut out = sim.acts(SLOTS, q, weights)?;
        sim.attend(&Attend::new(ATTN), qkv, batch, 0, &kv, &mut out)?;
        let case = "8 slots, 64 shared and 80 own, 32 heads and 8 kv heads of 128";
        let (queries, output) = (SLOTS * q * size, SLOTS * q * size);
        let context = (SHARED + SLOTS * OWN) * 2 * kv_dim * size;
        if self.splits == Splits::Fixed {
            let entry = match weights {
                DType::F32 => "attention_f32",
                DType::Bf16 | DType::F16 => "attention_decode",
            };
            all.extend(self.took(case, [(entry, queries + context + output)]));
            if weights == DType::Bf16 {
                sim.kv_copy(&mut kv, 0, 1, SHARED + 10)?;
                let case = "10 positions, 8 kv heads of 128, bf16";
                all.extend(self.took(case, [("kv_copy", 2 * 10 * 2 * kv_dim * size)]));
            }
            return Ok(all);
        }
        // Splits of 64 keys: one in the prefix and two in a branch, each with one logarithm per head.
        let parts = 3 * SLOTS * (q + ATTN.heads) * 4;
        let floors = [
            ("attention_decode", queries + context + parts),
            ("attention_merge", parts + output),
        ];
        let [_, merge] = self.took(case, floors);
        Ok(vec![merge])
    }
}

fn row(slot: Slot, position: usize) -> BatchRow {
    BatchRow {
        token: position as u32,
        slot,
        position: position as u32,
    }
}
