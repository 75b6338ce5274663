//! The paths of the API, and their handlers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use selfie::interp::{Control, InterpretationPrompt};
use selfie::kernels::InjectMode;
use selfie::llama::GenerationConfig;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::Limits;
use crate::engine::{
    Engine, Event, Generate, Interpret, Limit, Reply, Score, States, Steering, Stream, Work,
};
use crate::events::Events;
use crate::guard::{Hosts, guard};
use crate::model::ServedModel;
use crate::page::Page;
use crate::problem::Problem;
use crate::prompts::Prompts;
use crate::requests::{GenerateBody, InterpretBody, ScoreBody, StatesBody, TokenizeBody};

/// Events that a client may leave unread before its work pauses.
const UNREAD: usize = 512;
/// The maximum number of states per request.
const STATES: usize = 256;
/// Time limit for a request's body.
const BODY_SECONDS: u64 = 20;

/// The API's description.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// State shared by all requests.
pub(crate) struct Shared {
    pub(crate) model: ServedModel,
    pub(crate) engine: Engine,
    pub(crate) prompts: Prompts,
    pub(crate) page: Page,
    pub(crate) limits: Limits,
    pub(crate) queue: Arc<Semaphore>,
    /// The program's command line that opens the same model.
    pub(crate) command: Vec<String>,
    pub(crate) device: String,
    pub(crate) dtype: String,
}

type App = State<Arc<Shared>>;

/// Each path, its method, and its handler.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter<Arc<Shared>>)> {
    vec![
        ("/", "get", get(page)),
        ("/healthz", "get", get(healthz)),
        ("/settings", "get", get(settings)),
        ("/openapi.json", "get", get(openapi)),
        ("/tokenize", "post", post(tokenize)),
        ("/interpret", "post", post(interpret)),
        ("/score", "post", post(score)),
        ("/generate", "post", post(generate)),
        ("/states", "post", post(states)),
    ]
}

/// The paths and methods of the API.
pub fn paths() -> Vec<(&'static str, &'static str)> {
    routes()
        .into_iter()
        .map(|(path, verb, _)| (path, verb))
        .collect()
}

pub(crate) fn router(shared: Arc<Shared>, hosts: Hosts) -> Router {
    let body_bytes = shared.limits.body_bytes;
    let mut router = Router::new();
    for (path, _, handler) in routes() {
        router = router.route(path, handler.fallback(no_such_verb));
    }
    router
        .fallback(no_such_path)
        .layer(DefaultBodyLimit::max(body_bytes))
        .layer(middleware::from_fn_with_state(hosts, guard))
        .layer(middleware::map_response(no_sniffing))
        .with_state(shared)
}

async fn no_such_path(request: Request) -> Problem {
    let message = format!(
        "there is nothing at {}; see /openapi.json for all paths",
        request.uri().path()
    );
    Problem::new(StatusCode::NOT_FOUND, message)
}

async fn no_such_verb(request: Request) -> Problem {
    let message = format!(
        "{} does not support {}",
        request.uri().path(),
        request.method()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Keeps browsers from guessing content types and from caching or sharing answers.
async fn no_sniffing(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A JSON body, or a problem.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body must be JSON: send content-type: application/json",
            ));
        }
        let read = Bytes::from_request(request, state);
        let read = tokio::time::timeout(Duration::from_secs(BODY_SECONDS), read).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(rejected)) => return Err(Problem::new(rejected.status(), rejected.body_text())),
            Err(_) => {
                return Err(Problem::new(
                    StatusCode::REQUEST_TIMEOUT,
                    format!("the body did not arrive within {BODY_SECONDS} s"),
                ));
            }
        };
        match serde_json::from_slice(&bytes) {
            Ok(body) => Ok(Self(body)),
            Err(error) => Err(Problem::bad(format!("cannot read the body: {error}"))),
        }
    }
}

async fn page(State(app): App) -> Response {
    app.page.response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn healthz(State(app): App) -> Response {
    let (status, word) = if app.engine.is_alive() {
        (StatusCode::OK, "ok")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the model's thread has ended",
        )
    };
    let free = app.queue.available_permits();
    let body = json!({
        "status": word,
        "version": env!("CARGO_PKG_VERSION"),
        "requests": app.limits.requests - free,
    });
    (status, Json(body)).into_response()
}

async fn settings(State(app): App) -> Json<Value> {
    let opened = &app.model.opened;
    let config = &opened.config;
    let edits: Vec<&str> = opened.edits.iter().map(|(name, _)| name.as_str()).collect();
    Json(json!({
        "model": opened.name,
        "n_layers": config.n_layers,
        "d_model": config.d_model,
        "context": config.max_positions,
        "device": app.device,
        "dtype": app.dtype,
        "chat": app.model.has_chat_template(),
        "edits": edits,
        "templates": InterpretationPrompt::TEMPLATES,
        "modes": InjectMode::ALL.map(InjectMode::name),
        "controls": Control::ALL.map(Control::name),
        "limits": {
            "requests": app.limits.requests,
            "rows": app.limits.rows,
            "body_bytes": app.limits.body_bytes,
            "prompt_tokens": app.limits.prompt_tokens,
            "max_new_tokens": app.limits.max_new_tokens,
            "seconds": app.limits.seconds,
        },
    }))
}

async fn tokenize(State(app): App, Body(body): Body<TokenizeBody>) -> Result<Json<Value>, Problem> {
    // Tokenizing a long text takes time, so other requests go on meanwhile.
    let task = tokio::task::spawn_blocking(move || tokens(&app, body));
    task.await.unwrap_or_else(|error| {
        Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
        ))
    })
}

fn tokens(app: &Shared, body: TokenizeBody) -> Result<Json<Value>, Problem> {
    let prompt = match (body.prompt, body.chat) {
        (Some(text), None) => app.model.prompt(text)?,
        (None, Some(messages)) => app.model.chat(&messages)?,
        _ => return Err(Problem::bad("give either prompt or chat")),
    };
    let (found, most) = (prompt.ids.len(), app.limits.prompt_tokens);
    if found > most {
        let message = format!("the prompt has {found} tokens; this server accepts at most {most}");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let tokens: Vec<Value> = app
        .model
        .tokens(&prompt)?
        .into_iter()
        .enumerate()
        .map(|(index, token)| {
            json!({
                "index": index,
                "id": token.id,
                "piece": token.piece,
                "text": token.text,
                "special": token.special,
            })
        })
        .collect();
    let prompt = app.prompts.put(prompt);
    Ok(Json(json!({
        "prompt": prompt.id,
        "text": prompt.text,
        "tokens": tokens,
        "layers": app.model.opened.config.n_layers + 1,
    })))
}

async fn interpret(State(app): App, Body(body): Body<InterpretBody>) -> Result<Response, Problem> {
    body.rest.check()?;
    let prompt = app.prompts.get(&body.cells.prompt)?;
    let most = app.limits.rows;
    let cells = body.cells.cells(&prompt, &app.model, most)?;
    if body.rows(cells.len()) > most {
        let message = format!(
            "{} rows exceed the limit of {most} per request",
            body.rows(cells.len())
        );
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let samples = body.samples(&prompt, &app.model)?;
    let opened = &app.model.opened;
    let first = &samples[0];
    let texts = [&prompt.text];
    selfie::interp::check(&opened.config, &opened.tokenizer, &texts, &cells, first)?;
    let located = app.model.locate(first)?;
    let (stream, events) = app.stream(UNREAD)?;
    app.send(Work::Interpret(Interpret {
        edits: body.edits,
        prompt: Arc::clone(&prompt),
        cells,
        samples,
        located,
        stream,
    }))?;
    let events_of = Events::of_rows(&app, &prompt, body);
    Ok(sse(events, events_of))
}

async fn generate(State(app): App, Body(body): Body<GenerateBody>) -> Result<Response, Problem> {
    body.rest.check()?;
    let prompt = app.prompts.get(&body.prompt)?;
    let opened = &app.model.opened;
    let (most, asked) = (app.limits.max_new_tokens, body.max_new_tokens);
    if asked == 0 || asked > most {
        let message = format!("max_new_tokens is {asked}; expected 1..={most}");
        return Err(Problem::bad(message));
    }
    opened.config.check_context(prompt.ids.len() + asked)?;
    let resolved =
        GenerationConfig::resolve(opened.generation.as_ref(), &body.sampling.overrides())?;
    let mut steering = Vec::new();
    for steer in &body.steer {
        let from = match &steer.prompt {
            Some(id) => app.prompts.get(id)?,
            None => Arc::clone(&prompt),
        };
        if steer.token >= from.ids.len() {
            return Err(Problem::bad(format!(
                "steer: token {} is out of range: the prompt has tokens 0..{}",
                steer.token,
                from.ids.len()
            )));
        }
        let at = steer.at(opened.config.n_layers)?;
        steering.push(Steering {
            from,
            state: selfie::interp::Cell {
                prompt: 0,
                layer: steer.layer,
                token: steer.token,
            },
            layer: at.layer,
            mode: at.mode,
            strength: at.strength,
        });
    }
    let decoding = selfie::llama::Decoding {
        sampling: resolved.sampling,
        ..opened.decoding(asked)
    };
    let (stream, events) = app.stream(asked + 2)?;
    app.send(Work::Generate(Generate {
        edits: body.edits,
        prompt,
        decoding,
        steering,
        stream,
    }))?;
    Ok(sse(events, Events::of_tokens()))
}

async fn score(State(app): App, Body(body): Body<ScoreBody>) -> Result<Json<Value>, Problem> {
    body.rest.check()?;
    let prompt = app.prompts.get(&body.cells.prompt)?;
    let cells = body.cells.cells(&prompt, &app.model, app.limits.rows)?;
    let tokenizer = app.model.tokenizer();
    let continued = tokenizer.encode_continuation(&body.text)?;
    let ids: Vec<u32> = continued.into_iter().map(|(id, _)| id).collect();
    let most = app.limits.max_new_tokens;
    if ids.is_empty() || ids.len() > most {
        let message = format!("the text has {} tokens; expected 1..={most}", ids.len());
        return Err(Problem::bad(message));
    }
    let inject = body.inject.at()?;
    let options = selfie::interp::Options {
        prompts_bos: Some(prompt.bos),
        injections: vec![inject],
        ..app
            .model
            .opened
            .interpret_options_with(body.inject.prompt(&app.model)?)?
    };
    let opened = &app.model.opened;
    let texts = [&prompt.text];
    selfie::interp::check(&opened.config, tokenizer, &texts, &cells, &options)?;
    let located = app.model.locate(&options)?;
    let pieces = tokenizer.pieces(&ids)?;
    let work = |reply| {
        Work::Score(Score {
            edits: body.edits,
            prompt: Arc::clone(&prompt),
            cells: cells.clone(),
            inject,
            located,
            ids: ids.clone(),
            reply,
        })
    };
    let scores = app.answer(work).await?;
    let of_cells = cells.iter().zip(&scores.cells).map(|(cell, logprobs)| {
        json!({
            "layer": cell.layer,
            "token": cell.token,
            "logprobs": logprobs,
            "evidence": evidence(logprobs, &scores.clean),
        })
    });
    Ok(Json(json!({
        "ids": ids,
        "pieces": pieces,
        "clean": scores.clean,
        "cells": of_cells.collect::<Vec<_>>(),
    })))
}

/// How much more likely a cell makes a text, in nats per token; `None` if the activations overflow.
fn evidence(with: &[f32], without: &[f32]) -> Option<f64> {
    let pairs = with.iter().zip(without);
    let sum: f64 = pairs.map(|(&a, &b)| f64::from(a) - f64::from(b)).sum();
    let mean = sum / with.len() as f64;
    mean.is_finite().then_some(mean)
}

async fn states(State(app): App, Body(body): Body<StatesBody>) -> Result<Json<Value>, Problem> {
    body.rest.check()?;
    let prompt = app.prompts.get(&body.cells.prompt)?;
    let cells = body.cells.cells(&prompt, &app.model, STATES)?;
    let work = |reply| {
        Work::States(States {
            edits: body.edits,
            prompt: Arc::clone(&prompt),
            cells: cells.clone(),
            reply,
        })
    };
    let values = app.answer(work).await?;
    let width = app.model.opened.config.d_model;
    let states = cells
        .iter()
        .zip(values.chunks_exact(width))
        .map(|(cell, values)| json!({"layer": cell.layer, "token": cell.token, "values": values}));
    Ok(Json(
        json!({"d_model": width, "states": states.collect::<Vec<_>>()}),
    ))
}

impl Shared {
    /// Reserves one of the places in the queue.
    fn permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Problem> {
        let permit = Arc::clone(&self.queue).try_acquire_owned();
        permit.map_err(|_| {
            let message = format!(
                "{} requests are already waiting; try again soon",
                self.limits.requests
            );
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, message)
        })
    }

    fn limit(&self) -> Limit {
        let seconds = self.limits.seconds;
        Limit {
            until: Instant::now() + Duration::from_secs(seconds),
            seconds,
        }
    }

    fn stream(&self, room: usize) -> Result<(Stream, mpsc::Receiver<Event>), Problem> {
        let _permit = self.permit()?;
        let (to, events) = mpsc::channel(room);
        let limit = self.limit();
        Ok((Stream { to, limit, _permit }, events))
    }

    fn send(&self, work: Work) -> Result<(), Problem> {
        if self.engine.send(work) {
            return Ok(());
        }
        Err(Problem::gone())
    }

    /// Queues work that has a single answer.
    async fn answer<T>(&self, work: impl FnOnce(Reply<T>) -> Work) -> Result<T, Problem> {
        let permit = self.permit()?;
        let (to, answer) = oneshot::channel();
        self.send(work(Reply { to, permit }))?;
        let seconds = self.limits.seconds;
        // If the answer is late, the receiver is dropped here, and the work with it.
        match tokio::time::timeout(Duration::from_secs(seconds), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Problem::gone()),
            Err(_) => Err(Problem::late(seconds)),
        }
    }
}

/// Streams events. The client's departure drops this response, which ends the work.
fn sse(events: mpsc::Receiver<Event>, made: Events) -> Response {
    let stream = ReceiverStream::new(events).map(move |event| made.event(event));
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    Sse::new(stream).keep_alive(keep_alive).into_response()
}
