//! An open model.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use numpy::{PyArrayMethods, PyReadonlyArray2};
use pyo3::exceptions::{PyRuntimeError, PyUserWarning};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use selfie::control::EditStack;
use selfie::interp::{self, Options, Vector};
use selfie::kernels::{BlockFormat, DType};
use selfie::llama::{self, Bos, Decoding, GenerationConfig, Lora};
use selfie::{
    AnyModel, Device, DeviceOptions, LateNotes, Note, Observer, OpenOptions, Opened, Source, on,
};

use crate::cells::{grid, listed};
use crate::edit::Edit;
use crate::error::{Failed, Result, value_error};
use crate::options::{Defaults, Keywords, interpretation};
use crate::prompt::{Prompt, Prompts, render};
use crate::rows::{Rows, progress_bar};
use crate::run::Run;
use crate::text::{Text, Token};
use crate::trace::Trace;

/// A model with its weights on a device. Its methods release the GIL, and several threads may call them at once.
///
/// Open one with `Model.open`. When an edit is applied, running calls keep the weights that they started with.
#[pyclass(frozen, name = "Model", module = "selfie_rs")]
pub(crate) struct Model {
    pub(crate) opened: Arc<Opened>,
    lora: Option<Lora>,
    state: Mutex<State>,
}

struct State {
    /// A handle to the weights.
    llama: AnyModel,
    edits: EditStack,
    /// The same weights with the reader's adapter, once something has asked for them.
    adapted: Option<AnyModel>,
}

/// SelfIE's defaults.
const SWEEP: Defaults = Defaults {
    inject_layer: 1,
    max_new_tokens: 30,
    relevancy: true,
};

#[pymethods]
impl Model {
    /// Opens a model: a Hugging Face folder, `org/name` in the local Hugging Face cache, or a GGUF file. Without a
    /// path, it opens the demo checkpoint, which only knows a small world.
    ///
    /// `device`: "auto" (the first GPU that the model fits on, else the CPU), "cpu", "cuda:N". `dtype`: None (the
    /// file's own), "f32", "bf16", "f16". `quantize`: the format to quantize the weights to on loading, such as "q8_0"
    /// or "q4_k" (on the CPU). `kv`: the dtype to keep keys and values in, on the CPU: None (f32, exact), "bf16" or
    /// "f16" (half the memory); a GPU keeps them in the dtype of the weights. `edits`: edit files or `Edit`s, applied
    /// in order. `lora`: a PEFT folder. `interpret` and `interpret_vectors` put embeddings into words with it; the
    /// embeddings themselves, `generate` and `trace` come from the model without it. `threads`: CPU threads, None for
    /// all cores. `deterministic`: the same bits in any batch on a GPU; the CPU always gives them. `bos`: "auto",
    /// "always", "never".
    ///
    /// Raises FileNotFoundError, MemoryError, ValueError (a wrong argument), RuntimeError (an unusable checkpoint).
    #[staticmethod]
    #[pyo3(signature = (
        path = None, *, device = "auto", dtype = None, quantize = None, kv = None, edits = Vec::new(), lora = None,
        threads = None, deterministic = false, bos = "auto"
    ))]
    fn open(
        py: Python<'_>,
        path: Option<PathBuf>,
        device: &str,
        dtype: Option<&str>,
        quantize: Option<&str>,
        kv: Option<&str>,
        edits: Vec<Bound<'_, PyAny>>,
        lora: Option<PathBuf>,
        threads: Option<usize>,
        deterministic: bool,
        bos: &str,
    ) -> PyResult<Self> {
        let threads = match threads {
            Some(0) => return value_error("threads=0: expected at least 1"),
            threads => threads.and_then(NonZeroUsize::new),
        };
        let dtype = dtype_of("dtype", dtype, "the file's own")?;
        let kv = dtype_of("kv", kv, "the device's default")?;
        let quantize = match quantize.map(str::parse::<BlockFormat>).transpose() {
            Ok(quantize) => quantize,
            Err(expected) => return value_error(format!("quantize: {expected}")),
        };
        let options = OpenOptions {
            device: DeviceOptions {
                device: device.parse::<Device>().map_err(Failed::from)?,
                deterministic,
                threads,
                ..DeviceOptions::from_env().map_err(Failed::from)?
            },
            dtype,
            quantize,
            kv,
            bos: match bos {
                "auto" => Bos::Auto,
                "always" => Bos::Always,
                "never" => Bos::Never,
                other => {
                    return value_error(format!(
                        "bos=\"{other}\": expected \"auto\", \"always\" or \"never\""
                    ));
                }
            },
            edits: Vec::new(),
        };
        let edits = edits.iter().map(edit).collect::<PyResult<Vec<_>>>()?;
        let source = path.map_or(Source::Demo, Source::from);
        let (model, notes) = py.detach(|| load(source, options, edits, lora))?;
        warn(py, notes)?;
        Ok(model)
    }

    /// The name of the model in rows and messages.
    #[getter]
    fn name(&self) -> &str {
        &self.opened.name
    }

    /// The number of layers; hidden_states has layers 0..=n_layers.
    #[getter]
    fn n_layers(&self) -> usize {
        self.opened.config.n_layers
    }

    /// The width of the residual stream.
    #[getter]
    fn d_model(&self) -> usize {
        self.opened.config.d_model
    }

    /// The device, with its instruction set or compute capability.
    #[getter]
    fn device(&self) -> String {
        on!(&self.llama(), llama => selfie::AnyDevice::from(llama.backend().clone()).describe())
    }

    /// The dtype that the model runs in: "f32", "bf16", "f16".
    #[getter]
    fn dtype(&self) -> String {
        on!(&self.llama(), llama => llama.dtype().to_string())
    }

    /// The names of the applied edits, in order.
    #[getter]
    fn edits(&self) -> Vec<String> {
        self.state().edits.names().map(str::to_owned).collect()
    }

    /// The text of a chat, as the model's chat template formats it: `[{"role": "user", "content": "Hello!"}]`. The last
    /// message is continued if the assistant wrote it; otherwise the assistant's reply begins.
    ///
    /// Pass the messages themselves as a prompt. Their text as a prompt would get a second bos.
    fn render(&self, messages: &Bound<'_, PyAny>) -> PyResult<String> {
        render(&self.opened, messages)
    }

    /// The tokens of a prompt (a text, or the messages of a chat) as a list of `Token`, as cells number them.
    fn tokens<'py>(
        &self,
        py: Python<'py>,
        prompt: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let ids = Prompt::new(&self.opened, prompt)?.ids(&self.opened)?;
        let tokens = self.opened.tokenizer.tokens(&ids).map_err(Failed::from)?;
        let tokens = tokens.into_iter().map(|token| Token {
            id: token.id,
            piece: token.piece,
            text: token.text,
            special: token.special,
        });
        PyList::new(
            py,
            tokens
                .map(|token| Py::new(py, token))
                .collect::<PyResult<Vec<_>>>()?,
        )
    }

    /// Continues a prompt: a text, or the messages of a chat. Calls `stream` with each piece of text as it comes.
    /// Without sampling arguments (`temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`, `seed`), it follows
    /// the checkpoint's generation_config.json; temperature=0 is greedy. Ctrl-C raises KeyboardInterrupt.
    #[pyo3(signature = (prompt, *, max_new_tokens = 30, stream = None, **sampling))]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        max_new_tokens: usize,
        stream: Option<Py<PyAny>>,
        sampling: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Text> {
        let mut keywords = Keywords::new(py, sampling)?;
        let overrides = keywords.sampling()?;
        keywords.finish()?;
        if max_new_tokens == 0 {
            return value_error("max_new_tokens=0: expected at least 1");
        }
        let opened = &self.opened;
        let ids = Prompt::new(opened, prompt)?.ids(opened)?;
        let resolved = GenerationConfig::resolve(opened.generation.as_ref(), &overrides)
            .map_err(Failed::from)?;
        let decoding = Decoding {
            sampling: resolved.sampling,
            ..opened.decoding(max_new_tokens)
        };
        let positions = ids.len() + max_new_tokens;
        opened
            .config
            .check_context(positions)
            .map_err(Failed::from)?;
        let llama = self.llama();
        let mut pieces = opened.tokenizer.stream();
        let mut raised: Option<PyErr> = None;
        let tell = |text: Result<String>| {
            Python::attach(|py| {
                py.check_signals()?;
                let text = text?;
                match &stream {
                    Some(stream) if !text.is_empty() => stream.call1(py, (text,)).map(drop),
                    _ => Ok(()),
                }
            })
        };
        let got = py.detach(|| {
            let got = on!(&llama, llama => llama::generate(llama, &ids, decoding, |id| {
                match tell(pieces.push(id).map_err(Failed::from)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        raised = Some(error);
                        ControlFlow::Break(())
                    }
                }
            }));
            if raised.is_none() && got.is_ok() {
                raised = tell(pieces.finish().map_err(Failed::from)).err();
            }
            got
        });
        if let Some(error) = raised {
            return Err(error);
        }
        let got = got.map_err(Failed::from)?;
        Ok(Text {
            text: opened
                .tokenizer
                .decode(&got.new_ids)
                .map_err(Failed::from)?,
            new_ids: got.new_ids,
            logprobs: got.logprobs,
        })
    }

    /// All states of a prompt (a text, or the messages of a chat), in f32: see `Trace`.
    fn trace(&self, py: Python<'_>, prompt: &Bound<'_, PyAny>) -> PyResult<Trace> {
        let ids = Prompt::new(&self.opened, prompt)?.ids(&self.opened)?;
        let llama = self.llama();
        let trace = py.detach(|| on!(&llama, llama => llama::Trace::new(llama, &ids)));
        Trace::new(py, trace.map_err(Failed::from)?, self.n_layers())
    }

    /// Interprets cells of one or several prompts in its own thread, and returns `Rows` at once. A prompt is a text, or
    /// the messages of a chat, which the model's chat template formats.
    ///
    /// `cells`: `(layer, token)` pairs for every prompt, or `(prompt, layer, token)`; otherwise all pairs of `layers`
    /// (from 0..=n_layers) and `tokens`, each "all", a number, a slice or numbers. Negative numbers count from the end.
    /// `reader`: another model that puts the embeddings into words. `progress`: True for a tqdm bar, or a callable like
    /// tqdm.
    ///
    /// Other keywords: `interpretation_prompt` (a name: summarize, materials, repeat, meaning, entity, continue; a
    /// sequence of texts with a 0 for each placeholder; or chat messages), `inject_layer` (1; one or several), `mode`
    /// ("replace", "add", "add-matched", "replace-norm"), `strength` (1.0; one or several), `max_new_tokens` (30),
    /// `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`, `seed`, `relevancy` (True), `batch_size` (None:
    /// by memory), `controls` ("none", "random", "shuffled"), `samples` (1; draw this many answers, and return
    /// the most frequent one), `map` (a file with a map to apply to the embeddings; it sets the layer unless
    /// `inject_layer` does), `placeholder` (the token of the prompt to write over), `stop` (cut texts before its last
    /// occurrence), `span` (1; the number of tokens per cell, one placeholder each).
    #[pyo3(signature = (
        prompts, *, cells = None, layers = None, tokens = None, reader = None, progress = None, **options
    ))]
    fn interpret(
        &self,
        py: Python<'_>,
        prompts: &Bound<'_, PyAny>,
        cells: Option<Vec<Vec<isize>>>,
        layers: Option<&Bound<'_, PyAny>>,
        tokens: Option<&Bound<'_, PyAny>>,
        reader: Option<&Bound<'_, Model>>,
        progress: Option<Bound<'_, PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Rows> {
        let given = Prompts::new(&self.opened, prompts)?;
        let reads = reader.map_or(self, |reader| reader.get());
        let reader_name = reads.reader_name(reader.is_none());
        let options = Options {
            prompts_bos: Some(given.bos),
            model_name: self.opened.name.clone(),
            reader_name,
            ..reads.options(py, options)?
        };
        let (subject, words) = (&self.opened, &reads.opened);
        let cells = match cells {
            Some(cells) => listed(subject, &given, &cells)?,
            None => grid(subject, &given, layers, tokens)?,
        };
        interp::check_by(
            (&subject.config, &subject.tokenizer),
            (&words.config, &words.tokenizer),
            &given.texts,
            &cells,
            &options,
        )
        .map_err(Failed::from)?;
        let mut notes = given.notes(subject)?;
        notes.extend(interpretation_prompt_notes(words, &options)?);
        warn(py, notes)?;
        let bar = progress_bar(py, progress)?;

        let prompts = given.texts;
        let total = cells.len() * options.injections.len();
        let subject = (self.llama(), Arc::clone(&self.opened));
        let reader = match &options.reader_name {
            Some(_) => Some((py.detach(|| reads.reading())?, Arc::clone(words))),
            None => None,
        };
        let run = Run::start(total, options.row_fields(), move |sink| {
            let (llama, words) = (&subject.0, &subject.1.tokenizer);
            let swept = match &reader {
                None => on!(llama, llama => {
                    interp::interpret(llama, words, &prompts, &cells, &options, sink)
                }),
                Some((reader, opened)) => on!(llama, llama => on!(reader, reader => {
                    let (subject, reader) = ((llama, words), (reader, &opened.tokenizer));
                    interp::interpret_by(subject, reader, &prompts, &cells, &options, sink)
                })),
            };
            Ok(swept?)
        })?;
        Ok(Rows::new(run, bar))
    }

    /// Interprets vectors as wide as the residual stream: `[n, d_model]` or `[d_model]` from numpy, torch, or anything
    /// with DLPack. Other float types are converted to f32. `name` is the vectors' name in rows. The other keywords are
    /// those of `interpret`.
    #[pyo3(signature = (vectors, *, name = "vectors", progress = None, **options))]
    fn interpret_vectors(
        &self,
        py: Python<'_>,
        vectors: &Bound<'_, PyAny>,
        name: &str,
        progress: Option<Bound<'_, PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Rows> {
        let vectors: Vec<Vector> = rows_of(vectors)?
            .into_iter()
            .enumerate()
            .map(|(index, values)| Vector {
                name: name.to_owned(),
                index,
                values,
            })
            .collect();
        for (index, vector) in vectors.iter().enumerate() {
            vector.check(index, self.d_model()).map_err(Failed::from)?;
        }
        let options = Options {
            reader_name: self.reader_name(true),
            ..self.options(py, options)?
        };
        let (config, tokenizer) = (&self.opened.config, &self.opened.tokenizer);
        let prompts: [&str; 0] = [];
        interp::check(config, tokenizer, &prompts, &[], &options).map_err(Failed::from)?;
        warn(py, interpretation_prompt_notes(&self.opened, &options)?)?;
        let bar = progress_bar(py, progress)?;
        let total = vectors.len() * options.injections.len();
        let (llama, opened) = (py.detach(|| self.reading())?, Arc::clone(&self.opened));
        let run = Run::start(total, options.row_fields(), move |sink| {
            let tokenizer = &opened.tokenizer;
            let swept = on!(&llama, llama => {
                interp::interpret_vectors(llama, tokenizer, &vectors, &options, sink)
            });
            Ok(swept?)
        })?;
        Ok(Rows::new(run, bar))
    }

    /// Applies an edit (an `Edit`, or a file) on top of the others. If a tensor it replaces is not the one it was made
    /// from, it raises ValueError or RuntimeError and the model does not change.
    fn apply(&self, py: Python<'_>, edit: &Bound<'_, PyAny>) -> PyResult<()> {
        let (name, edit) = self::edit(edit)?;
        py.detach(|| self.state().apply(&name, &edit))?;
        Ok(())
    }

    /// Reverts the last edit, or the one at `index`, and restores the exact bytes that it replaced.
    #[pyo3(signature = (index = None))]
    fn revert(&self, py: Python<'_>, index: Option<usize>) -> PyResult<()> {
        py.detach(|| {
            let state = &mut *self.state();
            state.adapted = None;
            let last = state.edits.names().count().saturating_sub(1);
            let (edits, index) = (&mut state.edits, index.unwrap_or(last));
            on!(&mut state.llama, llama => edits.revert(llama, index))
        })
        .map_err(Failed::from)?;
        Ok(())
    }

    fn __repr__(&self) -> String {
        let (layers, width) = (self.n_layers(), self.d_model());
        format!(
            "Model({:?}: {layers} layers, d_model {width}, {} on {})",
            self.opened.name,
            self.dtype(),
            self.device()
        )
    }
}

impl Model {
    /// A handle to the current weights.
    pub(crate) fn llama(&self) -> AnyModel {
        self.state().llama.clone()
    }

    /// A handle on the weights that interpret embeddings: with the adapter if there is one.
    fn reading(&self) -> Result<AnyModel> {
        let mut state = self.state();
        let Some(lora) = &self.lora else {
            return Ok(state.llama.clone());
        };
        if let Some(adapted) = &state.adapted {
            return Ok(adapted.clone());
        }
        let adapted = state.llama.with_lora(lora)?;
        state.adapted = Some(adapted.clone());
        Ok(adapted)
    }

    /// The name of the reader in rows, unless it is the subject itself.
    fn reader_name(&self, is_subject: bool) -> Option<String> {
        let own = (!is_subject).then(|| self.opened.name.clone());
        let lora = self.lora.as_ref().map(|lora| lora.name().to_owned());
        let names: Vec<String> = own.into_iter().chain(lora).collect();
        (!names.is_empty()).then(|| names.join(" + "))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn options(&self, py: Python<'_>, given: Option<&Bound<'_, PyDict>>) -> PyResult<Options> {
        let mut keywords = Keywords::new(py, given)?;
        let options = interpretation(&self.opened, &mut keywords, &SWEEP)?;
        keywords.finish()?;
        Ok(options)
    }
}

impl State {
    fn apply(&mut self, name: &str, edit: &selfie::control::Edit) -> Result<()> {
        self.adapted = None;
        let edits = &mut self.edits;
        Ok(on!(&mut self.llama, llama => edits.apply(llama, name, edit))?)
    }
}

/// The dtype that an argument names. `default` says what None means.
fn dtype_of(argument: &str, name: Option<&str>, default: &str) -> PyResult<Option<DType>> {
    match name {
        None | Some("auto") => Ok(None),
        Some("f32" | "float32") => Ok(Some(DType::F32)),
        Some("bf16" | "bfloat16") => Ok(Some(DType::Bf16)),
        Some("f16" | "float16") => Ok(Some(DType::F16)),
        Some(other) => value_error(format!(
            "{argument}=\"{other}\": expected \"f32\", \"bf16\", \"f16\", or None for {default}"
        )),
    }
}

/// Opens a model with its edits. Returns notes for the user with it.
fn load(
    source: Source,
    options: OpenOptions,
    edits: Vec<(String, selfie::control::Edit)>,
    lora: Option<PathBuf>,
) -> Result<(Model, Vec<String>)> {
    let opened = Opened::new(source, options)?;
    let lora = lora.map(|dir| Lora::open(&dir)).transpose()?;
    // Find edits of other models before loading the weights.
    for (name, edit) in &edits {
        opened.check_edit(name, edit)?;
    }
    let mut notes = Notes::default();
    let selfie::Model { opened, llama } = opened.load_unedited(&mut notes)?;
    let mut state = State {
        llama,
        edits: EditStack::new(),
        adapted: None,
    };
    for (name, edit) in &edits {
        state.apply(name, edit)?;
    }
    let model = Model {
        opened: Arc::new(opened),
        lora,
        state: Mutex::new(state),
    };
    // Report an adapter of another model now.
    model.reading()?;
    Ok((model, notes.0))
}

/// The notes of opening a model. Later ones become warnings by themselves.
#[derive(Default)]
struct Notes(Vec<String>);

impl Observer for Notes {
    fn note(&mut self, note: Note) {
        self.0.push(note.to_string());
    }

    fn later(&self) -> Option<LateNotes> {
        Some(Box::new(|note| {
            // The thread that runs the model must not wait for Python, which may wait for it. If no thread starts, the
            // note is lost.
            let warn_later = move || {
                Python::try_attach(|py| {
                    if let Err(error) = warn(py, vec![note.to_string()]) {
                        error.write_unraisable(py, None);
                    }
                })
            };
            let _ = thread::Builder::new()
                .name("selfie-note".to_owned())
                .spawn(warn_later);
        }))
    }
}

/// An edit, or the one in a file.
fn edit(given: &Bound<'_, PyAny>) -> PyResult<(String, selfie::control::Edit)> {
    if let Ok(edit) = given.cast::<Edit>() {
        let edit = edit.get();
        return Ok((edit.name.clone(), edit.edit.clone()));
    }
    let edit = Edit::open(given.extract()?)?;
    Ok((edit.name, edit.edit))
}

/// Vectors `[n, d]` or `[d]` from numpy, torch or DLPack, one by one.
pub(crate) fn rows_of(vectors: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<f32>>> {
    let convert = vectors.py().import("selfie_rs._vectors")?;
    let array = convert.call_method1("as_float32", (vectors,))?;
    let array: PyReadonlyArray2<'_, f32> = array
        .cast_into::<numpy::PyArray2<f32>>()
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))?
        .try_readonly()?;
    let rows = array.as_array();
    Ok(rows.outer_iter().map(|row| row.to_vec()).collect())
}

/// Notes about an interpretation prompt's placeholders, or a second bos.
fn interpretation_prompt_notes(reader: &Opened, options: &Options) -> PyResult<Vec<String>> {
    let prompt = &options.prompt;
    let located = prompt
        .locate_as(&reader.tokenizer, options.bos)
        .map_err(Failed::from)?;
    let bos = if prompt.rendered {
        Bos::Given
    } else {
        options.bos
    };
    let bos = reader.tokenizer.bos_note(&located.text, bos);
    let bos = bos.map_err(Failed::from)?.map(|note| note.to_string());
    let notes = located.notes().chain(bos.as_deref());
    Ok(notes
        .map(|note| format!("interpretation prompt: {note}"))
        .collect())
}

/// Warns about things that a user should know but that are not errors.
pub(crate) fn warn(py: Python<'_>, notes: Vec<String>) -> PyResult<()> {
    let category = py.get_type::<PyUserWarning>();
    for note in notes {
        py.import("warnings")?
            .call_method1("warn", (note, &category))?;
    }
    Ok(())
}
