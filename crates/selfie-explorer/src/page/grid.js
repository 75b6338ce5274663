// The table: the contents and colours of cells.

/** A new element with text or elements inside. */
function element(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...inside);
  return made;
}

/** The parts of a text, shaded by relevancy. `marked` has ranges; `changed` says whether each word differs. */
function shaded(parts, { shade = true, marked = [], changed = null } = {}) {
  const pieces = [];
  let at = 0;
  let word = -1;
  let within = false;
  for (const part of parts) {
    const end = at + part.text.length;
    const cuts = [at, end, ...marked.flat().filter((cut) => cut > at && cut < end)].sort((a, b) => a - b);
    for (let i = 0; i + 1 < cuts.length; i++) {
      // Spaces are separate, so that a word's shade ends with the word.
      for (const text of part.text.slice(cuts[i] - at, cuts[i + 1] - at).split(/(\s+)/)) {
        if (!text.trim()) {
          within &&= !text;
          if (text) pieces.push(text);
          continue;
        }
        if (!within) word++;
        within = true;
        const isMarked = marked.some(([from, to]) => from <= cuts[i] && cuts[i + 1] <= to);
        const piece = element(isMarked ? "mark" : changed?.[word] ? "ins" : "span", {}, text);
        if (shade && part.relevancy >= 0.005) piece.style.setProperty("--r", part.relevancy);
        pieces.push(piece);
      }
    }
    at = end;
  }
  return pieces;
}

/** The contents of a cell: one element per run. */
function contents(pair, view) {
  const both = view.sides.length === 2 && pair[0] && pair[1] && differs(pair);
  const changed = both ? changedWords(...pair) : [];
  return view.sides.map((side) => {
    const text = element("div", { class: "text", dir: "auto" });
    const cell = pair[side];
    if (!cell) return text;
    if (view.show === "words") {
      const words = topWords(cell);
      const parts = words.map((word, at) => ({ ...word, text: (at ? " " : "") + word.text }));
      text.append(...shaded(parts, { shade: view.shade, marked: matches(parts, view.pattern) }));
    } else {
      const parts = partsOf(cell);
      const marked = matches(parts, view.pattern);
      text.append(...shaded(parts, { shade: view.shade, marked, changed: changed[side] }));
    }
    return text;
  });
}

/** The value to colour a cell by, or null. */
function valueOf(pair, view) {
  const measure = view.measure;
  if (measure.ofPair) return measure.ofPair(pair);
  const cell = pair[view.sides[view.sides.length - 1]] ?? null;
  if (!cell) return null;
  if (measure === MEASURES.find) return view.pattern && mentioned(cell, view.pattern);
  if (measure.of) return measure.of(cell);
  // Without text there are no words to shade.
  return view.show === "colour" ? MEASURES.relevancy.of(cell) : null;
}

/** Colours a cell for the style sheet: `--a` is the strength, the class the hue. */
function colour(td, pair, view) {
  const value = valueOf(pair, view);
  const { from, to } = view.scale;
  let strength = value === null ? 0 : to > from ? (value - from) / (to - from) : 1;
  let hue = "plain";
  if (view.measure.diverging && value !== null) {
    strength = Math.abs(value) / (to || 1);
    hue = value < 0 ? "against" : "for";
  }
  if (view.measure === MEASURES.find && value !== null) {
    strength = 0.25 + 0.75 * strength;
    hue = "found";
  }
  const mentions = view.pattern && pair.some((cell, side) => {
    return cell && view.sides.includes(side) && mentioned(cell, view.pattern) !== null;
  });
  td.className = [hue, differs(pair) ? "changed" : "", mentions ? "mentions" : ""].join(" ").trim();
  if (strength) td.style.setProperty("--a", strength.toFixed(3));
  else td.style.removeProperty("--a");
}

function head(grid, tokens) {
  const row = element("tr", {}, element("th", { scope: "col", class: "corner" }, "layer"));
  for (const at of tokens) {
    const { index, text } = grid.tokens[at];
    const shown = text.trim() || (text ? "␣" : "");
    const inside = [element("small", {}, index), element("bdi", {}, shown)];
    row.append(element("th", { scope: "col", title: `token ${index}: ${text}` }, ...inside));
  }
  return element("thead", {}, row);
}

/** The table of some tokens (column indices). Calls `fill` with every cell and its pair. */
function table(grid, tokens, fill) {
  const body = element("tbody");
  grid.layers.forEach((layer, y) => {
    const row = element("tr", {}, element("th", { scope: "row" }, layer ?? "–"));
    for (const x of tokens) {
      const td = document.createElement("td");
      td.y = y;
      td.x = x;
      fill(td, grid.cells[y][x]);
      row.append(td);
    }
    body.append(row);
  });
  return element("table", {}, head(grid, tokens), body);
}
