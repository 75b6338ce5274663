//! Interpreting the naive way: whole passes, nothing shared, nothing kept.

use selfie_interp::{Cell, InjectAt, LocatedPrompt, Options};
use selfie_kernels::{Backend, Cpu, CpuRows, InjectMode, Injection, Slot};
use selfie_llama::{
    Capture, Inject, KvCache, Llama, Probe, Site, Tokenizer, Workspace, branch_rows,
};

pub const PROMPTS: [&str; 3] = [
    "[INST] What's highest mountain in the world? [/INST]",
    "a type of drink",
    "The",
];

pub fn at(layer: usize) -> InjectAt {
    InjectAt {
        layer,
        mode: InjectMode::Replace,
        strength: 1.0,
    }
}

/// Cells of all prompts: first and last layer and some between, first and last token and some between.
pub fn cells(model: &Llama<Cpu>) -> Vec<Cell> {
    let n = model.config().n_layers;
    let cell = |prompt, layer, token| Cell {
        prompt,
        layer,
        token,
    };
    vec![
        cell(0, 0, 0),
        cell(0, n, 4),
        cell(1, 2, 1),
        cell(0, 1, 7),
        cell(2, n, 0),
        cell(1, n - 1, 3),
        cell(0, 1, 7),
    ]
}

pub fn options(model: &Llama<Cpu>) -> Options {
    Options {
        max_new_tokens: 6,
        eos: vec![],
        ..Options::new(model.config()).unwrap()
    }
}

/// The embedding of a cell of [`PROMPTS`], as row 0.
pub fn vector_of(model: &Llama<Cpu>, tokenizer: &Tokenizer, cell: Cell) -> CpuRows {
    let source = tokenizer.encode(PROMPTS[cell.prompt]).unwrap();
    let want = (
        Site::HiddenStates(cell.layer),
        Slot::Branch(0),
        cell.token as u32,
    );
    let (backend, width) = (model.backend(), model.config().d_model);
    let mut capture = Capture::new(backend, &[want], width).unwrap();
    pass(model, &source, &mut capture);
    let mut vector = backend.rows(1, width).unwrap();
    backend.gather(capture.rows(), &[0], &mut vector).unwrap();
    vector
}

/// A pass over a whole text in a cache of its own.
fn pass(model: &Llama<Cpu>, ids: &[u32], probe: &mut dyn Probe<Cpu>) -> Workspace<Cpu> {
    let config = model.config();
    let layout = config.kv_layout(0, vec![ids.len(); config.n_layers], 1);
    let mut cache = KvCache::new(model.backend(), layout).unwrap();
    let mut ws = Workspace::new(model, ids.len(), ids.len()).unwrap();
    let slot = cache
        .take(model.backend(), &vec![0; config.n_layers])
        .unwrap();
    let rows: Vec<_> = branch_rows(slot, 0, ids).collect();
    model
        .forward(&mut ws, &mut cache, &rows, 0..config.n_layers, probe)
        .unwrap();
    ws
}

/// An interpretation prompt, with a vector over its placeholders or as it is.
pub struct Naive<'a> {
    model: &'a Llama<Cpu>,
    prompt: &'a LocatedPrompt,
    inject: Option<(&'a CpuRows, InjectAt)>,
}

impl<'a> Naive<'a> {
    pub fn new(
        model: &'a Llama<Cpu>,
        prompt: &'a LocatedPrompt,
        inject: Option<(&'a CpuRows, InjectAt)>,
    ) -> Self {
        Self {
            model,
            prompt,
            inject,
        }
    }

    fn pass(&self, ids: &[u32]) -> Workspace<Cpu> {
        let Some((vector, inject)) = self.inject else {
            return pass(self.model, ids, &mut ());
        };
        let write = |&row: &usize| Injection {
            row,
            vector: 0,
            mode: inject.mode,
            strength: inject.strength,
        };
        let writes: Vec<Injection> = self.prompt.placeholders.iter().map(write).collect();
        let mut probe = Inject::new(inject.layer, vector, &writes);
        let ws = pass(self.model, ids, &mut probe);
        probe.finish().unwrap();
        ws
    }

    /// The new ids; `index` is that of the cell in the sweep, on which draws depend.
    pub fn text(&self, options: &Options, index: u64) -> Vec<u32> {
        let mut ids = self.prompt.ids.clone();
        let m = ids.len();
        while ids.len() < m + options.max_new_tokens {
            let mut ws = self.pass(&ids);
            let last = ids.len() - 1;
            let next = match options.sampling {
                None => self.model.best(&mut ws, &[last]).unwrap()[0].token,
                Some(sampling) => {
                    let mut picked = 0;
                    self.model
                        .logits(&mut ws, &[last], |_, logits| {
                            picked = sampling
                                .pick(logits, &ids, index, (ids.len() - m) as u64)
                                .token;
                            Ok(())
                        })
                        .unwrap();
                    picked
                }
            };
            ids.push(next);
            if options.eos.contains(&next) {
                break;
            }
        }
        ids.split_off(m)
    }

    /// The log-probability of each of `new_ids` after the prompt and those before it.
    pub fn scores(&self, new_ids: &[u32]) -> Vec<f32> {
        let m = self.prompt.ids.len();
        let text = [&self.prompt.ids[..], &new_ids[..new_ids.len() - 1]].concat();
        let rows: Vec<usize> = (m - 1..text.len()).collect();
        self.model
            .score(&mut self.pass(&text), &rows, new_ids)
            .unwrap()
    }
}
