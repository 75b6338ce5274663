//! Finds the files of a model: in a folder, or in the cache of the Hugging Face hub.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{LlamaError, Result};

/// The branch to use if no revision is named.
const MAIN: &str = "main";

/// The folder that holds the files of a model.
///
/// - For a plain folder this is `dir` itself.
/// - For a folder of the hub's cache (`models--org--name`, with `refs/` and `snapshots/`) it is the snapshot that
///   `refs/main` names.
/// - For `org/name` or `org/name@revision`, if no such path exists, it is the snapshot in the local cache.
///
/// The cache is `HF_HUB_CACHE`, otherwise `hub` in `HF_HOME`, otherwise `~/.cache/huggingface/hub`. Nothing is ever
/// downloaded. Without `refs/main`, a single snapshot is used; if there are several, the error lists them.
pub fn resolve_folder(dir: &Path) -> Result<PathBuf> {
    if let Some(model) = HubModel::of_path(dir).filter(|_| !dir.exists()) {
        return model.snapshot(cache_folder(|name| env::var_os(name)));
    }
    if !dir.join("snapshots").is_dir() || dir.join("config.json").exists() {
        return Ok(dir.to_owned());
    }
    snapshot(dir, MAIN)
}

/// A model, by its name on the hub.
struct HubModel<'a> {
    org: &'a str,
    name: &'a str,
    revision: Option<&'a str>,
}

impl<'a> HubModel<'a> {
    /// Parses `org/name` or `org/name@revision`; `None` if the text can only be a path.
    fn of_path(path: &'a Path) -> Option<Self> {
        let text = path.to_str()?;
        let (model, revision) = match text.split_once('@') {
            Some((model, revision)) => (model, Some(revision)),
            None => (text, None),
        };
        let (org, name) = model.split_once('/')?;
        let is_name = |text: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !text.is_empty() && !text.starts_with('.') && text.chars().all(known)
        };
        let is_model = is_name(org) && is_name(name);
        let is_revision = revision.is_none_or(|text| text.split('/').all(is_name));
        (is_model && is_revision).then_some(Self {
            org,
            name,
            revision,
        })
    }

    fn snapshot(&self, cache: Option<PathBuf>) -> Result<PathBuf> {
        let Self {
            org,
            name,
            revision,
        } = self;
        let dir = cache
            .as_ref()
            .map(|cache| cache.join(format!("models--{org}--{name}")));
        if let Some(dir) = dir.filter(|dir| dir.join("snapshots").is_dir()) {
            let revision = revision.unwrap_or(MAIN);
            let found = snapshot(&dir, revision);
            if found.is_ok() || revision == MAIN {
                return found;
            }
        }
        let flag = revision.map(|revision| format!(" --revision {revision}"));
        Err(LlamaError::NotInCache {
            name: format!("{org}/{name}"),
            cache: cache.unwrap_or_default(),
            command: format!("hf download {org}/{name}{}", flag.unwrap_or_default()),
        })
    }
}

/// The hub's cache, located like Python's `huggingface_hub` package does.
fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let home = variable("HOME").or_else(|| variable("USERPROFILE"));
    let home = home.map(PathBuf::from);
    let path = |name: &str| {
        let path = PathBuf::from(variable(name).filter(|value| !value.is_empty())?);
        match (path.strip_prefix("~"), &home) {
            (Ok(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(path),
        }
    };
    let in_cache = |cache: PathBuf| cache.join("huggingface");
    path("HF_HUB_CACHE")
        .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| {
            path("HF_HOME")
                .or_else(|| path("XDG_CACHE_HOME").map(in_cache))
                .or_else(|| home.as_ref().map(|home| in_cache(home.join(".cache"))))
                .map(|home| home.join("hub"))
        })
}

/// The snapshot of a revision, which is a branch or tag in `refs/` or a commit hash.
fn snapshot(dir: &Path, revision: &str) -> Result<PathBuf> {
    let snapshots = dir.join("snapshots");
    let reference = dir.join("refs").join(revision);
    let named = match fs::read_to_string(&reference) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(source) if source.kind() == ErrorKind::NotFound => None,
        Err(source) => {
            return Err(LlamaError::Read {
                path: reference,
                source,
            });
        }
    };
    if let Some(hash) = named.as_deref().or((revision != MAIN).then_some(revision)) {
        let snapshot = snapshots.join(hash);
        // A reference comes from the network, so it must not lead out of the folder.
        if !hash.is_empty() && !hash.contains(['/', '\\']) && snapshot.is_dir() {
            return Ok(snapshot);
        }
    }
    let unreadable = |source| LlamaError::Read {
        path: snapshots.clone(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(&snapshots).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    match &*found {
        [one] if named.is_none() && revision == MAIN => Ok(one.clone()),
        _ => Err(LlamaError::NoSnapshot {
            dir: dir.to_owned(),
            main: named,
            found,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_python_finds_it() {
        // The values of `huggingface_hub.constants.HF_HUB_CACHE` in an environment with only these variables.
        let cases: [(&[(&str, &str)], &str); 7] = [
            (&[("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (
                &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
            ),
            (
                &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")],
                "/f/hub",
            ),
            (&[("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub"),
            (
                &[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")],
                "/old",
            ),
            (
                &[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/old")],
                "/c",
            ),
            (
                &[("HOME", "/h"), ("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")],
                "/c",
            ),
        ];
        for (variables, cache) in cases {
            let value = |name: &str| variables.iter().find(|(known, _)| *known == name);
            let found = cache_folder(|name| value(name).map(|(_, value)| value.into()));
            assert_eq!(found.unwrap(), Path::new(cache), "{variables:?}");
        }
    }

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        for (path, name) in [
            ("org/name", Some(("org", "name", None))),
            (
                "meta-llama/Llama-3.2-1B",
                Some(("meta-llama", "Llama-3.2-1B", None)),
            ),
            ("org/name@v1.0", Some(("org", "name", Some("v1.0")))),
            (
                "org/name@refs/pr/1",
                Some(("org", "name", Some("refs/pr/1"))),
            ),
            ("org/name@../../x", None),
            ("org/name@", None),
            ("name", None),
            ("./name", None),
            ("../name", None),
            ("/org/name", None),
            ("a/b/c", None),
            ("org/", None),
            ("~/name", None),
        ] {
            let found = HubModel::of_path(Path::new(path));
            let found = found.map(|model| (model.org, model.name, model.revision));
            assert_eq!(found, name, "{path}");
        }
    }

    #[test]
    fn snapshots_are_found_by_their_references() {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--org--name");
        for hash in ["aaa", "bbb"] {
            fs::create_dir_all(model.join("snapshots").join(hash)).unwrap();
        }
        fs::create_dir_all(model.join("refs/refs/pr")).unwrap();
        for (reference, hash) in [
            ("main", "aaa"),
            ("v1", "bbb\n"),
            ("refs/pr/1", "bbb"),
            ("out", "../.."),
        ] {
            fs::write(model.join("refs").join(reference), hash).unwrap();
        }
        let find = |path: &str| {
            let model = HubModel::of_path(Path::new(path)).unwrap();
            model.snapshot(Some(cache.path().to_owned()))
        };
        for (path, hash) in [
            ("org/name", "aaa"),
            ("org/name@main", "aaa"),
            ("org/name@v1", "bbb"),
            ("org/name@bbb", "bbb"),
            ("org/name@refs/pr/1", "bbb"),
        ] {
            assert_eq!(
                find(path).unwrap(),
                model.join("snapshots").join(hash),
                "{path}"
            );
        }
        for (path, command) in [
            ("org/other", "hf download org/other"),
            ("org/name@v2", "hf download org/name --revision v2"),
            ("org/name@out", "hf download org/name --revision out"),
        ] {
            let error = find(path).unwrap_err().to_string();
            assert!(error.ends_with(&format!("`{command}`")), "{error}");
            assert!(error.contains(cache.path().to_str().unwrap()), "{error}");
        }
    }
}
