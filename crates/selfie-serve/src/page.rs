//! The explorer's page, live.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use selfie_explorer::{Explorer, Live};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::model::ServedModel;

const LIVE: Live<'_> = Live {
    style: include_str!("page/live.css"),
    script: concat!(
        include_str!("page/live.js"),
        include_str!("page/ask.js"),
        include_str!("page/steer.js")
    ),
    controls: include_str!("page/controls.html"),
    panel: include_str!("page/panel.html"),
};

/// The page, built once.
pub(crate) struct Page {
    html: String,
    policy: String,
}

impl Page {
    pub(crate) fn new(model: &ServedModel) -> Result<Self> {
        let name = selfie_explorer::clean(&model.opened.name);
        let edits: Vec<String> = model
            .opened
            .edits
            .iter()
            .map(|(name, _)| selfie_explorer::clean(name))
            .collect();
        let compared = !edits.is_empty();
        let runs = if compared {
            vec!["without the edit".to_owned(), edits.join(", ")]
        } else {
            vec![name.clone()]
        };
        let explorer = Explorer {
            models: runs.iter().map(|_| name.clone()).collect(),
            runs,
            prompts: Vec::new(),
            settings: Vec::new(),
            controls: ["none", "random", "shuffled"].map(str::to_owned).to_vec(),
            pieces: Vec::new(),
            grids: Vec::new(),
            note: compared.then_some(
                "The command gives the text before the edit: add --edit for the one after it.",
            ),
        };
        let page = explorer.to_live_html(&LIVE)?;
        let hash = |text: &str| {
            let digest = Sha256::digest(text.as_bytes());
            format!("'sha256-{}'", BASE64_STANDARD.encode(digest))
        };
        Ok(Self {
            policy: format!(
                "default-src 'none'; connect-src 'self'; script-src {}; style-src {}; base-uri 'none'; \
                 form-action 'none'; frame-ancestors 'none'",
                hash(&page.script),
                hash(&page.style)
            ),
            html: page.html,
        })
    }

    pub(crate) fn response(&self) -> Response {
        let policy = [(header::CONTENT_SECURITY_POLICY, self.policy.clone())];
        (policy, Html(self.html.clone())).into_response()
    }
}
