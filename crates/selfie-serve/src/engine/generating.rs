//! Continues a prompt, with or without steering.

use std::collections::BTreeSet;

use selfie::interp::Embeddings;
use selfie::kernels::{Backend, Injection};
use selfie::llama::{
    Generation, Llama, LlamaError, Probe, PromptSite, Site, TextStream, Tokenizer, Visit,
};

use super::work::{Event, Generate, Steering, Stream};
use crate::problem::Problem;

/// A text being generated.
pub(super) struct Generating<'a, B: Backend> {
    generation: Generation<B>,
    steer: Steer<B>,
    tokenizer: &'a Tokenizer,
    text: TextStream<'a>,
    stream: Stream,
}

impl<'a, B: Backend> Generating<'a, B> {
    /// Makes room for a text. If that fails, tells its client and returns `None`.
    pub(super) fn begin(
        llama: &Llama<B>,
        tokenizer: &'a Tokenizer,
        work: Generate,
    ) -> Option<Self> {
        let begin = || -> Result<_, Problem> {
            let steer = Steer::new(llama, &work.steering)?;
            Ok((
                Generation::new(llama, &work.prompt.ids, work.decoding.clone())?,
                steer,
            ))
        };
        match begin() {
            Ok((generation, steer)) => Some(Self {
                generation,
                steer,
                tokenizer,
                text: tokenizer.stream(),
                stream: work.stream,
            }),
            Err(problem) => {
                work.stream.fail(problem);
                None
            }
        }
    }

    /// Generates one token. Returns whether there are more to come.
    pub(super) fn step(&mut self) -> bool {
        if self.stream.is_over() {
            return false;
        }
        match self.next() {
            Ok(more) => more,
            Err(problem) => {
                self.stream.send(Event::Problem(problem));
                false
            }
        }
    }

    fn next(&mut self) -> Result<bool, Problem> {
        let id = self.generation.step(&mut self.steer)?;
        self.steer.finish(self.generation.backend())?;
        let mut text = self.text.push(id)?;
        let done = self.generation.is_done();
        if done {
            let rest = std::mem::replace(&mut self.text, self.tokenizer.stream());
            text += &rest.finish()?;
        }
        let logprobs = self.generation.logprobs();
        let logprob = logprobs.last().copied().unwrap_or(f32::NAN);
        self.stream.send(Event::Token { id, text, logprob });
        if done {
            let new_ids = self.generation.new_ids().to_vec();
            self.stream.send(Event::Generated {
                text: self.tokenizer.decode(&new_ids)?,
                logprobs: logprobs.to_vec(),
                new_ids,
            });
        }
        Ok(!done)
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }
}

/// A probe that writes vectors into every row.
struct Steer<B: Backend> {
    /// `[writes, d_model]`
    vectors: B::Rows,
    /// The layer of each vector, and how to write it.
    writes: Vec<(usize, Injection)>,
    layers: BTreeSet<usize>,
    tally: B::Tally,
}

impl<B: Backend> Steer<B> {
    fn new(llama: &Llama<B>, steering: &[Steering]) -> Result<Self, Problem> {
        let (backend, width) = (llama.backend(), llama.config().d_model);
        let prompts: Vec<Vec<u32>> = steering.iter().map(|one| one.from.ids.clone()).collect();
        let sites = steering.iter().enumerate().map(|(prompt, one)| PromptSite {
            prompt,
            site: Site::HiddenStates(one.state.layer),
            token: one.state.token,
        });
        let sites: Vec<PromptSite> = sites.collect();
        let states = Embeddings::capture(llama, &prompts, &sites)?;
        let mut vectors = backend
            .rows(steering.len(), width)
            .map_err(selfie::Error::from)?;
        let values = states.to_host(backend)?;
        backend
            .write_rows(&values, &mut vectors)
            .map_err(selfie::Error::from)?;
        let write = |(vector, one): (usize, &Steering)| {
            let write = Injection {
                row: 0,
                vector,
                mode: one.mode,
                strength: one.strength,
            };
            (one.layer, write)
        };
        Ok(Self {
            vectors,
            writes: steering.iter().enumerate().map(write).collect(),
            layers: steering.iter().map(|one| one.layer).collect(),
            tally: backend.tally().map_err(selfie::Error::from)?,
        })
    }

    /// An error unless every write met its row.
    fn finish(&mut self, backend: &B) -> Result<(), Problem> {
        let checked = backend.check_tally(&mut self.tally);
        Ok(checked.map_err(selfie::Error::from)?)
    }
}

impl<B: Backend> Probe<B> for Steer<B> {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::HiddenStates(layer) if self.layers.contains(&layer))
    }

    fn visit(&mut self, visit: Visit<'_, B>) -> Result<(), LlamaError> {
        let Site::HiddenStates(layer) = visit.site else {
            return Ok(());
        };
        let here = self.writes.iter().filter(|(at, _)| *at == layer);
        let writes: Vec<Injection> = here
            .flat_map(|(_, write)| (0..visit.batch.len()).map(|row| Injection { row, ..*write }))
            .collect();
        visit
            .backend
            .inject(&self.vectors, &writes, visit.rows, &mut self.tally)?;
        Ok(())
    }
}
