"use strict";
// Streams the answers of both models into the page. Text goes in as text, never as markup.
const form = document.getElementById("question");
if (form) {
  const state = document.getElementById("state");
  const stop = document.getElementById("stop");
  const ask = form.querySelector("button:not([type])");
  const words = { base: "The base model answers.", adapter: "The adapter answers." };
  let asked = null;

  for (const button of document.querySelectorAll(".prompt")) {
    button.addEventListener("click", () => {
      form.elements.prompt.value = button.dataset.prompt;
      form.requestSubmit();
    });
  }
  stop.addEventListener("click", () => asked && asked.abort());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!asked) answer();
  });

  async function answer() {
    const fields = Object.fromEntries(new FormData(form));
    const numbers = { max_new_tokens: Number(fields.max_new_tokens), temperature: Number(fields.temperature) };
    const shown = document.getElementById("answer").content.cloneNode(true).firstElementChild;
    shown.querySelector("h3").textContent = fields.prompt;
    document.getElementById("answers").prepend(shown);
    asked = new AbortController();
    ask.disabled = true;
    stop.disabled = false;
    state.textContent = "The model is opened; the first answer takes longest.";
    try {
      const response = await fetch("/talk/answer", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...fields, ...numbers }),
        signal: asked.signal,
      });
      state.textContent = (await read(response.body, shown)) || "Both have answered.";
    } catch (error) {
      state.textContent = asked.signal.aborted ? "Stopped." : `The studio does not answer: ${error.message}`;
    }
    asked = null;
    ask.disabled = false;
    stop.disabled = true;
  }

  // Each line is an object: a bit of an answer, or a problem, which is returned.
  async function read(body, shown) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let problem = "";
    for (;;) {
      const { done, value } = await reader.read();
      const lines = (rest + (value || (done ? "\n" : ""))).split("\n");
      rest = lines.pop();
      for (const line of lines.filter(Boolean)) {
        const part = JSON.parse(line);
        if (part.side) {
          shown.querySelector(`[data-side="${part.side}"]`).append(part.text);
          if (state.textContent !== words[part.side]) state.textContent = words[part.side];
        } else {
          problem = part.problem || part.detail;
        }
      }
      if (done) return problem;
    }
  }
}
