//! Checks that texts are the same with and without drafts.

use std::sync::Arc;

use selfie_interp::{
    Embeddings, InterpretationPrompt, Job, JobWrite, LocatedPrompt, Outcome, PromptId, Reader,
    ReaderSize, ReaderStats, Text, Ticket,
};
use selfie_kernels::{Backend, InjectMode};
use selfie_llama::{Decoding, Llama, PromptSite, Sampling, Site, Tokenizer};

use super::golden;

const NEW: usize = 10;

/// What a job does with its embedding.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The whole text.
    Whole,
    /// A text that ends with a token in the middle of the whole one.
    Ended,
    /// A text cut to five tokens.
    Cut,
    /// The whole text, and the score of another one.
    Scored,
    Sampled,
}

/// Prompts of a golden checkpoint, and the states of neighbouring layers at one token.
struct Bench<'a, B: Backend> {
    model: &'a Llama<B>,
    prompts: Vec<LocatedPrompt>,
    vectors: Embeddings<B>,
    /// The whole text of each prompt and vector, without drafts.
    whole: Vec<Vec<Text>>,
}

impl<'a, B: Backend> Bench<'a, B> {
    fn new(model: &'a Llama<B>, tokenizer: &Tokenizer, name: &str) -> Self {
        let golden = golden(name);
        let cases = &golden["interpret"];
        let source = tokenizer.encode(cases[0]["prompt"].as_str().unwrap());
        let source = source.unwrap();
        let prompts = [
            &cases[0]["interpretation_prompt"],
            &serde_json::json!(["It is", 0, ":"]),
        ];
        let locate = |json: &serde_json::Value| {
            let prompt: InterpretationPrompt = json.to_string().parse().unwrap();
            prompt.locate(tokenizer).unwrap()
        };
        let site = |layer| PromptSite {
            prompt: 0,
            site: Site::HiddenStates(layer),
            token: source.len() - 2,
        };
        let sites: Vec<PromptSite> = [1, 2].map(site).into();
        let mut bench = Self {
            model,
            prompts: prompts.into_iter().map(locate).collect(),
            vectors: Embeddings::capture(model, std::slice::from_ref(&source), &sites).unwrap(),
            whole: vec![],
        };
        for prompt in 0..bench.prompts.len() {
            let jobs: Vec<_> = (0..bench.vectors.len())
                .map(|vector| (prompt, vector, Kind::Whole))
                .collect();
            let (texts, _) = bench.read(&jobs, 1, false);
            bench.whole.push(texts);
        }
        bench
    }

    /// All kinds of jobs, so that each has the texts of earlier ones to guess from.
    fn jobs(&self) -> Vec<(usize, usize, Kind)> {
        use Kind::{Cut, Ended, Sampled, Scored, Whole};
        let mut jobs = vec![];
        for vector in 0..self.vectors.len() {
            for prompt in 0..self.prompts.len() {
                for kind in [Whole, Ended, Scored, Sampled, Cut, Whole] {
                    jobs.push((prompt, vector, kind));
                }
            }
        }
        jobs
    }

    fn job(&self, ids: &[PromptId], (prompt, vector, kind): (usize, usize, Kind)) -> Job<B> {
        let whole = |vector: usize| self.whole[prompt][vector].new_ids.clone();
        let decoding = Decoding {
            max_new_tokens: if matches!(kind, Kind::Cut) { 5 } else { NEW },
            eos: match kind {
                Kind::Ended => vec![whole(vector)[4]],
                _ => vec![],
            },
            sampling: match kind {
                Kind::Sampled => Some(Sampling::default()),
                _ => None,
            },
        };
        let write = |&position: &usize| JobWrite {
            position,
            layer: 1,
            vector,
            mode: InjectMode::Replace,
            strength: 1.0,
        };
        Job {
            prompt: ids[prompt],
            vectors: self.vectors.clone(),
            writes: self.prompts[prompt]
                .placeholders
                .iter()
                .map(write)
                .collect(),
            decoding: Arc::new(decoding),
            key: vector as u64,
            clean: true,
            score: match kind {
                Kind::Scored => whole((vector + 1) % self.vectors.len()),
                _ => vec![],
            },
        }
    }

    /// The texts of some jobs, of which `together` are submitted at a time.
    fn read(
        &self,
        jobs: &[(usize, usize, Kind)],
        together: usize,
        drafts: bool,
    ) -> (Vec<Text>, ReaderStats) {
        let longest = self.prompts.iter().map(|prompt| prompt.ids.len()).max();
        let size = ReaderSize {
            prompts: self.prompts.len(),
            prompt_tokens: longest.unwrap(),
            written_tokens: longest.unwrap(),
            batch_size: Some(together),
            drafts,
            ..ReaderSize::new(&self.prompts[0], NEW)
        };
        let mut reader = Reader::new(self.model, &size).unwrap();
        let prompts = self.prompts.iter();
        let ids: Vec<PromptId> = prompts
            .map(|prompt| reader.add_prompt(&prompt.ids, &[1]).unwrap())
            .collect();
        let mut texts = vec![];
        for jobs in jobs.chunks(together) {
            // Somebody leaves after some steps.
            let gone = reader.submit(self.job(&ids, jobs[0])).unwrap();
            let submitted = jobs
                .iter()
                .map(|&job| reader.submit(self.job(&ids, job)).unwrap());
            let tickets: Vec<Ticket> = submitted.collect();
            let (mut done, mut steps) = (vec![], 0);
            while !reader.is_idle() {
                if steps == texts.len() % NEW {
                    reader.cancel(gone).unwrap();
                }
                done.extend(reader.step().unwrap());
                steps += 1;
            }
            done.retain(|(ticket, _)| *ticket != gone);
            done.sort_by_key(|(ticket, _)| *ticket);
            for ((ticket, outcome), want) in done.into_iter().zip(tickets) {
                assert_eq!(ticket, want);
                let Outcome::Text(text) = outcome else {
                    panic!("{ticket:?}: {outcome:?}");
                };
                texts.push(text);
            }
        }
        assert_eq!(texts.len(), jobs.len());
        (texts, reader.stats())
    }
}

/// Texts of neighbouring layers, whole, ended, cut, scored and sampled, have the same tokens and bits with and without
/// drafts, one after the other and several together. The device is in deterministic mode.
pub fn texts_are_the_same<B: Backend>(model: &Llama<B>, tokenizer: &Tokenizer, name: &str) {
    let bench = Bench::new(model, tokenizer, name);
    let jobs = bench.jobs();
    let (want, stats) = bench.read(&jobs, 1, false);
    assert_eq!((stats.drafted, stats.accepted), (0, 0));
    for ((prompt, vector, kind), text) in jobs.iter().zip(&want) {
        let whole = &bench.whole[*prompt][*vector].new_ids;
        let length = match kind {
            Kind::Whole | Kind::Scored => NEW,
            Kind::Cut => 5,
            Kind::Ended => whole.iter().position(|id| *id == whole[4]).unwrap() + 1,
            Kind::Sampled => continue,
        };
        assert_eq!(text.new_ids, whole[..length], "{name}: {kind:?}");
    }
    for together in [1, 3] {
        let (texts, stats) = bench.read(&jobs, together, true);
        for ((job, text), want) in jobs.iter().zip(&texts).zip(&want) {
            assert_text(text, want, &format!("{name}: {job:?}, {together} together"));
        }
        let guesses = model.backend().draft_rows() > 1;
        assert_eq!(stats.accepted > 0, guesses, "{name}: {stats:?}");
        assert!(stats.accepted <= stats.drafted, "{name}: {stats:?}");
    }
}

#[track_caller]
fn assert_text(text: &Text, want: &Text, what: &str) {
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(text.new_ids, want.new_ids, "{what}");
    assert_eq!(bits(&text.logprobs), bits(&want.logprobs), "{what}");
    assert_eq!(bits(&text.clean), bits(&want.clean), "{what}");
    assert_eq!(bits(&text.scores), bits(&want.scores), "{what}");
}
