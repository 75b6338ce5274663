//! Problems with requests: a status and a JSON object with a message.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use selfie::Error;
use selfie::interp::InterpError;
use selfie::llama::LlamaError;
use serde_json::{Value, json};

/// Seconds after which a client may retry when the queue is full.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// A problem that the client can fix.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn gone() -> Self {
        let message = "the server is stopping";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub(crate) fn late(seconds: u64) -> Self {
        let message =
            format!("not done within the time limit of {seconds} s; ask for less at a time");
        Self::new(StatusCode::GATEWAY_TIMEOUT, message)
    }

    /// The object of the answer, and of `error` events.
    pub(crate) fn json(&self) -> Value {
        json!({"error": {"status": self.status.as_u16(), "message": self.message}})
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// Device failures are the server's fault, everything else is the request's.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let ours = match &error {
            Error::Kernel(_) => true,
            Error::Interp(error) => match &**error {
                InterpError::Kernel(_) | InterpError::Unanswered => true,
                InterpError::Llama(error) => is_ours(error),
                _ => false,
            },
            Error::Llama(error) => is_ours(error),
            _ => false,
        };
        let status = if ours {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::BAD_REQUEST
        };
        Self::new(status, error.to_string())
    }
}

fn is_ours(error: &LlamaError) -> bool {
    matches!(error, LlamaError::Kernel(_))
}

impl From<InterpError> for Problem {
    fn from(error: InterpError) -> Self {
        Error::from(error).into()
    }
}

impl From<LlamaError> for Problem {
    fn from(error: LlamaError) -> Self {
        Error::from(error).into()
    }
}
