//! The web page: a self-contained file, or a page for a server.

use minijinja::{AutoEscape, Environment, Value, context};

use crate::{Explorer, Result};

const PAGE: &str = include_str!("page/page.html");
const STYLES: [&str; 3] = [
    include_str!("page/page.css"),
    include_str!("page/details.css"),
    include_str!("page/print.css"),
];
/// In the order in which they run.
const SCRIPTS: [&str; 4] = [
    include_str!("page/cells.js"),
    include_str!("page/grid.js"),
    include_str!("page/details.js"),
    include_str!("page/page.js"),
];

/// What a server adds to the page to fill its grids while it is open. `script` runs after the page's scripts: it may
/// change `data` and call their functions.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// CSS.
    pub style: &'a str,
    /// JavaScript.
    pub script: &'a str,
    /// HTML below the page's heading.
    pub controls: &'a str,
    /// HTML beside the grid.
    pub panel: &'a str,
}

/// A page for a server. It has no content security policy of its own: the server sets one.
#[derive(Clone, Debug)]
pub struct LivePage {
    /// The page.
    pub html: String,
    /// The text of its `style` element, for a hash in a policy.
    pub style: String,
    /// The text of its `script` element.
    pub script: String,
}

impl Explorer {
    /// A self-contained web page.
    ///
    /// # Errors
    ///
    /// None that a caller can cause: the template and the data are our own.
    pub fn to_html(&self) -> Result<String> {
        Ok(self.page(None)?.html)
    }

    /// The page for a server, which fills it. It may start without grids.
    ///
    /// # Errors
    ///
    /// Like [`to_html`](Explorer::to_html).
    pub fn to_live_html(&self, live: &Live<'_>) -> Result<LivePage> {
        self.page(Some(live))
    }

    fn page(&self, live: Option<&Live<'_>>) -> Result<LivePage> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        // The line break after the tag belongs to the element.
        let element = |parts: &[&str], more: Option<&str>| {
            let parts = parts.iter().copied().chain(more);
            format!("\n{}", parts.collect::<Vec<_>>().join("\n"))
        };
        let style = element(&STYLES, live.map(|live| live.style));
        let script = element(&SCRIPTS, live.map(|live| live.script));
        let html = environment.render_named_str(
            "page.html",
            PAGE,
            context! {
                title => format!("Selfie: {}", self.name()),
                live => live.is_some(),
                controls => live.map(|live| Value::from_safe_string(live.controls.to_owned())),
                panel => live.map(|live| Value::from_safe_string(live.panel.to_owned())),
                style => Value::from_safe_string(style.clone()),
                data => Value::from_safe_string(for_script(&serde_json::to_string(self)?)),
                script => Value::from_safe_string(script.clone()),
            },
        )?;
        Ok(LivePage {
            html,
            style,
            script,
        })
    }
}

/// Escapes JSON for a script element. Characters that could end the element or open a comment only occur in strings,
/// where an escape means the same.
fn for_script(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len() + json.len() / 16);
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_data_ends_its_element() {
        let text = "</script><!-- <script> ]]> & \u{2028}\u{2029} \"\\ שלום";
        let json = serde_json::to_string(text).unwrap();
        let escaped = for_script(&json);
        assert!(
            !escaped.contains(['<', '>', '&', '\u{2028}', '\u{2029}']),
            "{escaped}"
        );
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
    }

    #[test]
    fn no_part_of_the_page_ends_an_element_or_loads_anything() {
        for part in SCRIPTS.into_iter().chain(STYLES) {
            assert!(!part.contains("</script") && !part.contains("</style"));
        }
        for part in SCRIPTS.into_iter().chain(STYLES).chain([PAGE]) {
            for loads in ["src=", "href=", "url(", "@import", "fetch(", "XMLHttp"] {
                assert!(!part.contains(loads), "{loads}");
            }
        }
    }
}
