// Asking: prompts, cells, and stopping.

/** Requests in progress: the controllers that abort them. */
const asking = new Set();

const numberOf = (id) => Number(byId(id).value);

/** The form's settings, in the form that /interpret takes. */
function settings() {
  const own = byId("template").value === "own";
  const temperature = numberOf("temperature");
  const chosen = {
    inject_layer: numberOf("inject-layer"),
    mode: byId("mode").value,
    strength: numberOf("strength"),
    max_new_tokens: numberOf("max-new-tokens"),
    seed: numberOf("seed"),
    controls: [...document.querySelectorAll("#controls input:checked")].map((box) => box.value),
  };
  if (own) chosen.interpretation_prompt = JSON.parse(byId("own").value);
  else chosen.template = byId("template").value;
  if (temperature > 0) Object.assign(chosen, { temperature, samples: numberOf("samples") });
  return chosen;
}

/** The index of the form's settings among the page's. */
function settingOf(chosen) {
  const key = JSON.stringify({ ...chosen, samples: 0 });
  const known = data.settings.findIndex((setting) => setting.key === key);
  if (known >= 0) return known;
  const template = chosen.template ?? "custom parts";
  const more = template === "summarize" ? "" : `, ${template}`;
  const label = `injected at layer ${chosen.inject_layer}, ${chosen.mode}, strength ${chosen.strength}${more}`;
  return data.settings.push({ key, label, options: "" }) - 1;
}

/** Tokenizes the typed prompt, and shows an empty grid for it. */
async function askTokens() {
  const text = byId("text").value;
  const system = byId("system").value;
  const chat = [{ role: "user", content: text }];
  if (system) chat.unshift({ role: "system", content: system });
  const body = byId("chat").checked ? { chat } : { prompt: text };
  try {
    const got = await (await post("/tokenize", body)).json();
    let at = data.prompts.findIndex((prompt) => prompt.id === got.prompt);
    if (at < 0) {
      const { prompt: id, tokens, layers } = got;
      at = data.prompts.push({ id, body, text: clean(got.text), command: "", tokens, layers }) - 1;
    }
    tell(`${got.tokens.length} tokens, ${got.layers} layers`);
    here = { y: 0, x: got.tokens.length - 1 };
    showGrid(gridOf(at, settingOf(settings()), 0));
    cells[here.y][here.x].scrollIntoView({ block: "nearest", inline: "nearest" });
  } catch (error) {
    tell(error.message, true);
  }
}

/** Interprets cells of the shown prompt, given as [layer, token] pairs, with the form's settings. */
async function askCells(pairs) {
  if (!data.grids.length) return;
  const prompt = grid().prompt;
  let chosen;
  try {
    chosen = settings();
  } catch {
    return tell("the parts are not JSON: a list of texts, with 0 for each placeholder", true);
  }
  const setting = settingOf(chosen);
  const count = chosen.samples ?? 1;
  const of = Array.from({ length: count }, (_, sample) => gridOf(prompt, setting, sample));
  if (grid().prompt !== prompt || grid().setting !== setting) showGrid(of[0]);
  for (const one of of) {
    for (const [y, x] of pairs) {
      const key = `${y} ${x}`;
      one.busy.set(key, (one.busy.get(key) ?? 0) + runs().length);
    }
  }
  hooks.built();
  buildTabs();
  await Promise.all(runs().map((edits, run) => stream({ prompt, of, run, edits, pairs, chosen })));
}

/** Sends one request for cells, and handles its events. */
async function stream({ prompt, of, run, edits, pairs, chosen }) {
  const controller = new AbortController();
  asking.add(controller);
  byId("stop").disabled = false;
  const total = pairs.length * of.length;
  const began = performance.now();
  let [rows, told] = [0, 0];
  const waiting = new Set(of.flatMap((_, sample) => pairs.map(([y, x]) => `${sample} ${y} ${x}`)));
  const ask = () => post("/interpret", { ...chosen, prompt: data.prompts[prompt].id, cells: pairs, edits, format: "explorer" }, controller.signal);
  const take = (name, event) => {
    if (name === "error") throw new Error(event.error.message);
    if (name === "failed") return tell(event.message, true);
    if (name === "done") return tell(`${event.rows} of ${total} cells done`);
    const from = event.explorer.grids[0];
    waiting.delete(`${event.sample} ${from.layers[0]} ${from.tokens[0].index}`);
    takeCell(of[event.sample], run, event.explorer);
    rows++;
    // Screen readers announce this, so it must not change too often.
    if (performance.now() - told > 1000) {
      told = performance.now();
      const rate = (rows / (told - began)) * 1000;
      tell(`${rows} of ${total} cells, ${rate.toFixed(1)} per second`);
    }
  };
  try {
    let response;
    try {
      response = await ask();
    } catch (error) {
      // The server may have forgotten the prompt: send it again and retry.
      if (!/no prompt/.test(error.message)) throw error;
      await post("/tokenize", data.prompts[prompt].body, controller.signal);
      response = await ask();
    }
    await events(response, take);
  } catch (error) {
    if (error.name === "AbortError") tell(`stopped: ${rows} of ${total} cells done`);
    else tell(error.message, true);
  } finally {
    controller.abort();
    asking.delete(controller);
    byId("stop").disabled = !asking.size;
    for (const one of waiting) {
      const [sample, y, x] = one.split(" ").map(Number);
      done(of[sample], y, x);
    }
  }
}

function stop() {
  for (const controller of asking) controller.abort();
}

const ASKS = {
  cell: () => [[here.y, here.x]],
  row: () => grid().tokens.map((_, x) => [here.y, x]),
  column: () => grid().layers.map((_, y) => [y, here.x]),
  all: () => grid().layers.flatMap((_, y) => grid().tokens.map((__, x) => [y, x])),
};
const ask = (what) => data.grids.length && askCells(ASKS[what]());

function followAsking() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    askTokens();
  });
  byId("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("ask").requestSubmit();
  });
  byId("chat").addEventListener("change", () => (byId("system-label").hidden = !byId("chat").checked));
  byId("template").addEventListener("change", () => (byId("own-label").hidden = byId("template").value !== "own"));
  for (const what of Object.keys(ASKS)) byId(`ask-${what}`).addEventListener("click", () => ask(what));
  byId("stop").addEventListener("click", stop);
  const scroll = byId("scroll");
  scroll.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !event.target.closest("td")) return;
    const what = { Enter: "cell", r: "row", t: "column", a: "all" }[event.key];
    if (what) ask(what);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
  });
  scroll.addEventListener("click", (event) => {
    const td = event.target.closest("td");
    const th = event.target.closest("th");
    if (td && grid().cells[td.y][td.x].every((cell) => !cell) && !isBusy(grid(), td.y, td.x)) return askCells([[td.y, td.x]]);
    if (!th) return;
    if (th.classList.contains("corner")) return ask("all");
    const along = [...th.parentElement.children].indexOf(th) - 1;
    if (along >= 0) {
      go(here.y, along);
      return ask("column");
    }
    go([...th.closest("tbody").children].indexOf(th.parentElement), here.x);
    ask("row");
  });
  // Stop everything when the page goes away: the server sees the connection close.
  addEventListener("pagehide", stop);
}

async function start() {
  const response = await fetch("/settings");
  server = await response.json();
  const options = (id, names) => byId(id).append(...names.map((name) => element("option", { value: name }, name)));
  options("template", server.templates);
  byId("template").append(element("option", { value: "own" }, "custom parts"));
  options("mode", server.modes);
  options("steer-mode", server.modes);
  byId("steer-mode").value = "add-matched";
  byId("inject-layer").max = server.n_layers - 1;
  byId("inject-layer").value = Math.min(1, server.n_layers - 1);
  byId("max-new-tokens").max = server.limits.max_new_tokens;
  byId("chat").disabled = !server.chat;
  byId("controls").append(
    ...server.controls.map((name) => {
      const box = element("input", { type: "checkbox", value: name });
      return element("label", {}, box, name);
    }),
  );
  byId("about").textContent = `${server.n_layers} layers, d_model ${server.d_model}, ${server.dtype}, ${server.device}`;
  byId("scroll").append(
    element("p", { class: "welcome" }, "Type a prompt and press Enter. Its tokens appear across, layers down. Click a cell, ",
      "the header of a layer or a token, or “layer” for all, and the model says what it holds there."),
  );
  byId("text").focus();
}
