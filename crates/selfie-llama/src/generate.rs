//! Continues prompts: one alone, or many together.

use std::ops::ControlFlow;

use selfie_kernels::Backend;

use crate::{
    Decoding, Feed, Llama, LlamaError, Pass, Probe, Result, Sequence, Session, SessionSize,
};

/// The most prompts to continue together. More of them make a row no cheaper.
const SLOTS: usize = 64;

/// The result of [`generate`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// The new tokens, including the one that ended the text.
    pub new_ids: Vec<u32>,
    /// The log-probability of each, under the raw logits.
    pub logprobs: Vec<f32>,
}

/// Continues a prompt of token ids. `each` is called with every new id and may stop the text.
pub fn generate<B: Backend>(
    model: &Llama<B>,
    prompt: &[u32],
    decoding: Decoding,
    each: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated> {
    generate_with(model, prompt, decoding, &mut (), each)
}

/// Like [`generate`], with a probe that reads or steers the residual stream of the prompt and of every new token.
pub fn generate_with<B: Backend>(
    model: &Llama<B>,
    prompt: &[u32],
    decoding: Decoding,
    probe: &mut dyn Probe<B>,
    mut each: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated> {
    if decoding.max_new_tokens == 0 {
        check(model, &decoding, prompt.len())?;
        return Ok(Generated::default());
    }
    let mut generation = Generation::new(model, prompt, decoding)?;
    while !generation.is_done() {
        if each(generation.step(probe)?).is_break() {
            break;
        }
    }
    Ok(generation.into_generated())
}

/// A prompt that is continued one token at a time, for callers with other work between tokens.
pub struct Generation<B: Backend> {
    session: Session<B>,
    sequence: Sequence,
    decoding: Decoding,
    prompt: Vec<u32>,
}

impl<B: Backend> Generation<B> {
    /// Makes room for a prompt of token ids and its continuation. Nothing runs yet.
    pub fn new(model: &Llama<B>, prompt: &[u32], decoding: Decoding) -> Result<Self> {
        check(model, &decoding, prompt.len())?;
        if prompt.is_empty() {
            return Err(LlamaError::EmptyPrompt);
        }
        let positions = prompt.len().saturating_add(decoding.max_new_tokens);
        let mut session = Session::new(model, &SessionSize::new(model, 1, positions))?;
        let slot = session.open()?;
        Ok(Self {
            sequence: Sequence::new(0, slot, prompt.to_vec()),
            session,
            decoding,
            prompt: prompt.to_vec(),
        })
    }

    /// Whether the text has ended.
    pub fn is_done(&self) -> bool {
        self.sequence.is_done(&self.decoding)
    }

    /// Runs the prompt, or the last token, and chooses the next one.
    pub fn step(&mut self, probe: &mut dyn Probe<B>) -> Result<u32> {
        let step = self.sequence.feed(&self.decoding);
        // The first feed is the whole prompt.
        let tokens = if self.sequence.new_ids().is_empty() {
            &self.prompt
        } else {
            step.tokens
        };
        let feed = Feed { tokens, ..step };
        let model = self.session.model().clone();
        let answers = self.session.run(&Pass::new(&model, &[feed]), probe)?;
        for answer in &answers {
            self.sequence.push(answer)?;
        }
        let position = self.prompt.len() + self.sequence.new_ids().len();
        let chosen = self.sequence.new_ids().last().copied();
        chosen.ok_or(LlamaError::LogitNotFinite { position })
    }

    /// The device that the model runs on.
    pub fn backend(&self) -> &B {
        self.session.model().backend()
    }

    /// The tokens chosen so far.
    pub fn new_ids(&self) -> &[u32] {
        self.sequence.new_ids()
    }

    /// The log-probability of each of them, under the raw logits.
    pub fn logprobs(&self) -> &[f32] {
        self.sequence.logprobs()
    }

    /// The finished result.
    pub fn into_generated(self) -> Generated {
        self.sequence.into()
    }
}

/// Continues many prompts of token ids together. The results are in the order of the prompts.
///
/// A prompt's text does not depend on the others. After each pass, `finished` gets the number of finished prompts.
pub fn generate_all<B: Backend>(
    model: &Llama<B>,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    mut finished: impl FnMut(usize),
) -> Result<Vec<Generated>> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    check(model, decoding, longest)?;
    if prompts.iter().any(Vec::is_empty) {
        return Err(LlamaError::EmptyPrompt);
    }
    let mut results: Vec<Generated> = vec![Generated::default(); prompts.len()];
    if decoding.max_new_tokens == 0 || prompts.is_empty() {
        return Ok(results);
    }
    let mut size = SessionSize::new(model, SLOTS, longest + decoding.max_new_tokens);
    let fit = size.slots_that_fit(model, model.backend().memory()?.available / 2);
    size.slots = fit.clamp(1, SLOTS).min(prompts.len());
    let mut session = Session::new(model, &size)?;
    let mut waiting = prompts.iter().zip(0..).peekable();
    let mut active: Vec<Sequence> = Vec::new();
    let mut count = 0;
    while count < prompts.len() {
        // Start a full group at a time, so that prompt passes stay wide.
        let (mut joining, mut rows) = (Vec::new(), 0);
        while session.free_slots() > 0 && rows < size.rows {
            let Some((prompt, key)) = waiting.next() else {
                break;
            };
            rows += prompt.len();
            joining.push(Sequence::new(key, session.open()?, prompt.clone()));
        }
        let prompt_of = |sequence: &Sequence| &prompts[sequence.key as usize][..];
        advance(model, &mut session, &mut joining, decoding, |s| {
            Some(prompt_of(s))
        })?;
        advance(model, &mut session, &mut active, decoding, |_| None)?;
        active.append(&mut joining);
        for sequence in active.extract_if(.., |sequence| sequence.is_done(decoding)) {
            session.close(sequence.slot)?;
            count += 1;
            let index = sequence.key as usize;
            results[index] = sequence.into();
        }
        finished(count);
    }
    Ok(results)
}

/// Gives each sequence its next token: after its prompt if `prompt` is set, otherwise after its last token.
fn advance<'a, B: Backend>(
    model: &Llama<B>,
    session: &mut Session<B>,
    sequences: &mut [Sequence],
    decoding: &Decoding,
    prompt: impl Fn(&Sequence) -> Option<&'a [u32]>,
) -> Result<()> {
    if sequences.is_empty() {
        return Ok(());
    }
    let feeds: Vec<Feed<'_>> = sequences
        .iter()
        .map(|sequence| {
            let step = sequence.feed(decoding);
            Feed {
                tokens: prompt(sequence).unwrap_or(step.tokens),
                ..step
            }
        })
        .collect();
    let answers = session.run(&Pass::new(model, &feeds), &mut ())?;
    for (sequence, answer) in sequences.iter_mut().zip(&answers) {
        sequence.push(answer)?;
    }
    Ok(())
}

fn check<B: Backend>(model: &Llama<B>, decoding: &Decoding, prompt_len: usize) -> Result<()> {
    if let Some(sampling) = &decoding.sampling {
        sampling.check()?;
    }
    model
        .config()
        .check_context(prompt_len.saturating_add(decoding.max_new_tokens))
}

impl From<Sequence> for Generated {
    fn from(sequence: Sequence) -> Self {
        let (new_ids, logprobs) = sequence.into_new();
        Self { new_ids, logprobs }
    }
}
