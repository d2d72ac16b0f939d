// Questions to llama.cpp, one JSON object a line on stdin, one answer a line on stdout: {model, texts, prompt, count} opens
// a file; {model, prompts, candidates} asks for the log-probability of each candidate token after each prompt.
// usage: node llama_cpp.mjs URL/OF/node-llama-cpp/dist/index.js
import {createInterface} from "node:readline";

const {getLlama, LlamaLogLevel} = await import(process.argv[2]);
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error, maxThreads: 1});

async function answer({model: modelPath, texts, prompt, count}) {
  const model = await llama.loadModel({modelPath});
  const context = await model.createContext({contextSize: 512});
  const greedy = [];
  for await (const token of context.getSequence().evaluate(prompt, {temperature: 0})) {
    greedy.push(token);
    if (greedy.length === count) break;
  }
  const {general, tokenizer} = model.fileInfo.metadata;
  const found = {
    architecture: general.architecture,
    chat_template: tokenizer.chat_template ?? null,
    eos: model.tokens.eos,
    adds_bos: model.tokens.shouldPrependBosToken,
    texts: texts.map((text) => Array.from(model.tokenize(text, true))),
    greedy,
  };
  await model.dispose();
  return found;
}

async function weigh({model: modelPath, prompts, candidates}) {
  const model = await llama.loadModel({modelPath});
  const sequence = (await model.createContext({contextSize: 1024})).getSequence();
  const found = [];
  for (const prompt of prompts) {
    await sequence.clearHistory();
    const last = [prompt.at(-1), {generateNext: {probabilities: true}}];
    const results = await sequence.controlledEvaluate([...prompt.slice(0, -1), last]);
    const next = results[prompt.length - 1].next.probabilities;
    found.push(candidates.map((token) => Math.log(next.get(token))));
  }
  await model.dispose();
  return {found};
}

for await (const line of createInterface({input: process.stdin})) {
  const question = JSON.parse(line);
  const found = await (question.prompts ? weigh : answer)(question).catch((error) => ({error: String(error)}));
  process.stdout.write(JSON.stringify(found) + "\n");
}
process.exit(0);
