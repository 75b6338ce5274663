// Continues the prompt, with or without steering by a cell's state.

/** One text, in a paragraph that fills up as tokens arrive. */
async function generate(title, body) {
  const said = element("p", { dir: "auto" });
  byId("texts").append(element("h3", {}, element("bdi", {}, title)), said);
  const controller = new AbortController();
  asking.add(controller);
  byId("stop").disabled = false;
  try {
    await events(await post("/generate", body, controller.signal), (name, event) => {
      if (name === "error") throw new Error(event.error.message);
      if (name === "token") said.textContent += visible(event.text);
    });
  } catch (error) {
    if (error.name !== "AbortError") tell(error.message, true);
  } finally {
    controller.abort();
    asking.delete(controller);
    byId("stop").disabled = !asking.size;
  }
}

/** Generates every text that the form asks for: for each run, unsteered and steered. */
async function askTexts() {
  const of = grid();
  const body = { prompt: data.prompts[of.prompt].id, max_new_tokens: numberOf("max-new-tokens"), seed: numberOf("seed") };
  body.temperature = numberOf("temperature");
  const steer = { layer: of.layers[here.y], token: of.tokens[here.x].index };
  steer.mode = byId("steer-mode").value;
  steer.strength = numberOf("steer-strength");
  if (byId("steer-layer").value !== "") steer.inject_layer = numberOf("steer-layer");
  const cell = `layer ${steer.layer}, token ${steer.token} “${of.tokens[here.x].text.trim()}”`;
  byId("texts").replaceChildren();
  await Promise.all(
    runs().flatMap((edits, run) => {
      const name = data.runs.length === 2 ? `${data.runs[run]}: ` : "";
      const plain = generate(`${name}unsteered`, { ...body, edits });
      if (!byId("steer").checked) return [plain];
      const how = `${steer.mode}, strength ${steer.strength}`;
      return [plain, generate(`${name}steered by ${cell}, ${how}`, { ...body, edits, steer: [steer] })];
    }),
  );
}

function followSteering() {
  byId("continue").addEventListener("click", askTexts);
  byId("scroll").addEventListener("focusin", () => {
    const token = grid().tokens[here.x];
    byId("steer-cell").textContent = `layer ${grid().layers[here.y]}, token ${token.index} “${token.text.trim()}”`;
  });
}

followAsking();
followSteering();
start().catch((error) => tell(error.message, true));
