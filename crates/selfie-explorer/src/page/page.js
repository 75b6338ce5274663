// The page: which view is shown, and how it reacts to keys, pointer and controls. The address stores the view.

const byId = (id) => document.getElementById(id);

/** With more tokens than this, cells show their main words by default instead of the whole text. */
const MANY_TOKENS = 24;
/** Up to this many tokens share the window's width, and show their whole text. */
const FEW_TOKENS = 8;
/** With more tokens than this, colour-only columns are too narrow for token texts. */
const NARROW_TOKENS = 90;

const state = { grid: 0, show: null, colour: "words", find: "", side: "both", theme: "auto" };
/** Scales of measures, computed on demand. */
const scales = new Map();
/** Hooks for the live page: `built` is called after a table is built. */
const hooks = { built() {} };
/** The focused cell. */
let here = { y: 0, x: 0 };
let cells = [];

const grid = () => data.grids[state.grid];

/** The view that the state describes. */
function view() {
  const show = state.show ?? (grid().tokens.length > MANY_TOKENS ? "words" : "text");
  const measure = MEASURES[state.colour];
  if (!scales.has(measure)) scales.set(measure, scaleOf(measure));
  let scale = scales.get(measure);
  if (show === "colour" && state.colour === "words") scale = scaleOf(MEASURES.relevancy);
  const sides = data.runs.length === 1 ? [0] : { before: [0], after: [1], both: [0, 1] }[state.side];
  return { show, measure, scale, sides, pattern: patternOf(state.find), shade: state.colour === "words" };
}

// Texts are shaded when they scroll into view: of thousands of cells, few are visible.
const observer = new IntersectionObserver(
  (entries) => {
    const now = view();
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      const td = entry.target;
      td.replaceChildren(...contents(grid().cells[td.y][td.x], now));
    }
  },
  { root: byId("scroll"), rootMargin: "200px" },
);

/** Puts unshaded text into cells, so that it can be found and read aloud before it is visible. */
function fill(td, now) {
  const pair = grid().cells[td.y][td.x];
  const texts = now.sides.map((side) => (pair[side] ? textOf(pair[side]) : ""));
  if (now.show === "colour") td.setAttribute("aria-label", texts.join(", "));
  else td.append(...texts.map((text) => element("div", { class: "text", dir: "auto" }, text)));
}

/** Fills the remaining cells, a few at a time, so that visible ones are painted first. */
function fillSoon(empty, now) {
  const until = performance.now() + 8;
  let at = 0;
  for (; at < empty.length && performance.now() < until; at++) {
    if (!empty[at].isConnected) return;
    if (!empty[at].firstChild) fill(empty[at], now);
  }
  if (at < empty.length) setTimeout(() => fillSoon(empty.slice(at), now));
}

/** Builds the table of the shown grid. */
function build() {
  const now = view();
  const { tokens, layers } = grid();
  here = { y: Math.min(here.y, layers.length - 1), x: Math.min(here.x, tokens.length - 1) };
  cells = layers.map(() => []);
  const many = tokens.length > MANY_TOKENS;
  const made = table(grid(), tokens.map((_, at) => at), (td, pair) => {
    td.tabIndex = -1;
    colour(td, pair, now);
    if (!many) fill(td, now);
    cells[td.y][td.x] = td;
  });
  made.id = "grid";
  made.className = `show-${now.show}`;
  made.classList.toggle("few", tokens.length <= FEW_TOKENS);
  made.classList.toggle("many", many);
  made.classList.toggle("narrow", tokens.length > NARROW_TOKENS);
  made.style.setProperty("--columns", tokens.length);
  made.setAttribute("role", "grid");
  made.setAttribute("aria-label", "Interpretations: layers down, tokens across");
  byId("scroll").replaceChildren(made);
  cells[here.y][here.x].tabIndex = 0;
  const all = cells.flat();
  if (now.show !== "colour") all.forEach((td) => observer.observe(td));
  if (many) requestAnimationFrame(() => setTimeout(() => fillSoon(all, now)));
  around(now);
  hooks.built();
}

/** Redraws the cells of the existing table. */
function draw() {
  const now = view();
  observer.disconnect();
  for (const td of cells.flat()) {
    colour(td, grid().cells[td.y][td.x], now);
    if (now.show !== "colour") observer.observe(td);
  }
  around(now);
}

/** Updates everything beside the table. */
function around(now) {
  byId("prompt").textContent = data.prompts[grid().prompt].text;
  const { layers, tokens } = grid();
  const setting = data.settings[grid().setting].label;
  byId("about").textContent = `${layers.length} layers × ${tokens.length} tokens, ${setting}`;
  showFound(now);
  showShares(grid(), now);
  showLegend(now);
  showDetails(grid(), here.y, here.x, now);
  remember();
}

function showFound(now) {
  const mention = cells.flat().filter((td) => td.classList.contains("mentions")).length;
  const there = grid().cells.flat().filter((pair) => pair.some((cell) => cell)).length;
  byId("found").textContent = now.pattern ? `${mention} of ${there} cells` : "";
}

function showLegend(now) {
  const legend = byId("legend");
  const byWords = state.colour === "words";
  const of = byWords ? MEASURES.relevancy : now.measure;
  const { from, to } = byWords && now.show !== "colour" ? { from: 0, to: 1 } : now.scale;
  const parts = [];
  if (Number.isFinite(from) && Number.isFinite(to)) {
    const ramp = element("i", { class: "ramp" });
    ramp.classList.toggle("diverging", Boolean(now.measure.diverging));
    ramp.classList.toggle("found", now.measure === MEASURES.find);
    const name = byWords && now.show !== "colour" ? "relevancy" : of.name + (of.unit ? `, ${of.unit}` : "");
    parts.push(name + " ", number(from, 2), ramp, number(to, 2));
  } else {
    parts.push(`the rows have no ${of.name}`);
  }
  if (data.runs.length === 2) parts.push(element("i", { class: "sign" }), "differs");
  legend.replaceChildren(...parts);
}

/** Moves the focus to a cell. */
function go(y, x, focus = true) {
  const { layers, tokens } = grid();
  cells[here.y][here.x].tabIndex = -1;
  here = { y: Math.max(0, Math.min(layers.length - 1, y)), x: Math.max(0, Math.min(tokens.length - 1, x)) };
  const td = cells[here.y][here.x];
  td.tabIndex = 0;
  if (focus) {
    td.focus();
    // Focusing alone may leave it under the headers.
    td.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  showDetails(grid(), here.y, here.x, view());
}

const MOVES = {
  ArrowLeft: () => [here.y, here.x - 1],
  ArrowRight: () => [here.y, here.x + 1],
  ArrowUp: () => [here.y - 1, here.x],
  ArrowDown: () => [here.y + 1, here.x],
  Home: () => [here.y, 0],
  End: () => [here.y, Infinity],
  PageUp: () => [here.y - 8, here.x],
  PageDown: () => [here.y + 8, here.x],
};

function followTable() {
  const scroll = byId("scroll");
  scroll.addEventListener("keydown", (event) => {
    if (event.ctrlKey && (event.key === "Home" || event.key === "End")) {
      event.preventDefault();
      return event.key === "Home" ? go(0, 0) : go(Infinity, Infinity);
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "c") return copyCommand(grid(), here.y, here.x);
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    go(...move());
  });
  scroll.addEventListener("focusin", (event) => {
    const td = event.target.closest("td");
    if (td && (td.y !== here.y || td.x !== here.x)) go(td.y, td.x, false);
  });
  // A click focuses a cell; hovering shows another one temporarily.
  let pointer = "";
  scroll.addEventListener("mouseover", (event) => {
    const moved = `${event.clientX} ${event.clientY}`;
    const td = event.target.closest("td");
    // Keys can scroll cells under a resting pointer; that is not hovering.
    if (td && moved !== pointer) showDetails(grid(), td.y, td.x, view());
    pointer = moved;
  });
  scroll.addEventListener("mousemove", (event) => (pointer = `${event.clientX} ${event.clientY}`));
  scroll.addEventListener("mouseleave", () => showDetails(grid(), here.y, here.x, view()));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, select, textarea")) return;
    event.preventDefault();
    byId("find").focus();
  });
}

/** Buttons for a property in which grids differ: `names[value]` for each of its values. */
function tabList(label, field, names) {
  const values = [...new Set(data.grids.map((one) => one[field]))];
  if (values.length < 2) return [];
  const list = element("div", { role: "tablist", "aria-label": label });
  const buttons = values.map((value) => {
    const name = names(value);
    const about = { type: "button", role: "tab", "aria-controls": "scroll", title: name };
    const button = element("button", about, element("bdi", {}, name));
    button.addEventListener("click", () => choose(field, value));
    return button;
  });
  list.append(...buttons);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const at = buttons.indexOf(document.activeElement) + step;
    if (!step || !buttons[at]) return;
    buttons[at].focus();
    buttons[at].click();
  });
  list.mark = () => buttons.forEach((button, at) => {
    const chosen = grid()[field] === values[at];
    button.setAttribute("aria-selected", chosen);
    button.tabIndex = chosen ? 0 : -1;
  });
  return [element("div", { class: "tabs" }, element("span", {}, label), list)];
}

/** Shows the grid with this value that is most similar to the shown one. */
function choose(field, value) {
  const like = (one) => ["prompt", "setting", "sample"].filter((other) => one[other] === grid()[other]).length;
  const those = data.grids.filter((one) => one[field] === value);
  const best = those.reduce((best, one) => (like(one) > like(best) ? one : best));
  state.grid = data.grids.indexOf(best);
  markTabs();
  build();
}

function markTabs() {
  document.querySelectorAll("[role=tablist]").forEach((list) => list.mark());
}

function choice(id, options, changed) {
  const select = byId(id);
  select.append(...options.map(([value, name]) => element("option", { value }, name)));
  select.addEventListener("change", () => changed(select.value));
}

function buildTabs() {
  byId("tabs").replaceChildren(
    ...tabList("Prompt", "prompt", (at) => data.prompts[at].text),
    ...tabList("Injection", "setting", (at) => data.settings[at].label),
    ...tabList("Sample", "sample", (at) => String(at + 1)),
  );
  markTabs();
}

function followControls() {
  choice("show", [["text", "text"], ["words", "main words"], ["colour", "colour only"]], (value) => {
    state.show = value;
    build();
  });
  choice("colour", Object.entries(MEASURES).map(([value, measure]) => [value, measure.name]), (value) => {
    state.colour = value;
    draw();
  });
  choice("side", [["both", "both"], ["before", "before"], ["after", "after"]], (value) => {
    state.side = value;
    build();
  });
  byId("side-label").hidden = data.runs.length === 1;
  byId("find").addEventListener("input", (event) => {
    state.find = event.target.value;
    draw();
  });
  byId("theme").addEventListener("click", () => {
    state.theme = isDark() ? "light" : "dark";
    showTheme();
    remember();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
}

const isDark = () =>
  state.theme === "dark" || (state.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);

function showTheme() {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
}

/** On paper, a wide grid is split into tables of few tokens, with all texts whole. */
function followPrinter() {
  addEventListener("beforeprint", () => {
    const now = { ...view(), show: "text" };
    const tokens = grid().tokens.map((_, at) => at);
    const tables = [];
    for (let from = 0; from < tokens.length; from += FEW_TOKENS) {
      tables.push(
        table(grid(), tokens.slice(from, from + FEW_TOKENS), (td, pair) => {
          colour(td, pair, now);
          td.append(...contents(pair, now));
        }),
      );
    }
    byId("paper").replaceChildren(...tables);
  });
  addEventListener("afterprint", () => byId("paper").replaceChildren());
}

/** Stores the view in the address. */
function remember() {
  const kept = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== START[name]) kept.set(name, value);
  }
  history.replaceState(null, "", "#" + kept);
}

/** Restores the view from the address, as far as it is valid here. */
function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const index = Number(kept.get("grid"));
  if (data.grids[index]) state.grid = index;
  const known = {
    show: ["text", "words", "colour"],
    colour: Object.keys(MEASURES),
    side: ["both", "before", "after"],
    theme: ["light", "dark"],
  };
  for (const [name, values] of Object.entries(known)) {
    if (values.includes(kept.get(name))) state[name] = kept.get(name);
  }
  state.find = kept.get("find") ?? "";
}

const START = { ...state };
recall();
showTheme();
followControls();
followTable();
followPrinter();
// Before there is a table, since browsers lay the page out when a field gets its text.
byId("colour").value = state.colour;
byId("side").value = state.side;
byId("find").value = state.find;
// A live page has no grid yet.
if (data.grids.length) {
  byId("show").value = view().show;
  buildTabs();
  build();
}
