//! The page: one file that loads nothing.

use minijinja::{AutoEscape, Environment, Value, context};

use crate::{Explorer, Result};

const PAGE: &str = include_str!("page/page.html");
const STYLES: [&str; 3] = [
    include_str!("page/page.css"),
    include_str!("page/details.css"),
    include_str!("page/print.css"),
];
/// In the order in which they are run.
const SCRIPTS: [&str; 4] = [
    include_str!("page/cells.js"),
    include_str!("page/grid.js"),
    include_str!("page/details.js"),
    include_str!("page/page.js"),
];

impl Explorer {
    /// A self-contained web page.
    ///
    /// # Errors
    ///
    /// None that a caller can cause: the template and the data are ours.
    pub fn to_html(&self) -> Result<String> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let page = environment.render_named_str(
            "page.html",
            PAGE,
            context! {
                title => format!("Selfie: {}", self.name()),
                style => Value::from_safe_string(STYLES.join("\n")),
                data => Value::from_safe_string(for_script(&serde_json::to_string(self)?)),
                scripts => Value::from_safe_string(SCRIPTS.join("\n")),
            },
        )?;
        Ok(page)
    }
}

/// JSON as it may stand in a script element: what could end the element or open a comment is only in strings, where an escape
/// means the same.
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
