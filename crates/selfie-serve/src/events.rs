//! Server-sent events for work in progress.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::sse;
use selfie::interp::Row;
use selfie_explorer::{Commands, Explorer, Run, command_line};
use serde_json::{Value, json};

use crate::api::Shared;
use crate::engine::Event;
use crate::problem::Problem;
use crate::prompts::Prompt;
use crate::requests::{Format, InterpretBody};

/// Turns what happens to a request into events.
pub(crate) struct Events(Option<RowContext>);

/// The context of rows.
struct RowContext {
    body: InterpretBody,
    prompt: Arc<Prompt>,
    commands: Commands,
}

impl Events {
    pub(crate) fn of_rows(app: &Shared, prompt: &Arc<Prompt>, body: InterpretBody) -> Self {
        let prompts = HashMap::from([(prompt.text.clone(), prompt.words.clone())]);
        let options = app.command.clone();
        Self(Some(RowContext {
            body,
            prompt: Arc::clone(prompt),
            commands: Commands::FromRun { options, prompts },
        }))
    }

    pub(crate) fn of_tokens() -> Self {
        Self(None)
    }

    pub(crate) fn event(&self, event: Event) -> Result<sse::Event, Infallible> {
        let (name, data) = match event {
            Event::Row { sample, row } => match self.row(sample, &row) {
                Ok(made) => made,
                Err(problem) => ("error", problem.json().to_string()),
            },
            Event::Failed { sample, cell } => {
                let message = format!("no row for {cell}: its activations overflowed");
                (
                    "failed",
                    json!({"sample": sample, "message": message}).to_string(),
                )
            }
            Event::Interpreted {
                rows,
                empty,
                failed,
            } => {
                let done = json!({"rows": rows, "empty": empty, "failed": failed});
                ("done", done.to_string())
            }
            Event::Token { id, text, logprob } => {
                let token = json!({"id": id, "text": text, "logprob": logprob});
                ("token", token.to_string())
            }
            Event::Generated {
                text,
                new_ids,
                logprobs,
            } => {
                let done = json!({"text": text, "new_ids": new_ids, "logprobs": logprobs});
                ("done", done.to_string())
            }
            Event::Problem(problem) => ("error", problem.json().to_string()),
        };
        Ok(sse::Event::default().event(name).data(data))
    }

    fn row(&self, sample: usize, row: &Row) -> Result<(&'static str, String), Problem> {
        match &self.0 {
            Some(of) if of.body.format == Format::Explorer => {
                Ok(("cells", of.explorer(sample, row)?.to_string()))
            }
            _ => Ok(("row", serde_json::to_string(row).map_err(internal)?)),
        }
    }
}

impl RowContext {
    /// A row in the form that the page's script reads: a grid of one cell.
    fn explorer(&self, sample: usize, row: &Row) -> Result<Value, Problem> {
        let row = serde_json::to_value(row)
            .and_then(serde_json::from_value)
            .map_err(internal)?;
        let run = Run {
            name: String::new(),
            rows: vec![row],
        };
        let mut explorer = Explorer::new(run, None, &self.commands).map_err(internal)?;
        let words = self.body.words(sample);
        if !words.is_empty() {
            // Samples are separate tabs, so the label leaves out their seeds.
            let of_all = command_line(&self.body.words(0));
            let label = selfie_explorer::clean(&of_all).replace("--", "");
            for setting in &mut explorer.settings {
                if !label.is_empty() {
                    setting.label += &format!(", {label}");
                }
                setting.options = format!("{} {}", command_line(&words), setting.options);
            }
        }
        Ok(json!({
            "prompt": self.prompt.id,
            "sample": sample,
            "edits": self.body.edits,
            "explorer": explorer,
        }))
    }
}

fn internal(error: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
