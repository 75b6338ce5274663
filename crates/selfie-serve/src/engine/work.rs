//! Work for the thread, and its results.

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

/// A client's work.
pub(crate) enum Work {
    Interpret(Interpret),
    Score(Score),
    Generate(Generate),
    States(States),
    /// Ends all work, and the thread.
    Stop,
}

/// Cells to interpret; rows are streamed.
pub(crate) struct Interpret {
    pub(crate) edits: bool,
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) cells: Vec<Cell>,
    /// The options of each sample.
    pub(crate) samples: Vec<Options>,
    /// The interpretation prompt, as ids.
    pub(crate) located: LocatedPrompt,
    pub(crate) stream: Stream,
}

/// A text to score in cells.
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
    /// After the interpretation prompt without an injection.
    pub(crate) clean: Vec<f32>,
    /// For each cell.
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

/// A state to write into every row of a text, at the input of a layer.
pub(crate) struct Steering {
    pub(crate) from: Arc<Prompt>,
    pub(crate) state: Cell,
    pub(crate) layer: usize,
    pub(crate) mode: InjectMode,
    pub(crate) strength: f32,
}

/// States to return as numbers, `[cells, d_model]`.
pub(crate) struct States {
    pub(crate) edits: bool,
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) reply: Reply<Vec<f32>>,
}

/// An event of a stream.
#[derive(Debug)]
pub(crate) enum Event {
    Row {
        sample: usize,
        row: Box<Row>,
    },
    /// A cell without a row, because its activations overflowed.
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

/// The stream to a listening client.
pub(crate) struct Stream {
    pub(crate) to: mpsc::Sender<Event>,
    pub(crate) limit: Limit,
    pub(crate) _permit: Permit,
}

/// The deadline of some work.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) until: Instant,
    pub(crate) seconds: u64,
}

impl Stream {
    /// Whether the client is gone or out of time; in the latter case, tells it.
    pub(crate) fn is_over(&self) -> bool {
        if Instant::now() >= self.limit.until {
            self.send(Event::Problem(Problem::late(self.limit.seconds)));
            return true;
        }
        self.to.is_closed()
    }

    /// Sends an event. Returns whether it was sent. There is room, since the engine never starts more than the channel
    /// holds.
    pub(crate) fn send(&self, event: Event) -> bool {
        self.to.try_send(event).is_ok()
    }

    pub(crate) fn fail(self, problem: Problem) {
        self.send(Event::Problem(problem));
    }
}

/// The channel to a client that waits for one answer.
pub(crate) struct Reply<T> {
    pub(crate) to: oneshot::Sender<Result<T, Problem>>,
    pub(crate) permit: Permit,
}

impl<T> Reply<T> {
    pub(crate) fn is_over(&self) -> bool {
        self.to.is_closed()
    }

    /// Answers, unless the client is gone.
    pub(crate) fn send(self, answer: Result<T, Problem>) {
        drop(self.permit);
        let _ = self.to.send(answer);
    }
}
