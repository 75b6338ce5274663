//! What the rows of a pass are asked.

use std::ops::Range;

use selfie_kernels::Backend;

use crate::{Ask, Feed, LlamaError, Pass, Result};

/// A request for one row.
#[derive(Clone, Copy)]
pub(crate) struct RowRequest {
    pub(crate) row: usize,
    pub(crate) feed: usize,
    pub(crate) kind: RequestKind,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum RequestKind {
    Next,
    /// The token after a row before a guessed token.
    Guessed,
    Score(u32),
}

/// Records what the rows of a feed are asked, in the order of the rows.
pub(crate) fn record(
    requests: &mut Vec<RowRequest>,
    feed: usize,
    rows: Range<usize>,
    ask: &Ask<'_>,
) {
    let first = requests.len();
    let request = |row, kind| RowRequest { row, feed, kind };
    let scored = (rows.end - ask.score.len()..rows.end).zip(ask.score);
    requests.extend(scored.map(|(row, &token)| request(row, RequestKind::Score(token))));
    if let Some(draw) = ask.next {
        let last = rows.end - 1;
        let guessed = last - draw.draft()..last;
        requests.extend(guessed.map(|row| request(row, RequestKind::Guessed)));
        requests.push(request(last, RequestKind::Next));
    }
    requests[first..].sort_unstable_by_key(|request| request.row);
}

/// Each guessed token needs a row before it.
pub(crate) fn check_draft(ask: &Ask<'_>, rows: usize) -> Result<()> {
    let draft = ask.next.map_or(0, |draw| draw.draft());
    if draft < rows {
        return Ok(());
    }
    Err(LlamaError::DraftRows { draft, rows })
}

/// Whether every row asks for its most likely next token, and for nothing else.
pub(crate) fn is_plain_step<B: Backend>(pass: &Pass<'_, B>, n_layers: usize) -> bool {
    let is_step = |feed: &Feed<'_>| {
        let greedy = feed.ask.next.is_some_and(|draw| draw.is_greedy());
        greedy && feed.tokens.len() == 1 + feed.draft().len() && feed.ask.score.is_empty()
    };
    let whole = pass.layers == (0..n_layers) && pass.states.is_none() && pass.writes.is_none();
    whole && pass.feeds.iter().all(is_step)
}
