//! `selfie interpret` and `selfie interpret-vectors`.

use std::ops::ControlFlow;

use indicatif::ProgressBar;
use selfie::Opened;
use selfie::interp::{
    Cell, Control, Cut, InjectAt, InterpError, Map, Options, Released, Row, RowFields, Sink, Swept,
    Vector,
};
use selfie::llama::Bos;
use selfie_explorer::Commands;

use crate::args::{InterpretArgs, InterpretVectorsArgs, SweepArgs};
use crate::cells::{list, numbers, pairs, selector, tokens};
use crate::chat;
use crate::console::{bar, print_note, style};
use crate::error::{CliError, Result, usage};
use crate::map::read_map;
use crate::open::{load, load_with_reader, open};
use crate::output::{RowTarget, RowWriter};
use crate::prompts::{
    interpretation_prompt, note_double_bos, note_interpretation_prompt, note_missing_template,
    prompts,
};
use crate::reader::{ReadLayers, Reading};
use crate::reproduce::commands;
use crate::stop::Stop;

pub(crate) fn interpret(args: &InterpretArgs) -> Result<()> {
    let prompts = prompts(args)?;
    let mut opened = open(&args.model)?;
    let reading = Reading::new(args, &opened)?;
    let options = options(&args.sweep, reading.opened.as_ref().unwrap_or(&opened))?;
    let given = prompts.clone();
    let prompts = chat::texts(prompts, &args.chat, &args.model, &mut opened)?;
    let given = given.into_iter().map(|prompt| ("--prompt", prompt));
    let commands = commands(prompts.iter().cloned().zip(given));
    let layers = reading.layers(args, &opened.config)?;
    let cells = cells(args, &prompts, &opened, &layers.own())?;
    let options = Options {
        prompts_bos: Some(opened.options.bos),
        model_name: opened.name.clone(),
        reader_name: reading.name(),
        span: span(args, &reading, &cells, &opened)?,
        max_new_tokens: max_new_tokens(&args.sweep, reading.released.as_ref()),
        ..options
    };
    let options = configured(options, &layers, &cells, &reading, &args.sweep, &opened)?;
    let reads = reading.opened.as_ref().unwrap_or(&opened);
    selfie::interp::check_by(
        (&opened.config, &opened.tokenizer),
        (&reads.config, &reads.tokenizer),
        &prompts,
        &cells,
        &options,
    )?;
    let target = RowTarget::new(args.out.out.as_deref(), args.out.format)?;
    let quiet = args.model.quiet;
    note_double_bos(&opened, &prompts, quiet)?;
    if reading.released.is_none() {
        note_missing_template(args.sweep.interpretation_prompt.as_deref(), reads, quiet)?;
    }
    note_interpretation_prompt(reads, &options.prompt, options.bos, quiet)?;
    let Reading {
        opened: reader,
        lora,
        ..
    } = reading;
    let (model, reader) = load_with_reader(opened, reader, quiet)?;
    let reads = reader.as_ref().unwrap_or(&model);
    let adapted = match &lora {
        Some(lora) => Some(reads.llama.with_lora(lora)?),
        None => None,
    };
    let rows = cells.len() * options.injections.len();
    let mut output = Output::new(target, &options.row_fields(), commands, rows, quiet)?;
    let swept = match (&reader, &adapted) {
        (None, None) => model.interpret(&prompts, &cells, &options, &mut output),
        (_, adapted) => {
            let weights = adapted.as_ref().unwrap_or(&reads.llama);
            let reader = (weights, &reads.opened.tokenizer);
            model.interpret_through(reader, &prompts, &cells, &options, &mut output)
        }
    };
    output.finish(swept)
}

/// Applies what the reader's folder says, for cells of one layer, or of several that are read together.
fn configured(
    options: Options,
    layers: &ReadLayers,
    cells: &[Cell],
    reading: &Reading,
    args: &SweepArgs,
    subject: &Opened,
) -> Result<Options> {
    let Some(released) = &reading.released else {
        return Ok(options);
    };
    let given = [
        (
            "--interpretation-prompt",
            args.interpretation_prompt.is_some(),
        ),
        ("--template", args.template.is_some()),
        ("--placeholder", args.reading.placeholder.is_some()),
        ("--inject-layer", args.inject_layer.is_some()),
    ];
    if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
        return usage(format!(
            "{option}: the {released} brings its own; leave the option out"
        ));
    }
    if let ReadLayers::Together(layers) = layers {
        return reading.configure(options, layers, &args.reading, subject);
    }
    let layer = cells.first().map_or(0, |cell| cell.layer);
    if let Some(other) = cells.iter().find(|cell| cell.layer != layer) {
        return usage(format!(
            "--layers: the prompt of the {released} names one layer, but the cells are of layers {layer} and {}; run \
             each layer by itself",
            other.layer
        ));
    }
    reading.configure(options, &[layer], &args.reading, subject)
}

/// How many tokens are read together for a cell.
fn span(
    args: &InterpretArgs,
    reading: &Reading,
    cells: &[Cell],
    subject: &Opened,
) -> Result<usize> {
    let latent = matches!(reading.released, Some(Released::LatentQa(_)));
    match args.sweep.reading.span.as_deref() {
        None if !latent => Ok(1),
        None | Some("all") => {
            let begin = subject.tokenizer.begin(subject.options.bos)?.len();
            // A chat template writes bos itself.
            let begin = begin.max(usize::from(
                subject.options.bos == Bos::Given && subject.tokenizer.bos().is_some(),
            ));
            let spans = cells
                .iter()
                .map(|cell| (cell.token + 1).saturating_sub(begin));
            let first = spans.clone().next().unwrap_or(1);
            match spans.clone().find(|&span| span != first) {
                None => Ok(first),
                Some(other) => usage(format!(
                    "--span all: cells end {first} and {other} tokens after bos, but a run has one prompt; give a \
                     number, or run the cells one by one"
                )),
            }
        }
        Some(number) => match number.parse() {
            Ok(number) => Ok(number),
            Err(_) => usage(format!("--span {number}: expected a number, or all")),
        },
    }
}

fn max_new_tokens(args: &SweepArgs, released: Option<&Released>) -> usize {
    let own = released.and_then(Released::max_new_tokens);
    args.max_new_tokens.or(own).unwrap_or(30)
}

pub(crate) fn interpret_vectors(args: &InterpretVectorsArgs) -> Result<()> {
    let reading = &args.sweep.reading;
    reading.check_whole_model("selfie interpret-vectors")?;
    let opened = open(&args.model)?;
    let (config, tokenizer) = (&opened.config, &opened.tokenizer);
    let options = options(&args.sweep, &opened)?;
    let width = options.map.as_ref().map_or(config.d_model, Map::from_width);
    let vectors = Vector::read_file(&args.vectors, args.tensor.as_deref(), width)?;
    selfie::interp::check_vectors(config, tokenizer, &vectors, &options)?;
    let target = RowTarget::new(args.out.out.as_deref(), args.out.format)?;
    let quiet = args.model.quiet;
    note_missing_template(args.sweep.interpretation_prompt.as_deref(), &opened, quiet)?;
    note_interpretation_prompt(&opened, &options.prompt, options.bos, quiet)?;
    let model = load(opened, args.model.quiet)?;
    let rows = vectors.len() * options.injections.len();
    let names = vectors.iter().map(|vector| vector.name.clone());
    let commands = commands(names.map(|name| (name.clone(), ("--tensor", name))));
    let mut output = Output::new(target, &options.row_fields(), commands, rows, quiet)?;
    let swept = model.interpret_vectors(&vectors, &options, &mut output);
    output.finish(swept)
}

/// The cells of every prompt, by prompt and then layer; or as `--cells` lists them.
fn cells(
    args: &InterpretArgs,
    prompts: &[String],
    opened: &Opened,
    layers: &str,
) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    if let Some(list) = &args.cells {
        for (prompt, text) in prompts.iter().enumerate() {
            let len = opened.encode(text)?.len();
            let pairs = pairs("cells", list, len)?.into_iter();
            cells.extend(pairs.map(|(layer, token)| Cell {
                prompt,
                layer,
                token,
            }));
        }
        return Ok(cells);
    }
    // hidden_states has one more entry than the model has layers.
    let layers = numbers("layers", layers, opened.config.n_layers + 1)?;
    let selector = selector(&args.tokens)?;
    let tokens = tokens(&selector, prompts, opened, args.model.quiet)?;
    for (prompt, tokens) in tokens.iter().enumerate() {
        for &layer in &layers {
            cells.extend(tokens.iter().map(|&token| Cell {
                prompt,
                layer,
                token,
            }));
        }
    }
    Ok(cells)
}

pub(crate) fn options(args: &SweepArgs, opened: &Opened) -> Result<Options> {
    let (json, template) = (&args.interpretation_prompt, &args.template);
    let mut prompt = interpretation_prompt(json.as_deref(), template.as_deref(), opened)?;
    if let Some(token) = &args.reading.placeholder {
        prompt = prompt.with_marker(token)?;
    }
    let map = read_map(&args.reading)?;
    let inject_layers = match (&args.inject_layer, &map) {
        (Some(layers), _) => list("inject-layer", layers)?,
        (None, map) => vec![map.as_ref().and_then(Map::writes_at).unwrap_or(1)],
    };
    let mode = args.mode;
    let strengths: Vec<f32> = list("strength", &args.strength)?;
    let mut injections = Vec::new();
    for layer in inject_layers {
        injections.extend(strengths.iter().map(|&strength| InjectAt {
            layer,
            mode,
            strength,
        }));
    }
    let batch_size = batch_size(&args.batch_size)?;
    Ok(Options {
        injections,
        max_new_tokens: max_new_tokens(args, None),
        sampling: args.sampling.alone()?,
        relevancy: !args.no_relevancy,
        batch_size,
        controls: match &args.controls {
            Some(names) => controls(names)?,
            None => Vec::new(),
        },
        control_seed: args.sampling.seed,
        map,
        cut: args.reading.stop.clone().map(Cut::BeforeLast),
        samples: args.reading.samples,
        ..opened.interpret_options_with(prompt)?
    })
}

/// Parses the value of `--batch-size`.
pub(crate) fn batch_size(text: &str) -> Result<Option<usize>> {
    match text {
        "auto" => Ok(None),
        number => match number.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => usage(format!("--batch-size {number}: expected a number, or auto")),
        },
    }
}

fn controls(names: &str) -> Result<Vec<Control>> {
    let names = names.split(',').map(|name| name.trim().parse());
    Ok(names.collect::<Result<_, InterpError>>()?)
}

/// Notes how many interpretations are empty.
pub(crate) fn note_empty(empty: usize, rows: usize, quiet: bool) {
    if empty > 0 {
        print_note(
            quiet,
            format!(
                "{empty} of {rows} interpretations are empty: the model ended the text at once; try an \
                 interpretation prompt that ends differently"
            ),
        );
    }
}

/// Writes rows as they come, shows progress, and stops on Ctrl-C.
struct Output {
    writer: RowWriter,
    bar: ProgressBar,
    rows: usize,
    written: usize,
    quiet: bool,
    stop: Stop,
    error: Option<CliError>,
}

impl Output {
    fn new(
        target: RowTarget,
        fields: &RowFields,
        commands: Commands,
        rows: usize,
        quiet: bool,
    ) -> Result<Self> {
        // Before the files appear, since someone may be waiting for them to send a signal.
        let stop = Stop::listen();
        let bar = bar(rows as u64, quiet).with_style(style(
            "{bar:30} {percent}% of the tokens, {msg} rows, {elapsed} elapsed, {eta} left",
        ));
        Ok(Self {
            writer: target.open(fields, commands)?,
            bar,
            rows,
            written: 0,
            quiet,
            stop,
            error: None,
        })
    }

    /// Finishes the output, whether the sweep is complete or not.
    fn finish(self, swept: Result<Swept, selfie::Error>) -> Result<()> {
        self.bar.finish_and_clear();
        if let Ok(swept) = &swept {
            note_empty(swept.empty, swept.rows, self.quiet);
        }
        let error = self.error.or(swept.err().map(CliError::from));
        if error.is_none() && self.written == self.rows {
            return self.writer.finish();
        }
        let mut done = format!("{} of {} rows were written", self.written, self.rows);
        if self.written > 0 {
            done += &self.writer.keep();
        }
        Err(match error {
            None => CliError::Interrupted { done },
            Some(error) if self.written == 0 => error,
            Some(error) => CliError::Stopped {
                error: Box::new(error),
                done,
            },
        })
    }
}

impl Sink for Output {
    fn row(&mut self, row: Row) -> ControlFlow<()> {
        let writer = &mut self.writer;
        if let Err(error) = self.bar.suspend(|| writer.write(&row)) {
            self.error = Some(error);
            return ControlFlow::Break(());
        }
        self.written += 1;
        // Finished rows are still written after Ctrl-C; `progress` ends the sweep.
        ControlFlow::Continue(())
    }

    fn failed(&mut self, _row: usize, cell: &str) -> ControlFlow<()> {
        if !self.quiet {
            self.bar
                .suspend(|| eprintln!("note: no row for {cell}: its activations overflowed"));
        }
        ControlFlow::Continue(())
    }

    fn progress(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        let seconds = self.bar.elapsed().as_secs_f64();
        let rate = done as f64 / total.max(1) as f64 * self.rows as f64 / seconds.max(1e-9);
        self.bar
            .set_message(format!("{}/{} ({rate:.1}/s)", self.written, self.rows));
        if self.stop.is_asked_for() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use selfie::kernels::KernelError;

    use std::path::Path;

    use super::*;

    fn row(token: usize) -> Row {
        Row {
            prompt: "a prompt".to_owned(),
            interpretation: "words".to_owned(),
            layer: Some(1),
            token,
            token_decoded: Some("a".to_owned()),
            relevancy_score: vec![0.5],
            new_ids: vec![7],
            pieces: vec!["words".to_owned()],
            inject_layer: 1,
            mode: selfie::kernels::InjectMode::Replace,
            strength: 1.0,
            model: "demo".to_owned(),
            prompt_index: Some(0),
            key: selfie::interp::Key(7),
            reader: None,
            map: None,
            logprobs: vec![-0.5],
            samples: None,
            controls: Vec::new(),
        }
    }

    /// A sweep of three rows that fails after `done` rows.
    fn fails_after(done: usize, out: &Path) -> CliError {
        let target = RowTarget::new(Some(out), None).unwrap();
        let mut output =
            Output::new(target, &RowFields::default(), Commands::FromRows, 3, true).unwrap();
        for token in 0..done {
            assert!(output.row(row(token)).is_continue());
        }
        let lost = KernelError::Device {
            device: "cuda:0".to_owned(),
            doing: "launch".to_owned(),
            reason: "lost".to_owned(),
        };
        output.finish(Err(lost.into())).unwrap_err()
    }

    #[test]
    fn rows_that_are_done_can_be_read_after_a_device_failed() {
        for name in [
            "rows.jsonl",
            "rows.csv",
            "rows.html",
            "rows.svg",
            "rows.txt",
            "rows.parquet",
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            let error = fails_after(0, &path);
            assert!(matches!(error, CliError::Selfie(_)), "{error}");
            assert!(fs::read_dir(folder.path()).unwrap().next().is_none());

            let error = fails_after(2, &path);
            assert_eq!(error.exit_code(), 1);
            let said = format!(
                "cuda:0: launch: lost; 2 of 3 rows were written to {}",
                path.display()
            );
            assert_eq!(error.to_string(), said);
            let bytes = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            match name {
                "rows.jsonl" => assert_eq!(text.lines().count(), 2),
                "rows.csv" => assert_eq!(text.lines().count(), 3),
                "rows.html" => assert!(text.trim_end().ends_with("</html>")),
                "rows.svg" => assert_eq!(text.matches(">words</tspan>").count(), 2),
                "rows.txt" => assert_eq!(text.matches("words").count(), 2),
                _ => assert!(bytes.ends_with(b"PAR1")),
            }
        }
    }
}
