//! Captures states of prompts and keeps them on the device.

use std::collections::HashMap;

use selfie_kernels::{Backend, Slot};

use crate::{Capture, Feed, Llama, LlamaError, Pass, Result, Session, SessionSize, Site};

/// Tokens of prompts whose keys and values are in memory at a time. A longer prompt runs alone.
const GROUP_TOKENS: usize = 512;

/// A row for [`capture`] to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PromptSite {
    /// The prompt, by its index.
    pub prompt: usize,
    /// The place in the model.
    pub site: Site,
    /// The index of the token in the prompt.
    pub token: usize,
}

impl PromptSite {
    /// Every token of every prompt at one site, in order.
    pub fn all(prompts: &[Vec<u32>], site: Site) -> Vec<Self> {
        let of_prompt = |(prompt, ids): (usize, &Vec<u32>)| {
            (0..ids.len()).map(move |token| Self {
                prompt,
                site,
                token,
            })
        };
        prompts.iter().enumerate().flat_map(of_prompt).collect()
    }
}

/// Runs the prompts that `wants` names as far as necessary, and returns the wanted rows in order: `[wants.len(),
/// d_model]`.
///
/// A prompt or token that does not exist is an error. To capture all states of a layer, call `capture(&model, &prompts,
/// &PromptSite::all(&prompts, Site::HiddenStates(layer)))`.
pub fn capture<B: Backend>(
    model: &Llama<B>,
    prompts: &[Vec<u32>],
    wants: &[PromptSite],
) -> Result<B::Rows> {
    let (backend, config) = (model.backend(), model.config());
    let mut kept = backend.rows(wants.len(), config.d_model)?;
    let n_layers = config.n_layers;
    let layers = wants
        .iter()
        .map(|want| layers_to(want.site, n_layers))
        .max();
    let layers = 0..layers.unwrap_or(0);
    let mut named: Vec<usize> = wants.iter().map(|want| want.prompt).collect();
    named.sort_unstable();
    named.dedup();
    let groups = groups(&named, prompts)?;
    let mut session = session(model, prompts, &groups, layers.end)?;

    // Rows arrive group by group; `places` maps a want to its row.
    let mut places: HashMap<PromptSite, usize> = HashMap::new();
    for group in groups {
        let mut slots: HashMap<usize, Slot> = HashMap::new();
        for &prompt in group {
            slots.insert(prompt, session.open()?);
        }
        let own = wants.iter().filter(|want| slots.contains_key(&want.prompt));
        let mut own: Vec<PromptSite> = own.copied().collect();
        own.sort_unstable();
        own.dedup();
        let row = |want: &PromptSite| (want.site, slots[&want.prompt], want.token as u32);
        let rows: Vec<_> = own.iter().map(row).collect();
        let mut probe = Capture::new(backend, &rows, config.d_model)?;
        let feed = |prompt: &usize| Feed::new(slots[prompt], &prompts[*prompt]);
        let feeds: Vec<Feed<'_>> = group.iter().map(feed).collect();
        let pass = Pass {
            layers: layers.clone(),
            ..Pass::new(model, &feeds)
        };
        session.run(&pass, &mut probe)?;
        let index: Vec<usize> = rows
            .iter()
            .map(|&row| probe.index(row))
            .collect::<Result<_>>()?;
        let first = backend.len(&kept);
        backend.gather(probe.rows(), &index, &mut kept)?;
        places.extend(own.into_iter().zip(first..));
        for prompt in group {
            session.close(slots[prompt])?;
        }
    }
    let order: Vec<usize> = wants.iter().map(|want| places[want]).collect();
    if order.iter().copied().eq(0..wants.len()) {
        return Ok(kept);
    }
    let mut rows = backend.rows(wants.len(), config.d_model)?;
    backend.gather(&kept, &order, &mut rows)?;
    Ok(rows)
}

/// A session with room for each of the groups in turn, with keys and values only for the layers that run.
fn session<B: Backend>(
    model: &Llama<B>,
    prompts: &[Vec<u32>],
    groups: &[&[usize]],
    layers: usize,
) -> Result<Session<B>> {
    let tokens = |group: &&[usize]| group.iter().map(|&p| prompts[p].len()).sum::<usize>();
    let named = groups.iter().flat_map(|group| group.iter());
    let longest = named.map(|&p| prompts[p].len()).max().unwrap_or(1);
    let slots = groups.iter().map(|group| group.len()).max().unwrap_or(1);
    let widest = groups.iter().map(tokens).max().unwrap_or(1);
    let mut size = SessionSize::new(model, slots, longest);
    size.rows = size.rows.min(widest);
    for own in &mut size.own[layers..] {
        *own = 0;
    }
    Session::new(model, &size)
}

/// How many layers a pass must run to reach a site.
fn layers_to(site: Site, n_layers: usize) -> usize {
    match site {
        Site::HiddenStates(layer) => layer,
        Site::Residual(layer) | Site::PreMlp(layer) => layer + 1,
        Site::Output => n_layers,
    }
}

/// The named prompts, in groups that share a pass.
fn groups<'a>(named: &'a [usize], prompts: &[Vec<u32>]) -> Result<Vec<&'a [usize]>> {
    let mut groups = Vec::new();
    let (mut first, mut tokens) = (0, 0);
    for (at, &prompt) in named.iter().enumerate() {
        let Some(ids) = prompts.get(prompt) else {
            return Err(LlamaError::NoPrompt {
                prompt,
                prompts: prompts.len(),
            });
        };
        if tokens + ids.len() > GROUP_TOKENS && at > first {
            groups.push(&named[first..at]);
            (first, tokens) = (at, 0);
        }
        tokens += ids.len();
    }
    if first < named.len() {
        groups.push(&named[first..]);
    }
    Ok(groups)
}
