// The live page: typed prompts, and cells that arrive while the page is open.

/** The server's properties, from /settings. */
let server = null;
data.empty = "Not interpreted yet: click it or press Enter.";

/** Sends a request; throws the message of an error answer. */
async function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Error(told?.error?.message ?? `the server answered ${response.status}`);
}

/** Calls `each` with the name and object of each event in a response, as they arrive. */
async function events(response, each) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n");
      const field = (name) => lines.filter((line) => line.startsWith(name)).map((line) => line.slice(name.length));
      const named = field("event: ")[0];
      if (named) each(named, JSON.parse(field("data: ").join("\n")));
    }
  }
}

/** Shows a message beside the buttons. */
function tell(text, wrong = false) {
  byId("asked").textContent = text;
  byId("asked").classList.toggle("wrong", wrong);
}

/** Text on one line, with invisible characters as escapes. */
function clean(text) {
  return visible(text.replace(/\n/g, "⏎").replace(/\p{Cc}/gu, "·"));
}

/** The runs on the page: one without edits, or the model before and after them. */
const runs = () => (data.runs.length === 2 ? [false, true] : [true]);

/** The grid of a prompt, a setting and a sample; an empty one is created if needed. */
function gridOf(prompt, setting, sample) {
  const found = data.grids.find((one) => one.prompt === prompt && one.setting === setting && one.sample === sample);
  if (found) return found;
  const { tokens, layers } = data.prompts[prompt];
  const made = {
    prompt,
    setting,
    sample,
    tokens: tokens.map(({ index, text }) => ({ index, text: clean(text) })),
    layers: Array.from({ length: layers }, (_, layer) => layer),
    cells: Array.from({ length: layers }, () => tokens.map(() => data.runs.map(() => null))),
    busy: new Map(),
  };
  data.grids.push(made);
  return made;
}

/** Shows a grid. */
function showGrid(of) {
  state.grid = data.grids.indexOf(of);
  document.body.classList.add("has-grid");
  if (state.show === null) byId("show").value = view().show;
  buildTabs();
  build();
  for (const id of ["ask-cell", "ask-row", "ask-column", "ask-all", "continue"]) byId(id).disabled = false;
}

const pieces = new Map();

function pieceIndex(text) {
  if (!pieces.has(text)) pieces.set(text, data.pieces.push(text) - 1);
  return pieces.get(text);
}

/** Adds an arrived cell: an explorer with one grid of one cell. */
function takeCell(of, run, part) {
  const [from] = part.grids;
  const [[[cell]]] = from.cells;
  cell.pieces = cell.pieces.map((at) => pieceIndex(part.pieces[at]));
  if (cell.controls) cell.controls = data.controls.map((name) => cell.controls[part.controls.indexOf(name)] ?? null);
  data.prompts[of.prompt].command = part.prompts[0].command;
  Object.assign(data.settings[of.setting], { label: part.settings[0].label, options: part.settings[0].options });
  const [y, x] = [of.layers.indexOf(from.layers[0]), from.tokens[0].index];
  of.cells[y][x][run] = cell;
  done(of, y, x);
}

/** Counts down the texts that a cell waits for. */
function done(of, y, x) {
  const key = `${y} ${x}`;
  const left = (of.busy.get(key) ?? 1) - 1;
  if (left > 0) of.busy.set(key, left);
  else of.busy.delete(key);
  if (of === grid()) renew(y, x);
}

/** Redraws one cell. */
function renew(y, x) {
  const [td, now] = [cells[y][x], view()];
  td.ariaBusy = isBusy(grid(), y, x) ? "true" : null;
  td.replaceChildren();
  colour(td, grid().cells[y][x], now);
  fill(td, now);
  observer.unobserve(td);
  if (now.show !== "colour") observer.observe(td);
  if (y === here.y && x === here.x) showDetails(grid(), y, x, now);
  redrawSoon();
}

const isBusy = (of, y, x) => of.busy?.has(`${y} ${x}`);

let redrawing = 0;
/** Updates scales and counts for new cells, a few times per second. */
function redrawSoon() {
  redrawing ||= setTimeout(() => {
    redrawing = 0;
    scales.clear();
    const now = view();
    if (now.measure.of || now.show === "colour") for (const td of cells.flat()) colour(td, grid().cells[td.y][td.x], now);
    showFound(now);
    showShares(grid(), now);
    showLegend(now);
    buildTabs();
  }, 300);
}

hooks.built = () => {
  for (const td of cells.flat()) if (isBusy(grid(), td.y, td.x)) td.ariaBusy = "true";
};
