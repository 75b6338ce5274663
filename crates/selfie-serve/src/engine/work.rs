//! What the thread is asked, and what it answers.

use std::sync::Arc;
use std::time::Instant;

use selfie::interp::{Cell, InjectAt, LocatedPrompt, Options, Row};
use selfie::kernels::InjectMode;
use selfie::llama::Decoding;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::problem::Problem;
use crate::prompts::Prompt;

/// A place in the queue, held until the work is done or dropped.
pub(crate) type Permit = OwnedSemaphorePermit;

/// Work of a client.
pub(crate) enum Work {
    Interpret(Interpret),
    Score(Score),
    Generate(Generate),
    States(States),
    /// End all work, and the thread.
    Stop,
}

/// Cells to interpret; rows are streamed.
pub(crate) struct Interpret {
    pub(crate) edits: bool,
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) cells: Vec<Cell>,
    /// Those of each sample.
    pub(crate) samples: Vec<Options>,
    /// The interpretation prompt, in ids.
    pub(crate) located: LocatedPrompt,
    pub(crate) stream: Stream,
}

/// How likely a text is that cells might say.
pub(crate) struct Score {
    pub(crate) edits: bool,
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) inject: InjectAt,
    pub(crate) located: LocatedPrompt,
    pub(crate) ids: Vec<u32>,
    pub(crate) reply: Reply<Scores>,
}

/// Log-probabilities of the tokens of a text.
pub(crate) struct Scores {
    /// After the interpretation prompt as it is.
    pub(crate) clean: Vec<f32>,
    /// A cell each.
    pub(crate) cells: Vec<Vec<f32>>,
}

/// A prompt to continue; tokens are streamed.
pub(crate) struct Generate {
    pub(crate) edits: bool,
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) decoding: Decoding,
    pub(crate) steering: Vec<Steering>,
    pub(crate) stream: Stream,
}

/// A state that is written into every row of a text at the input of a layer.
pub(crate) struct Steering {
    pub(crate) from: Arc<Prompt>,
    pub(crate) state: Cell,
    pub(crate) layer: usize,
    pub(crate) mode: InjectMode,
    pub(crate) strength: f32,
}

/// States as numbers, `[cells, d_model]`.
pub(crate) struct States {
    pub(crate) edits: bool,
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) reply: Reply<Vec<f32>>,
}

/// Something that comes while work is done.
#[derive(Debug)]
pub(crate) enum Event {
    Row {
        sample: usize,
        row: Box<Row>,
    },
    /// A cell without a row: its activations overflow.
    Failed {
        sample: usize,
        cell: String,
    },
    Interpreted {
        rows: usize,
        empty: usize,
        failed: usize,
    },
    Token {
        id: u32,
        text: String,
        logprob: f32,
    },
    Generated {
        text: String,
        new_ids: Vec<u32>,
        logprobs: Vec<f32>,
    },
    Problem(Problem),
}

/// The way back to a client that listens.
pub(crate) struct Stream {
    pub(crate) to: mpsc::Sender<Event>,
    pub(crate) limit: Limit,
    pub(crate) _permit: Permit,
}

/// Until when work has to be done.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) until: Instant,
    pub(crate) seconds: u64,
}

impl Stream {
    /// Whether the client has gone, or its time is up; it is told of that.
    pub(crate) fn is_over(&self) -> bool {
        if Instant::now() >= self.limit.until {
            self.send(Event::Problem(Problem::late(self.limit.seconds)));
            return true;
        }
        self.to.is_closed()
    }

    /// Sends an event; whether it could be. There is room: no more is begun than the channel holds.
    pub(crate) fn send(&self, event: Event) -> bool {
        self.to.try_send(event).is_ok()
    }

    pub(crate) fn fail(self, problem: Problem) {
        self.send(Event::Problem(problem));
    }
}

/// The way back to a client that waits for one answer.
pub(crate) struct Reply<T> {
    pub(crate) to: oneshot::Sender<Result<T, Problem>>,
    pub(crate) permit: Permit,
}

impl<T> Reply<T> {
    pub(crate) fn is_over(&self) -> bool {
        self.to.is_closed()
    }

    /// Answers, unless the client has gone.
    pub(crate) fn send(self, answer: Result<T, Problem>) {
        drop(self.permit);
        let _ = self.to.send(answer);
    }
}
