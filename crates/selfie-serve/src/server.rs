//! Starting and stopping the server.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use selfie::interp::ReaderSize;
use selfie::{Model, on};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, oneshot};

use crate::api::{Shared, router};
use crate::engine::{self, Engine, Started, Work};
use crate::error::{Result, ServeError};
use crate::guard::Hosts;
use crate::model::ServedModel;
use crate::page::Page;
use crate::prompts::Prompts;

/// Connections at a time; others wait to be accepted.
const CONNECTIONS: usize = 1024;
/// Time limit for the head of a request, and for an idle connection.
const HEAD_SECONDS: u64 = 30;
/// Time limit for answers when the server stops.
const END_SECONDS: u64 = 3;
/// Interpretation prompts kept at a time.
const INTERPRETATION_PROMPTS: usize = 8;

/// Where a server listens, and under which names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address. Any address but loopback lets others in.
    pub host: IpAddr,
    /// The port; 0 picks a free one.
    pub port: u16,
    /// Names allowed in `Host`, besides localhost.
    pub names: Vec<String>,
}

impl Default for Address {
    /// 127.0.0.1:7979.
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 7979,
            names: Vec::new(),
        }
    }
}

/// A server's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests to the model at a time, waiting ones included; further ones are answered with 503.
    pub requests: usize,
    /// Rows per request.
    pub rows: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Tokens per prompt.
    pub prompt_tokens: usize,
    /// Tokens per generated text.
    pub max_new_tokens: usize,
    /// Prompts with a known handle; the least recently used one is forgotten first.
    pub prompts: usize,
    /// Seconds per request.
    pub seconds: u64,
    /// Texts to decode together; `None` chooses by memory.
    pub batch_size: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: 256,
            rows: 20_000,
            body_bytes: 256 << 10,
            prompt_tokens: 2048,
            max_new_tokens: 256,
            prompts: 256,
            seconds: 600,
            batch_size: None,
        }
    }
}

impl Limits {
    fn check(&self) -> Result<()> {
        for (what, found) in [
            ("the number of requests", self.requests),
            ("the number of rows", self.rows),
            ("the number of prompts", self.prompts),
            ("the number of prompt tokens", self.prompt_tokens),
            ("max_new_tokens", self.max_new_tokens),
            ("the batch size", self.batch_size.unwrap_or(1)),
            ("the time limit in seconds", self.seconds as usize),
        ] {
            if found == 0 {
                return Err(ServeError::Limit {
                    what,
                    found,
                    least: 1,
                });
            }
        }
        Ok(())
    }

    /// The size of the reader.
    fn reader(&self, model: &Model) -> ReaderSize {
        let context = model.opened.config.max_positions;
        // At most half of the context, so that an interpretation prompt has room.
        let new = self.max_new_tokens.min(context / 2).max(1);
        let room = context.saturating_sub(new).clamp(1, 256);
        ReaderSize {
            prompts: INTERPRETATION_PROMPTS,
            prompt_tokens: room,
            written_tokens: room.min(128),
            max_new_tokens: new,
            batch_size: self.batch_size,
            texts: None,
            clean: true,
            drafts: true,
        }
    }
}

/// A server that is listening but not yet answering.
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    /// Signals that the model's thread has ended.
    end: oneshot::Receiver<()>,
    engine: Engine,
}

impl Server {
    /// Starts listening, and starts the model's thread. `model` must be loaded without its edits
    /// ([`Opened::load_unedited`](selfie::Opened::load_unedited)), so that they can be compared. `command` is the
    /// program's command to interpret with the same model (`selfie interpret --model ..`), from which the page builds
    /// commands for cells.
    ///
    /// # Errors
    /// The address is taken; the model does not fit; an edit does not belong to it.
    pub fn bind(
        model: Model,
        address: &Address,
        limits: Limits,
        command: Vec<String>,
    ) -> Result<Self> {
        limits.check()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(ServeError::Start)?;
        let wanted = SocketAddr::new(address.host, address.port);
        let listen = |source| ServeError::Listen {
            address: wanted.to_string(),
            source,
        };
        let listener = runtime
            .block_on(TcpListener::bind(wanted))
            .map_err(listen)?;
        let at = listener.local_addr().map_err(listen)?;
        let device = model.device().describe();
        let dtype = on!(&model.llama, llama => llama.dtype()).to_string();
        let size = limits.reader(&model);
        let Started {
            opened,
            engine,
            end,
        } = engine::start(model, size.clone())?;
        let model = ServedModel::new(opened, size)?;
        let limits = Limits {
            max_new_tokens: model.size.max_new_tokens,
            ..limits
        };
        let shared = Shared {
            page: Page::new(&model)?,
            model,
            engine: engine.clone(),
            prompts: Prompts::new(NonZeroUsize::new(limits.prompts).unwrap_or(NonZeroUsize::MIN)),
            queue: Arc::new(Semaphore::new(limits.requests)),
            limits,
            command,
            device,
            dtype,
        };
        let hosts = Hosts::new(at.ip(), &address.names);
        Ok(Self {
            router: router(Arc::new(shared), hosts),
            runtime,
            listener,
            address: at,
            end,
            engine,
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `is_stopped` returns true; it is called twenty times a second. Work in progress then
    /// ends, and its clients are told.
    ///
    /// # Errors
    /// The model's thread ended by itself.
    pub fn run(self, is_stopped: impl Fn() -> bool) -> Result<()> {
        let Self {
            runtime,
            listener,
            router,
            mut end,
            engine,
            ..
        } = self;
        let ran = runtime.block_on(async {
            let connections = GracefulShutdown::new();
            let failed = tokio::select! {
                never = accept(&listener, router, &connections) => match never {},
                () = poll(is_stopped) => false,
                _ = &mut end => true,
            };
            drop(listener);
            if failed {
                return Err(ServeError::Engine);
            }
            // Ends the streams, which would otherwise go on.
            engine.send(Work::Stop);
            let end = connections.shutdown();
            let _ = tokio::time::timeout(Duration::from_secs(END_SECONDS), end).await;
            Ok(())
        });
        runtime.shutdown_timeout(Duration::from_secs(END_SECONDS));
        ran
    }
}

async fn poll(is_stopped: impl Fn() -> bool) {
    while !is_stopped() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn accept(
    listener: &TcpListener,
    router: Router,
    connections: &GracefulShutdown,
) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of file descriptors, or a client that left at once: neither ends the server.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Send small events at once.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(HEAD_SECONDS))
            .max_headers(64)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // Errors of a connection concern only its client.
            let _ = connection.await;
            drop(place);
        });
    }
}
