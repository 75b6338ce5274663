//! Listening, and ending.

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
/// How long the head of a request may take to come, and a connection may stay idle.
const HEAD_SECONDS: u64 = 30;
/// How long answers may take when the server ends.
const END_SECONDS: u64 = 3;
/// Interpretation prompts that are kept at a time.
const INTERPRETATION_PROMPTS: usize = 8;

/// Where a server listens, and by which names it may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address; anything but a loopback address lets others in.
    pub host: IpAddr,
    /// The port; 0 is any that is free.
    pub port: u16,
    /// Names that requests may have in `Host`, beside localhost.
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

/// What a server takes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests of the model at a time, those that wait included; more are answered with 503.
    pub requests: usize,
    /// Most rows of a request.
    pub rows: usize,
    /// Most bytes of a request's body.
    pub body_bytes: usize,
    /// Most tokens of a prompt.
    pub prompt_tokens: usize,
    /// Most tokens of a text.
    pub max_new_tokens: usize,
    /// Prompts whose handles are known; the one that was used longest ago is forgotten first.
    pub prompts: usize,
    /// How long a request may take.
    pub seconds: u64,
    /// Texts that are decoded together; `None` chooses by memory.
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

    /// What the reader makes room for.
    fn reader(&self, model: &Model) -> ReaderSize {
        let context = model.opened.config.max_positions;
        // Half of it at most, so that there is room for an interpretation prompt.
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
        }
    }
}

/// A server that listens, and does not answer yet.
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    /// Told when the model's thread ends.
    end: oneshot::Receiver<()>,
    engine: Engine,
}

impl Server {
    /// Listens, and starts the model's thread. `model` was loaded without its edits
    /// ([`Opened::load_unedited`](selfie::Opened::load_unedited)), so that they can be compared. `command` is the
    /// program's command that interprets with the same model, for cells to be reproduced: `selfie interpret --model ..`.
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `is_stopped`, which is asked twenty times a second. Work that is under way then ends, and its
    /// clients are told.
    ///
    /// # Errors
    /// The model's thread has ended by itself.
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
            // Ends the streams, which would go on otherwise.
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
                // Out of descriptors, or a client that was gone at once: neither ends the server.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Small events should not wait for more.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(HEAD_SECONDS))
            .max_headers(64)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // What is wrong with a connection is its client's business.
            let _ = connection.await;
            drop(place);
        });
    }
}
