//! `selfie reader`, and the reader that `interpret` uses.

use std::io::{self, Write};
use std::path::Path;

use selfie::interp::{Map, Options, Released};
use selfie::llama::{LlamaConfig, Lora};
use selfie::{OpenOptions, Opened, Source};

use crate::args::InterpretArgs;
use crate::cells::numbers;
use crate::error::{CliError, Result, usage};
use crate::reader_args::{ReaderCommand, ReaderShowArgs, ReadingArgs};

/// The reader that puts embeddings into words.
pub(crate) struct Reading {
    /// Its model; `None` if it is the subject's.
    pub(crate) opened: Option<Opened>,
    /// A LoRA on top of its weights.
    pub(crate) lora: Option<Lora>,
    /// What its folder says, if it is a released reader.
    pub(crate) released: Option<Released>,
}

/// The layers of `hidden_states` that cells are read at.
pub(crate) enum ReadLayers {
    /// Each cell at its own, one of these.
    Each(String),
    /// All cells at all of these, the last of which is the cells' own.
    Together(Vec<usize>),
}

impl ReadLayers {
    /// The cells' own layers, as `--layers` would give them.
    pub(crate) fn own(&self) -> String {
        match self {
            Self::Each(layers) => layers.clone(),
            Self::Together(layers) => list(&layers[layers.len() - 1..]),
        }
    }
}

impl Reading {
    /// Opens the reader of `--reader` and `--lora` without loading weights. A reader with its own model runs on the
    /// subject's device, in the same dtype, without the edits.
    pub(crate) fn new(args: &InterpretArgs, subject: &Opened) -> Result<Self> {
        let reading = &args.sweep.reading;
        let released = match &args.reader {
            Some(dir) => Released::open(dir, reading.reader_as)?,
            None => None,
        };
        let adapted = released.as_ref().is_some_and(Released::is_lora);
        let opened = match &args.reader {
            Some(dir) if !adapted => Some(whole_model(dir, subject)?),
            _ => None,
        };
        let lora = match (&reading.lora, &args.reader) {
            (Some(_), Some(_)) if adapted => {
                return usage(
                    "--lora: the folder of --reader is itself a LoRA; give only one of the two",
                );
            }
            (Some(dir), _) => Some(Lora::open(dir)?),
            (None, Some(dir)) if adapted => Some(Lora::open(dir)?),
            _ => None,
        };
        if reading.reader_as.is_some() && args.reader.is_none() {
            return usage("--reader-as describes the folder of --reader; give --reader DIR too");
        }
        if reading.question.is_some() && released.is_none() {
            return usage(
                "--question needs a released reader that takes questions; give --reader DIR",
            );
        }
        Ok(Self {
            opened,
            lora,
            released,
        })
    }

    /// The reader's name in rows; `None` if it is the subject alone.
    pub(crate) fn name(&self) -> Option<String> {
        let names = self.opened.as_ref().map(|opened| opened.name.clone());
        let names = names
            .into_iter()
            .chain(self.lora.as_ref().map(|lora| lora.name().to_owned()));
        let names: Vec<String> = names.collect();
        (!names.is_empty()).then(|| names.join(" + "))
    }

    /// The layers of `--layers`, or those that the reader's folder names.
    pub(crate) fn layers(&self, args: &InterpretArgs, subject: &LlamaConfig) -> Result<ReadLayers> {
        let together = |released: &Released| released.layers_together() != [1];
        let together = self.released.as_ref().is_some_and(together);
        if let Some(layers) = &args.layers {
            // hidden_states has one more entry than the model has layers.
            let listed = numbers("layers", layers, subject.n_layers + 1)?;
            return Ok(match listed.len() {
                0 | 1 => ReadLayers::Each(layers.clone()),
                _ if together => ReadLayers::Together(listed),
                _ => ReadLayers::Each(layers.clone()),
            });
        }
        let Some(released) = &self.released else {
            return Ok(ReadLayers::Each("all".to_owned()));
        };
        let mut reads = released.reads(subject.n_layers);
        // Of several combinations, the middle one: a run has one prompt, which names the layers.
        let middle = reads.len() / 2;
        match reads.get_mut(middle).map(std::mem::take) {
            Some(layers) if layers.len() > 1 && args.cells.is_none() => {
                Ok(ReadLayers::Together(layers))
            }
            Some(layers) => Ok(ReadLayers::Each(list(&layers))),
            None => usage(format!(
                "--layers: {} does not say which layer it reads; give the layer of hidden_states it was trained on",
                args.reader
                    .as_deref()
                    .unwrap_or(Path::new("the reader"))
                    .display()
            )),
        }
    }

    /// Adds what the reader's folder says to the options, for cells that are read at `layers`.
    pub(crate) fn configure(
        &self,
        options: Options,
        layers: &[usize],
        args: &ReadingArgs,
        subject: &Opened,
    ) -> Result<Options> {
        let Some(released) = &self.released else {
            return Ok(options);
        };
        let opened = self.opened.as_ref().unwrap_or(subject);
        let template = opened.needed_chat_template()?;
        let question = args.question.as_deref();
        Ok(released.configure(options, layers, question, &opened.tokenizer, template)?)
    }
}

/// Opens a model as a reader without loading weights: on the subject's device, in its dtype, without its edits.
pub(crate) fn whole_model(dir: &Path, subject: &Opened) -> Result<Opened> {
    let options = OpenOptions {
        edits: Vec::new(),
        ..subject.options.clone()
    };
    Ok(Opened::new(Source::from(dir), options)?)
}

pub(crate) fn reader(command: &ReaderCommand) -> Result<()> {
    match command {
        ReaderCommand::Show(args) => show(args),
    }
}

fn show(args: &ReaderShowArgs) -> Result<()> {
    let lines = if args.reader.is_file() {
        lines_of_map(&Map::open(&args.reader)?)
    } else {
        lines_of_folder(args)?
    };
    let mut out = io::stdout().lock();
    for (name, value) in lines {
        writeln!(out, "{name:12} {value}").map_err(CliError::Stdout)?;
    }
    Ok(())
}

type Lines = Vec<(&'static str, String)>;

fn lines_of_map(map: &Map) -> Lines {
    let pairs = map.layers();
    let reads = match &pairs[..] {
        [] => "any layer of hidden_states; best the one it was trained on (layer l of selfie-adapters is \
               hidden_states[l + 1])".to_owned(),
        pairs => format!("hidden_states[{}]", distinct(pairs.iter().map(|(from, _)| *from))),
    };
    vec![
        ("kind", "map".to_owned()),
        ("reads", reads),
        (
            "writes",
            map.writes_at().map_or_else(
                || distinct(pairs.iter().map(|(_, to)| *to)),
                |at| format!("layer {at}"),
            ),
        ),
        ("subject", format!("d_model {}", map.from_width())),
        ("reader", format!("d_model {}", map.to_width())),
    ]
}

fn lines_of_folder(args: &ReaderShowArgs) -> Result<Lines> {
    let dir = &args.reader;
    let released = Released::open(dir, args.reader_as)?;
    let lora = released
        .as_ref()
        .is_none_or(Released::is_lora)
        .then(|| Lora::open(dir))
        .transpose()?;
    let mut lines = vec![(
        "kind",
        released
            .as_ref()
            .map_or("LoRA".to_owned(), Released::to_string),
    )];
    if let Some(released) = &released {
        let reads = released.reads(args.n_layers);
        lines.push((
            "reads",
            match &reads[..] {
                [] => "the folder does not say which layer".to_owned(),
                reads if reads.iter().all(|layers| layers.len() == 1) => {
                    format!(
                        "hidden_states[{}]",
                        distinct(reads.iter().flatten().copied())
                    )
                }
                reads => {
                    let together =
                        |layers: &Vec<usize>| format!("hidden_states[{}] together", list(layers));
                    reads.iter().map(together).collect::<Vec<_>>().join(", or ")
                }
            },
        ));
        if let Some(at) = released.writes() {
            lines.push((
                "writes",
                format!(
                    "layer {}, {} with strength {}",
                    at.layer, at.mode, at.strength
                ),
            ));
        }
        let width = match released {
            Released::Verbalizer(verbalizer) => Some(verbalizer.d_model),
            Released::Reconstructor(meta) => Some(meta.d_model),
            Released::Oracle(_) | Released::LatentQa(_) => None,
        };
        if let Some(width) = width {
            lines.push(("subject", format!("d_model {width}")));
        }
    }
    if let Some(lora) = lora {
        let (pairs, rank) = lora.counts();
        let base = lora.base().unwrap_or("an unnamed model");
        lines.push((
            "subject",
            format!("{base}, with at least {} layers", lora.layers()),
        ));
        lines.push(("adapters", format!("{pairs} pairs of rank up to {rank}")));
    }
    Ok(lines)
}

fn distinct(numbers: impl Iterator<Item = usize>) -> String {
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    list(&numbers)
}

fn list(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    numbers.join(", ")
}
