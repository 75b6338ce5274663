//! A model on any device.

use std::ops::ControlFlow;

use selfie_interp::{Cell, Options, Sink, Swept, Vector};
use selfie_llama::{Decoding, TokenText, Tokenizer, Trace};

use crate::{AnyDevice, AnyModel, Observer, OpenOptions, Opened, Result, Source, on};

/// A model with its weights on a device, and everything that belongs to it.
///
/// This crate compiles the methods once for every device. What a caller passes to [`on!`](crate::on) is compiled in the
/// caller's crate.
///
/// The fields can be borrowed separately, which control needs:
/// `on!(&mut model.llama, llama => control.run(llama, &model.opened.tokenizer, &mut observer))`.
pub struct Model {
    /// Everything but the weights.
    pub opened: Opened,
    /// The weights.
    pub llama: AnyModel,
}

/// What [`Model::generate`] wrote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// The text, without special tokens.
    pub text: String,
    /// The new tokens, including the one that ended the text.
    pub new_ids: Vec<u32>,
    /// The log-probability of each new token, from the unmodified logits.
    pub logprobs: Vec<f32>,
}

impl Model {
    /// Opens a model: its files, a device, its weights, its edits. [`Opened`] offers these steps one by one.
    pub fn open(source: Source, options: OpenOptions, observer: &mut dyn Observer) -> Result<Self> {
        Opened::new(source, options)?.load(observer)
    }

    /// A handle to its device, to load another model beside it with [`Opened::load_on`].
    pub fn device(&self) -> AnyDevice {
        on!(&self.llama, llama => AnyDevice::from(llama.backend().clone()))
    }

    /// Applies the opened edits in order. Only for a model that was loaded without them.
    pub fn apply_edits(&mut self) -> Result<()> {
        on!(&mut self.llama, llama => self.opened.apply_edits(llama))
    }

    /// The tokens of a prompt, as cells number them.
    pub fn tokens(&self, prompt: &str) -> Result<Vec<TokenText>> {
        self.opened.tokens(prompt)
    }

    /// Continues a prompt. `each` gets the text as it comes, and may stop it.
    pub fn generate(
        &self,
        prompt: &str,
        decoding: Decoding,
        mut each: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Text> {
        self.generate_for(prompt, decoding, &mut each)
    }

    fn generate_for(
        &self,
        prompt: &str,
        decoding: Decoding,
        each: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Text> {
        let tokenizer = &self.opened.tokenizer;
        let ids = self.opened.encode(prompt)?;
        let mut stream = tokenizer.stream();
        let mut failed = None;
        let mut push = |id| match stream.push(id) {
            Ok(piece) => each(&piece),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        };
        let got = on!(&self.llama, llama => {
            selfie_llama::generate(llama, &ids, decoding, &mut push)
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let _ = each(&stream.finish()?);
        Ok(Text {
            text: tokenizer.decode(&got.new_ids)?,
            new_ids: got.new_ids,
            logprobs: got.logprobs,
        })
    }

    /// All states of a prompt, in f32.
    pub fn trace(&self, prompt: &str) -> Result<Trace> {
        let ids = self.opened.encode(prompt)?;
        Ok(on!(&self.llama, llama => Trace::new(llama, &ids))?)
    }

    /// Interprets cells of prompts. `sink` gets a row for each cell and injection.
    pub fn interpret(
        &self,
        prompts: &[impl AsRef<str>],
        cells: &[Cell],
        options: &Options,
        sink: &mut dyn Sink,
    ) -> Result<Swept> {
        self.interpret_texts(&texts(prompts), cells, options, sink)
    }

    fn interpret_texts(
        &self,
        prompts: &[&str],
        cells: &[Cell],
        options: &Options,
        sink: &mut dyn Sink,
    ) -> Result<Swept> {
        let tokenizer = &self.opened.tokenizer;
        Ok(on!(&self.llama, llama => {
            selfie_interp::interpret(llama, tokenizer, prompts, cells, options, sink)
        })?)
    }

    /// [`interpret`](Model::interpret) with another model as the reader, which puts this model's embeddings into words.
    /// The options belong to the reader.
    pub fn interpret_by(
        &self,
        reader: &Model,
        prompts: &[impl AsRef<str>],
        cells: &[Cell],
        options: &Options,
        sink: &mut dyn Sink,
    ) -> Result<Swept> {
        let reader = (&reader.llama, &reader.opened.tokenizer);
        self.interpret_through(reader, prompts, cells, options, sink)
    }

    /// [`interpret_by`](Model::interpret_by) with only a reader's weights and tokenizer, such as this model with an
    /// adapter ([`AnyModel::with_lora`]).
    pub fn interpret_through(
        &self,
        reader: (&AnyModel, &Tokenizer),
        prompts: &[impl AsRef<str>],
        cells: &[Cell],
        options: &Options,
        sink: &mut dyn Sink,
    ) -> Result<Swept> {
        self.interpret_texts_through(reader, &texts(prompts), cells, options, sink)
    }

    fn interpret_texts_through(
        &self,
        reader: (&AnyModel, &Tokenizer),
        prompts: &[&str],
        cells: &[Cell],
        options: &Options,
        sink: &mut dyn Sink,
    ) -> Result<Swept> {
        let words = &self.opened.tokenizer;
        Ok(on!(&self.llama, subject => on!(reader.0, weights => {
            let (subject, reader) = ((subject, words), (weights, reader.1));
            selfie_interp::interpret_by(subject, reader, prompts, cells, options, sink)
        }))?)
    }

    /// Interprets vectors as wide as the residual stream. `sink` gets a row for each vector and injection.
    pub fn interpret_vectors(
        &self,
        vectors: &[Vector],
        options: &Options,
        sink: &mut dyn Sink,
    ) -> Result<Swept> {
        let tokenizer = &self.opened.tokenizer;
        Ok(on!(&self.llama, llama => {
            selfie_interp::interpret_vectors(llama, tokenizer, vectors, options, sink)
        })?)
    }
}

/// Prompts as one type: what runs a model is compiled for each type that it is given.
fn texts(prompts: &[impl AsRef<str>]) -> Vec<&str> {
    prompts.iter().map(AsRef::as_ref).collect()
}
