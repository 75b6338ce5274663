// The panel beside the grid: one cell in full, and the share of cells that mention a word.

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

/** The command that reproduces this cell. */
function commandOf(grid, y, x) {
  const layer = grid.layers[y];
  const cell = layer === null ? "" : ` --cells ${layer}:${grid.tokens[x].index}`;
  return `${data.prompts[grid.prompt].command}${cell} ${data.settings[grid.setting].options}`;
}

/** Text with escapes for characters that are invisible or change the text direction. */
function visible(text) {
  return text.replace(/[\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

/** A table with a header. */
function listing(name, heads, lines) {
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  return element("table", { class: name }, element("thead", {}, head), element("tbody", {}, ...lines));
}

/** One line per piece: its relevancy as a bar and a number, and its log-probability. */
function pieceTable(cell) {
  const lines = cell.pieces.map((piece, at) => {
    const relevancy = cell.relevancy[at];
    const bar = element("i", { class: "bar" });
    bar.style.setProperty("--r", relevancy ?? 0);
    const text = element("td", { dir: "auto", class: "piece" }, data.pieces[piece].trim() ? data.pieces[piece] : "␣");
    const numbers = [element("td", { class: "bars" }, bar), element("td", {}, number(relevancy))];
    if (cell.logprobs.length) numbers.push(element("td", {}, number(cell.logprobs[at], 2)));
    return element("tr", {}, text, ...numbers);
  });
  const names = ["token", "", "relevancy"].concat(cell.logprobs.length ? ["log p"] : []);
  return listing("pieces", names, lines);
}

function controlTable(cell) {
  const lines = data.controls.flatMap((name, at) => {
    const control = cell.controls?.[at];
    if (!control) return [];
    const evidence = (control.evidence > 0 ? "+" : "") + number(control.evidence, 2);
    return [
      element(
        "tr",
        {},
        element("th", { scope: "row" }, name),
        element("td", {}, evidence),
        element("td", { class: "said", dir: "auto" }, control.text),
      ),
    ];
  });
  if (!lines.length) return [];
  return [listing("controls", ["control", "evidence", "what it says"], lines)];
}

function facts(grid, cell, run) {
  const list = element("dl");
  const fact = (name, value) => list.append(element("dt", {}, name), element("dd", {}, value));
  if (cell.relevancy.length) fact("mean relevancy", number(mean(cell.relevancy)));
  if (cell.logprobs.length) fact("mean log p", `${number(mean(cell.logprobs), 2)} nats per token`);
  fact("model", data.models[run]);
  fact("embedding", data.settings[grid.setting].label);
  if (cell.key) fact("key", element("code", {}, cell.key));
  return list;
}

/** Shows a cell, or a hint if it is empty. */
function showDetails(grid, y, x, view) {
  const details = document.getElementById("details");
  const token = grid.tokens[x];
  const name = grid.layers[y] === null ? `vector ${token.index}` : `layer ${grid.layers[y]}, token ${token.index}`;
  const title = element("h2", {}, name, " ", element("bdi", {}, token.text.trim()));
  const pair = grid.cells[y][x];
  const changed = pair[0] && pair[1] && differs(pair) ? changedWords(...pair) : [];
  const parts = [title];
  pair.forEach((cell, run) => {
    if (data.runs.length === 2) parts.push(element("h3", {}, `${run ? "after" : "before"}: ${data.runs[run]}`));
    if (!cell) return;
    const text = partsOf(cell);
    const marked = matches(text, view.pattern);
    parts.push(element("p", { class: "whole", dir: "auto" }, ...shaded(text, { marked, changed: changed[run] })));
    parts.push(...controlTable(cell), pieceTable(cell), facts(grid, cell, run));
  });
  if (pair.some((cell) => cell)) {
    const copy = element("button", { type: "button", id: "copy" }, "Copy this cell's command");
    copy.addEventListener("click", () => copyCommand(grid, y, x));
    parts.push(copy, element("pre", { class: "command" }, visible(commandOf(grid, y, x))));
    if (data.note) parts.push(element("p", { class: "note" }, data.note));
  } else {
    parts.push(element("p", { class: "note" }, data.empty ?? "No row covers this cell."));
  }
  details.replaceChildren(...parts);
}

async function copyCommand(grid, y, x) {
  const command = commandOf(grid, y, x);
  const said = document.getElementById("said");
  let copied = true;
  try {
    await navigator.clipboard.writeText(command);
  } catch {
    copied = copyBySelection(command);
  }
  said.textContent = copied ? "Command copied." : "The browser blocked copying: select the command instead.";
}

/** A fallback for browsers without a clipboard for files; returns whether it worked. */
function copyBySelection(text) {
  const focused = document.activeElement;
  const field = element("textarea", { class: "copied" });
  field.value = text;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return copied;
}

/** For each layer, the share of its cells that mention the word, in each shown run. */
function sharesOf(grid, view) {
  return grid.cells.map((row) =>
    view.sides.map((side) => {
      const cells = row.map((pair) => pair[side]).filter((cell) => cell);
      return mean(cells.map((cell) => Number(mentioned(cell, view.pattern) !== null))) ?? 0;
    }),
  );
}

/** Plots the shares as bars, layer by layer. */
function showShares(grid, view) {
  const section = document.getElementById("shares");
  section.hidden = !view.pattern;
  if (!view.pattern) return section.replaceChildren();
  const shares = sharesOf(grid, view);
  const [width, height, left, bottom] = [320, 110, 36, 16];
  const step = (width - left) / shares.length;
  const svg = (name, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
    made.append(text);
    return made;
  };
  const top = 6;
  const y = (share) => top + (1 - share) * (height - bottom - top);
  const layers = grid.layers.map((layer) => layer ?? "–");
  const percent = (share) => Math.round(100 * share) + "%";
  const said = shares.map((of, at) => `layer ${layers[at]}: ${of.map(percent).join(" and ")}`);
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said.join(", ") });
  for (const share of [0, 0.5, 1]) {
    plot.append(
      svg("line", { x1: left, x2: width, y1: y(share), y2: y(share) }),
      svg("text", { x: left - 5, y: y(share) + 3, "text-anchor": "end" }, `${100 * share}%`),
    );
  }
  const every = Math.ceil(shares.length / 12);
  shares.forEach((of, at) => {
    const wide = Math.min(step * 0.8, 24) / of.length;
    const from = left + (at + 0.5) * step - (wide * of.length) / 2;
    of.forEach((share, run) => {
      const bar = svg("rect", { x: from + run * wide, y: y(share), width: wide, height: y(0) - y(share) });
      bar.setAttribute("class", `run-${view.sides[run]}`);
      bar.append(svg("title", {}, said[at]));
      plot.append(bar);
    });
    if (at % every === 0) {
      plot.append(svg("text", { x: left + (at + 0.5) * step, y: height - 4, "text-anchor": "middle" }, layers[at]));
    }
  });
  section.replaceChildren(element("h2", {}, "Cells with a match, by layer"), plot);
}
