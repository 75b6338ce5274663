//! Interprets naively: whole passes, nothing shared, nothing cached.

use selfie_interp::{Cell, InjectAt, LocatedPrompt, Options};
use selfie_kernels::{Backend, Cpu, CpuRows, InjectMode, Slot};
use selfie_llama::{
    Answer, Ask, Capture, Draw, Feed, Llama, Pass, Session, SessionSize, Site, Tokenizer, Write,
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

/// Cells of all prompts: the first and last layers and some between, the first and last tokens and some between.
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

/// The slot of every pass here.
const SLOT: Slot = Slot::Branch(0);

/// The embedding of a cell of [`PROMPTS`], as row 0.
pub fn vector_of(model: &Llama<Cpu>, tokenizer: &Tokenizer, cell: Cell) -> CpuRows {
    let source = tokenizer.encode(PROMPTS[cell.prompt]).unwrap();
    let want = (Site::HiddenStates(cell.layer), SLOT, cell.token as u32);
    let (backend, width) = (model.backend(), model.config().d_model);
    let mut capture = Capture::new(backend, &[want], width).unwrap();
    let feeds = [Feed::new(SLOT, &source)];
    let pass = Pass::new(model, &feeds);
    session(model, source.len())
        .run(&pass, &mut capture)
        .unwrap();
    let mut vector = backend.rows(1, width).unwrap();
    backend.gather(capture.rows(), &[0], &mut vector).unwrap();
    vector
}

/// A session for one whole text.
fn session(model: &Llama<Cpu>, positions: usize) -> Session<Cpu> {
    let mut session = Session::new(model, &SessionSize::new(model, 1, positions)).unwrap();
    assert_eq!(session.open().unwrap(), SLOT);
    session
}

/// An interpretation prompt, with a vector at its placeholders or unchanged.
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

    /// Runs a whole text in a fresh session.
    fn pass(&self, ids: &[u32], ask: Ask<'_>) -> Answer {
        let feeds = [Feed {
            ask,
            ..Feed::new(SLOT, ids)
        }];
        let mut writes = vec![];
        if let Some((_, inject)) = self.inject {
            writes.extend(self.prompt.placeholders.iter().map(|&position| Write {
                slot: SLOT,
                position: position as u32,
                layer: inject.layer,
                vector: 0,
                mode: inject.mode,
                strength: inject.strength,
            }));
        }
        let pass = Pass {
            writes: self.inject.map(|(vector, _)| (vector, &writes[..])),
            ..Pass::new(self.model, &feeds)
        };
        let answers = session(self.model, ids.len()).run(&pass, &mut ());
        answers.unwrap().remove(0)
    }

    /// The new ids. `key` is the cell's key, on which draws depend.
    pub fn text(&self, options: &Options, key: u64) -> Vec<u32> {
        let mut ids = self.prompt.ids.clone();
        let m = ids.len();
        while ids.len() < m + options.max_new_tokens {
            let draw = match &options.sampling {
                None => Draw::Greedy,
                Some(sampling) => Draw::Sample {
                    sampling,
                    context: &ids,
                    key,
                    step: (ids.len() - m) as u64,
                },
            };
            let ask = Ask {
                next: Some(draw),
                score: &[],
            };
            let next = self.pass(&ids, ask).next.unwrap().token;
            ids.push(next);
            if options.eos.contains(&next) {
                break;
            }
        }
        ids.split_off(m)
    }

    /// The log-probability of each of `new_ids`, given the prompt and the preceding new ids.
    pub fn scores(&self, new_ids: &[u32]) -> Vec<f32> {
        let text = [&self.prompt.ids[..], &new_ids[..new_ids.len() - 1]].concat();
        let ask = Ask {
            next: None,
            score: new_ids,
        };
        self.pass(&text, ask).scores
    }
}
