// Real clients behind rules: node rules_client.mjs NODE_MODULES openai|anthropic|mcp … -> what they got, or the error that they raise, as JSON.
//   openai|anthropic MODEL MAX_TOKENS plain|stream|responses|file      mcp URL TOOL
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
const [modules, what, ...args] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(createRequire(path.join(modules, 'x.js')).resolve(name)).href);

async function openai() {
  const { default: OpenAI } = await load('openai');
  const client = new OpenAI({ apiKey: 'placeholder', maxRetries: 0 });
  const [model, max, how] = args;
  if (how === 'responses') return (await client.responses.create({ model, max_output_tokens: +max, input: 'hi' })).output_text;
  const content = how === 'file' ? [{ type: 'image_url', image_url: { url: 'data:image/png;base64,' + 'QUJD'.repeat(1 << 18) } }] : 'hi';
  const body = { model, max_completion_tokens: +max, messages: [{ role: 'user', content }] };
  if (how !== 'stream') return (await client.chat.completions.create(body)).choices[0].message.content;
  let text = '';
  for await (const part of await client.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } })) text += part.choices[0]?.delta?.content ?? '';
  return text;
}

async function anthropic() {
  const { default: Anthropic } = await load('@anthropic-ai/sdk');
  const client = new Anthropic({ apiKey: 'placeholder', maxRetries: 0 });
  const [model, max, how] = args;
  const content = how === 'file' ? [{ type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'QUJD'.repeat(1 << 18) } }] : 'hi';
  const body = { model, max_tokens: +max, messages: [{ role: 'user', content }] };
  const message = how === 'stream' ? await client.messages.stream(body).finalMessage() : await client.messages.create(body);
  return message.content.map((c) => c.text).join('');
}

async function mcp() {
  const { Client } = await load('@modelcontextprotocol/sdk/client/index.js');
  const { StreamableHTTPClientTransport } = await load('@modelcontextprotocol/sdk/client/streamableHttp.js');
  const client = new Client({ name: 'sandbox', version: '1' });
  await client.connect(new StreamableHTTPClientTransport(new URL(args[0])));
  const tools = (await client.listTools()).tools.map((t) => t.name);
  let called;
  try { called = (await client.callTool({ name: args[1], arguments: {} })).content[0].text; } catch (e) { called = `error: ${e.message}`; }
  await client.close();
  return { tools, called };
}

let out;
try { out = { got: await { openai, anthropic, mcp }[what]() }; } catch (e) { out = { error: e.message, status: e.status }; }
console.log(JSON.stringify(out));
process.exit(0);
