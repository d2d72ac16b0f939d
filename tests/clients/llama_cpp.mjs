// One question to llama.cpp: JSON on stdin {model, texts, prompt, count}, JSON on stdout.
// usage: node llama_cpp.mjs PATH/TO/node-llama-cpp/dist/index.js
const {getLlama, LlamaLogLevel} = await import(process.argv[2]);
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const {model: modelPath, texts, prompt, count} = JSON.parse(Buffer.concat(chunks).toString());
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error, maxThreads: 1});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({contextSize: 512});
const greedy = [];
for await (const token of context.getSequence().evaluate(prompt, {temperature: 0})) {
  greedy.push(token);
  if (greedy.length === count) break;
}
const {general, tokenizer} = model.fileInfo.metadata;
process.stdout.write(JSON.stringify({
  architecture: general.architecture,
  chat_template: tokenizer.chat_template ?? null,
  eos: model.tokens.eos,
  adds_bos: model.tokens.shouldPrependBosToken,
  texts: texts.map((text) => Array.from(model.tokenize(text, true))),
  greedy,
}));
process.exit(0);
