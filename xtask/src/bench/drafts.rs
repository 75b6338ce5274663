//! What drafts save where few texts decode, and that they cost nothing where many do.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use selfie_interp::{Cell, Options, Reader, ReaderSize, ReaderStats, Row, Sweep};
use selfie_kernels::Cpu;
use selfie_llama::{
    Ask, Checkpoint, Draw, Feed, Llama, LlamaConfig, Pass, Session, SessionSize, Tokenizer,
};
use serde::Serialize;

use super::child::{PROMPT, TOKENS, dtype};
use super::{Args, median, save};
use crate::{Result, host};

/// Rows of the widest pass.
const ROWS: usize = 16;
/// Pairs of neighbouring layers.
const PAIRS: usize = 8;

/// Everything that was measured.
#[derive(Serialize)]
struct Report {
    date: String,
    commit: String,
    host: host::Host,
    checkpoint: String,
    new_tokens: usize,
    /// The shortest time of a decode step of 1, 2, .. rows of one text, in milliseconds.
    step_ms: Vec<f64>,
    requests: Vec<Requests>,
}

/// Cells that are read one request after the other, with and without drafts.
#[derive(Serialize)]
struct Requests {
    name: &'static str,
    with: Runs,
    without: Runs,
    /// The time with drafts over the time without, of each pair of runs, and the median.
    of_without: Vec<f64>,
    of_without_median: f64,
}

#[derive(Default, Serialize)]
struct Runs {
    seconds: Vec<f64>,
    tokens: usize,
    passes: usize,
    drafted: usize,
    accepted: usize,
}

/// A request: its cells, and whether its time counts.
struct Request {
    cells: Vec<Cell>,
    counts: bool,
}

struct Bench<'a> {
    model: Llama<Cpu>,
    tokenizer: Tokenizer,
    args: &'a Args,
}

pub(super) fn run(args: &Args, dir: &Path) -> Result<()> {
    let cpu = host::cpu(args.threads)?;
    let bench = Bench {
        model: Llama::load(
            cpu.clone(),
            LlamaConfig::open(dir)?,
            &Checkpoint::open(dir)?,
            dtype(&args.dtype),
            |_| {},
        )?,
        tokenizer: Tokenizer::open(dir)?,
        args,
    };
    let mut report = Report {
        date: host::date(),
        commit: host::commit(),
        host: host::Host::new(&cpu)?,
        checkpoint: dir.display().to_string(),
        new_tokens: args.new_tokens,
        step_ms: bench.steps()?,
        requests: Vec::new(),
    };
    println!("{}, {}", report.host.cpu, report.host.device);
    println!("{}, {} tokens a text", report.checkpoint, args.new_tokens);
    let steps = report.step_ms.iter().map(|ms| format!("{ms:.2}"));
    let steps: Vec<String> = steps.collect();
    println!("a step of 1 to {ROWS} rows, ms: {}", steps.join(" "));
    let layers = bench.model.config().n_layers;
    let cell = |layer, token| Cell {
        prompt: 0,
        layer,
        token,
    };
    let one = |layer, counts| Request {
        cells: vec![cell(layer, TOKENS[1])],
        counts,
    };
    let pairs = (0..layers).step_by((layers / PAIRS).max(1));
    let pairs = pairs.map(|layer| vec![one(layer, false), one(layer + 1, true)]);
    let all = |layers: std::ops::RangeInclusive<usize>| Request {
        cells: layers
            .flat_map(|layer| TOKENS.map(|token| cell(layer, token)))
            .collect(),
        counts: true,
    };
    for (name, readers) in [
        ("a cell after its neighbour", pairs.collect()),
        (
            "a column, layer by layer",
            vec![(0..=layers).map(|layer| one(layer, true)).collect()],
        ),
        ("4 cells", vec![vec![all(layers / 2..=layers / 2)]]),
        ("all layers x 4 tokens", vec![vec![all(0..=layers)]]),
    ] {
        let requests = bench.requests(name, readers)?;
        print(&requests);
        report.requests.push(requests);
    }
    save(args, &report)
}

fn print(requests: &Requests) {
    let Requests { with, without, .. } = requests;
    let least = |runs: &Runs| runs.seconds.iter().copied().fold(f64::INFINITY, f64::min);
    println!(
        "  {:28} {:8.3} s without, {:8.3} s with: {:.2} x; {} tokens, {} passes without, {} with; {} of {} drafted \
         tokens accepted, {:.2} a pass",
        requests.name,
        least(without),
        least(with),
        1.0 / requests.of_without_median,
        with.tokens,
        without.passes,
        with.passes,
        with.accepted,
        with.drafted,
        with.accepted as f64 / with.passes.max(1) as f64,
    );
}

impl Bench<'_> {
    /// Times decode steps of several numbers of rows, in turn.
    fn steps(&self) -> Result<Vec<f64>> {
        let prompt = self.tokenizer.encode(PROMPT)?;
        let tokens: Vec<u32> = prompt.iter().copied().cycle().take(ROWS).collect();
        let size = SessionSize::new(&self.model, 1, prompt.len() + ROWS);
        let mut session = Session::new(&self.model, &size)?;
        let slot = session.open()?;
        session.prefill(&[(slot, &prompt)])?;
        let mut best = vec![f64::INFINITY; ROWS];
        for _ in 0..8 * self.args.repeat {
            for (draft, best) in best.iter_mut().enumerate() {
                let feeds = [Feed {
                    ask: Ask {
                        next: Some(Draw::Verify { draft }),
                        score: &[],
                    },
                    ..Feed::new(slot, &tokens[..=draft])
                }];
                let start = Instant::now();
                session.run(&Pass::new(&self.model, &feeds), &mut ())?;
                *best = best.min(start.elapsed().as_secs_f64() * 1e3);
                session.rewind(slot, prompt.len())?;
            }
        }
        Ok(best)
    }

    /// Runs requests with and without drafts, in turn. Each list of them has a reader of its own.
    fn requests(&self, name: &'static str, readers: Vec<Vec<Request>>) -> Result<Requests> {
        let (mut with, mut without) = (Runs::default(), Runs::default());
        for _ in 0..self.args.repeat {
            for (drafts, runs) in [(true, &mut with), (false, &mut without)] {
                let (mut seconds, mut total) = (0.0, ReaderStats::default());
                for requests in &readers {
                    let (time, stats) = self.read(requests, drafts)?;
                    seconds += time;
                    total.decoded += stats.decoded;
                    total.passes += stats.passes;
                    total.drafted += stats.drafted;
                    total.accepted += stats.accepted;
                }
                runs.seconds.push(seconds);
                runs.tokens = total.decoded;
                runs.passes = total.passes;
                runs.drafted = total.drafted;
                runs.accepted = total.accepted;
            }
        }
        let pairs = with.seconds.iter().zip(&without.seconds);
        let of_without: Vec<f64> = pairs.map(|(a, b)| a / b).collect();
        Ok(Requests {
            name,
            of_without_median: median(&of_without),
            of_without,
            with,
            without,
        })
    }

    /// Reads requests one after the other, as a live server does. Returns the seconds and counts of those that count.
    fn read(&self, requests: &[Request], drafts: bool) -> Result<(f64, ReaderStats)> {
        let options = Options {
            max_new_tokens: self.args.new_tokens,
            ..Options::new(self.model.config())?
        };
        let located = options.prompt.locate(&self.tokenizer)?;
        let most = requests.iter().map(|request| request.cells.len()).max();
        let size = ReaderSize {
            texts: most,
            drafts,
            ..ReaderSize::new(&located, options.max_new_tokens)
        };
        let mut reader = Reader::new(&self.model, &size)?;
        let prompt = reader.add_prompt(&located.ids, &[1])?;
        let (mut seconds, mut counted) = (0.0, ReaderStats::default());
        for request in requests {
            let (start, before) = (Instant::now(), reader.stats());
            let (cells, texts) = (&request.cells, [PROMPT]);
            let model = &self.model;
            let mut sweep =
                Sweep::of_cells(model, &self.tokenizer, &texts, cells, &options, prompt)?;
            let mut rows = 0;
            let mut sink = |_: Row| {
                rows += 1;
                ControlFlow::Continue(())
            };
            sweep.submit(&mut reader, cells.len())?;
            while !sweep.is_done() {
                for (ticket, outcome) in reader.step()? {
                    let _ = sweep.take(&mut reader, ticket, outcome, &mut sink)?;
                }
            }
            let _ = sweep.finish(&mut sink)?;
            if rows != cells.len() {
                return Err(format!("got {rows} rows for {} cells", cells.len()).into());
            }
            if request.counts {
                let after = reader.stats();
                seconds += start.elapsed().as_secs_f64();
                counted.decoded += after.decoded - before.decoded;
                counted.passes += after.passes - before.passes;
                counted.drafted += after.drafted - before.drafted;
                counted.accepted += after.accepted - before.accepted;
            }
        }
        Ok((seconds, counted))
    }
}
