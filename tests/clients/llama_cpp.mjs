// Questions to llama.cpp, one JSON object {model, texts, prompt, count} a line on stdin, one answer a line on stdout.
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

for await (const line of createInterface({input: process.stdin})) {
  const found = await answer(JSON.parse(line)).catch((error) => ({error: String(error)}));
  process.stdout.write(JSON.stringify(found) + "\n");
}
process.exit(0);
