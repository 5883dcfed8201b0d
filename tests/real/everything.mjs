// An MCP server that has what the conformance suite asks for, in both generations of the transport: sessions (up to 2025-11-25)
// and none (2026-07-28). node everything.mjs NODE_MODULES PORT; prints { ready }, and a JSON line for each request that it got.
import { createRequire } from 'node:module';
import { randomUUID } from 'node:crypto';
import http from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, port] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(createRequire(path.join(modules, 'x.js')).resolve(name)).href);
const { McpServer, ResourceTemplate, completable, createMcpHandler, createRequestStateCodec, fromJsonSchema, inputRequired, inputResponse,
  isLegacyRequest } = await load('@modelcontextprotocol/server');
const { NodeStreamableHTTPServerTransport, localhostHostValidation, localhostOriginValidation, toNodeHandler, toWebRequest } = await load('@modelcontextprotocol/node');
const { z } = await load('zod');
const say = (o) => process.stdout.write(JSON.stringify(o) + '\n');
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const WAV = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA=';
const text = (t) => ({ content: [{ type: 'text', text: t }] });
const image = { type: 'image', data: PNG, mimeType: 'image/png' };
const state = createRequestStateCodec({ key: 'a key of the tests, thirty-two bytes long' });
const form = (...names) => ({ type: 'object', properties: Object.fromEntries(names.map((n) => [n, { type: n === 'ok' ? 'boolean' : 'string' }])), required: names });
const ask = (message, ...names) => inputRequired.elicit({ message, requestedSchema: form(...names) });
const sample = (t, maxTokens) => inputRequired.createMessage({ messages: [{ role: 'user', content: { type: 'text', text: t } }], maxTokens });
const accepted = (ctx, key) => { const v = inputResponse(ctx.mcpReq.inputResponses, key); return v.kind === 'elicit' && v.action === 'accept' && v.content; };
const given = (ctx, key) => ctx.mcpReq.inputResponses?.[key];
const defaults = { type: 'object', properties: { name: { type: 'string', default: 'John Doe' }, age: { type: 'integer', default: 30 }, score: { type: 'number', default: 95.5 },
  status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' }, verified: { type: 'boolean', default: true } }, required: [] };
const titled = (...t) => t.map((title, i) => ({ const: `value${i + 1}`, title }));
const enums = { type: 'object', required: [], properties: { untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
  titledSingle: { type: 'string', oneOf: titled('First Option', 'Second Option', 'Third Option') },
  legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
  untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2', 'option3'] } },
  titledMulti: { type: 'array', items: { anyOf: titled('First Choice', 'Second Choice', 'Third Choice') } } } };
const wide = { $schema: 'https://json-schema.org/draft/2020-12/schema', type: 'object', $defs: { address: { $anchor: 'addressDef', type: 'object',
  properties: { street: { type: 'string' }, city: { type: 'string' } } } }, properties: { name: { type: 'string' }, address: { $ref: '#/$defs/address' },
  contactMethod: { type: 'string', enum: ['phone', 'email'] }, phone: { type: 'string' }, email: { type: 'string' } }, allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
  if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] }, then: { required: ['phone'] }, else: { required: ['email'] }, additionalProperties: false };

// name: [what it does, its arguments]
const tools = {
  test_simple_text: [() => text('This is a simple text response for testing.')],
  test_image_content: [() => ({ content: [image] })],
  test_audio_content: [() => ({ content: [{ type: 'audio', data: WAV, mimeType: 'audio/wav' }] })],
  test_embedded_resource: [() => ({ content: [{ type: 'resource', resource: { uri: 'test://embedded-resource', mimeType: 'text/plain', text: 'This is an embedded resource content.' } }] })],
  test_multiple_content_types: [() => ({ content: [{ type: 'text', text: 'Multiple content types test:' }, image,
    { type: 'resource', resource: { uri: 'test://mixed-content-resource', mimeType: 'application/json', text: '{"test":"data","value":123}' } }] })],
  test_tool_with_logging: [async (a, ctx) => {
    for (const line of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) { await ctx.mcpReq.log('info', line); await pause(20); }
    return text('done');
  }],
  test_error_handling: [() => { throw new Error('This tool intentionally returns an error for testing'); }],
  test_tool_with_progress: [async (a, ctx) => {
    const progressToken = ctx.mcpReq._meta?.progressToken;
    for (const progress of [0, 50, 100]) {
      if (progressToken !== undefined) await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
      await pause(20);
    }
    return text(String(progressToken));
  }],
  test_sampling: [async (a, ctx) => text('LLM response: ' + (await ctx.mcpReq.requestSampling({ messages: [{ role: 'user', content: { type: 'text', text: a.prompt } }], maxTokens: 100 })).content.text),
    { prompt: z.string() }],
  test_elicitation: [async (a, ctx) => text('User response: ' + JSON.stringify(await ctx.mcpReq.elicitInput({ message: a.message, requestedSchema: form('username', 'email') }))), { message: z.string() }],
  test_elicitation_sep1034_defaults: [async (a, ctx) => {
    const r = await ctx.mcpReq.elicitInput({ message: 'Defaults', requestedSchema: defaults });
    return text(`Elicitation completed: action=${r.action}, content=${JSON.stringify(r.content)}`);
  }],
  test_elicitation_sep1330_enums: [async (a, ctx) => {
    const r = await ctx.mcpReq.elicitInput({ message: 'Enums', requestedSchema: enums });
    return text(`Elicitation completed: action=${r.action}, content=${JSON.stringify(r.content)}`);
  }],
  test_reconnection: [async (a, ctx) => { ctx.http?.closeSSE?.(); await pause(100); return text('reconnected'); }],
  json_schema_2020_12_tool: [() => text('ok'), fromJsonSchema(wide)],
  test_custom_headers: [(a) => text(JSON.stringify(a)), fromJsonSchema({ type: 'object', properties: { region: { type: 'string', 'x-mcp-header': 'Region' }, query: { type: 'string' } }, required: [] })],
  test_missing_capability: [(a, ctx) => (given(ctx, 'what') ? text('ok') : inputRequired({ inputRequests: { what: sample('What?', 50) } }))],
  test_streaming_elicitation: [async (a, ctx) => {
    await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken: ctx.mcpReq._meta?.progressToken ?? 0, progress: 1, total: 2 } });
    return accepted(ctx, 'user') ? text('ok') : inputRequired({ inputRequests: { user: ask('Who?', 'name') } });
  }],
  test_logging_tool: [async (a, ctx) => { await ctx.mcpReq.log('info', 'logged'); return text('ok'); }],
  test_trigger_tool_change: [() => { handler.notify.toolsChanged(); return text('ok'); }],
  test_trigger_prompt_change: [() => { handler.notify.promptsChanged(); return text('ok'); }],
  test_input_required_result_elicitation: [(a, ctx) => { const v = accepted(ctx, 'user_name'); return v?.name ? text(`Hello, ${v.name}!`) : inputRequired({ inputRequests: { user_name: ask('What is your name?', 'name') } }); }],
  test_input_required_result_sampling: [(a, ctx) => { const v = given(ctx, 'capital_question'); return v ? text(v.content.text) : inputRequired({ inputRequests: { capital_question: sample('What is the capital of France?', 100) } }); }],
  test_input_required_result_list_roots: [(a, ctx) => { const v = given(ctx, 'client_roots'); return v ? text(v.roots.map((r) => r.uri).join(' ')) : inputRequired({ inputRequests: { client_roots: inputRequired.listRoots() } }); }],
  test_input_required_result_request_state: [async (a, ctx) => given(ctx, 'confirm') && ctx.mcpReq.requestState()?.of === 'confirm' ? text('state-ok')
    : inputRequired({ inputRequests: { confirm: ask('Please confirm', 'ok') }, requestState: await state.mint({ of: 'confirm' }) })],
  test_input_required_result_tampered_state: [async (a, ctx) => given(ctx, 'confirm') && ctx.mcpReq.requestState() ? text('state-ok')
    : inputRequired({ inputRequests: { confirm: ask('Please confirm', 'ok') }, requestState: await state.mint({ of: 'tampered' }) })],
  test_input_required_result_multiple_inputs: [async (a, ctx) => ['user_name', 'greeting', 'client_roots'].every((k) => given(ctx, k)) ? text('all of them')
    : inputRequired({ inputRequests: { user_name: ask('What is your name?', 'name'), greeting: sample('Generate a greeting', 50), client_roots: inputRequired.listRoots() },
      requestState: await state.mint({ of: 'many' }) })],
  test_input_required_result_multi_round: [async (a, ctx) => {
    const at = ctx.mcpReq.requestState()?.round ?? 0;
    if (at === 2 && accepted(ctx, 'step2')) return text('both rounds');
    if (at === 1 && accepted(ctx, 'step1')) return inputRequired({ inputRequests: { step2: ask('Step 2: What is your favorite color?', 'color') }, requestState: await state.mint({ round: 2 }) });
    return inputRequired({ inputRequests: { step1: ask('Step 1: What is your name?', 'name') }, requestState: await state.mint({ round: 1 }) });
  }],
  test_input_required_result_capabilities: [(a, ctx) => {
    const can = ctx.mcpReq.envelope?.['io.modelcontextprotocol/clientCapabilities'] ?? {};
    const inputRequests = { ...(can.elicitation && { who: ask('Who?', 'name') }), ...(can.sampling && { what: sample('What?', 50) }) };
    return Object.keys(inputRequests).length && !ctx.mcpReq.inputResponses ? inputRequired({ inputRequests }) : text('ok');
  }],
};
const say_ = (t) => ({ role: 'user', content: { type: 'text', text: t } });
const embedded = (uri) => ({ role: 'user', content: { type: 'resource', resource: { uri, mimeType: 'text/plain', text: 'Embedded resource content for testing.' } } });
const prompts = {
  test_simple_prompt: [() => ({ messages: [say_('This is a simple prompt for testing.')] })],
  test_prompt_with_arguments: [(a) => ({ messages: [say_(`Prompt with arguments: arg1='${a.arg1}', arg2='${a.arg2}'`)] }),
    { arg1: completable(z.string(), (v) => ['paris', 'park', 'party'].filter((w) => w.startsWith(v))), arg2: z.string() }],
  test_prompt_with_embedded_resource: [(a) => ({ messages: [embedded(a.resourceUri), say_('Please process the embedded resource above.')] }), { resourceUri: z.string() }],
  test_prompt_with_image: [() => ({ messages: [{ role: 'user', content: image }, say_('Please analyze the image above.')] })],
  test_input_required_result_prompt: [(a, ctx) => accepted(ctx ?? a, 'user_context') ? { messages: [say_('with context')] }
    : inputRequired({ inputRequests: { user_context: ask('What context should the prompt use?', 'context') } })],
};

function make(modern) {
  const server = new McpServer({ name: 'everything', version: '1' }, { capabilities: { logging: {}, resources: { subscribe: true, listChanged: true }, tools: { listChanged: true },
    prompts: { listChanged: true } }, requestState: { verify: state.verify }, cacheHints: { 'tools/list': { ttlMs: 60000, cacheScope: 'public' } } });
  for (const [name, [run, args]] of Object.entries(tools)) {
    const inputSchema = args && (args['~standard'] ? args : z.object(args));
    server.registerTool(name, { description: name, ...(inputSchema && { inputSchema }) }, (...a) => (inputSchema ? run(...a) : run({}, a.at(-1))));
  }
  for (const [name, [run, args]] of Object.entries(prompts)) server.registerPrompt(name, { description: name, ...(args && { argsSchema: z.object(args) }) }, run);
  const read = (uri, mimeType, more) => ({ contents: [{ uri: String(uri), mimeType, ...more }] });
  server.registerResource('static-text', 'test://static-text', { description: 'text', mimeType: 'text/plain' }, (u) => read(u, 'text/plain', { text: 'This is the content of the static text resource.' }));
  server.registerResource('static-binary', 'test://static-binary', { description: 'binary', mimeType: 'image/png' }, (u) => read(u, 'image/png', { blob: PNG }));
  server.registerResource('watched', 'test://watched-resource', { description: 'watched', mimeType: 'text/plain' }, (u) => read(u, 'text/plain', { text: 'watched' }));
  server.registerResource('template', new ResourceTemplate('test://template/{id}/data', { list: undefined }), { description: 'template', mimeType: 'application/json' },
    (u, { id }) => read(u, 'application/json', { text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }));
  if (!modern) for (const m of ['resources/subscribe', 'resources/unsubscribe']) server.server.setRequestHandler(m, () => ({}));
  return server;
}

const handler = createMcpHandler(() => make(true), { legacy: 'reject' });
const modern = toNodeHandler(handler), sessions = new Map(), hosts = localhostHostValidation(), origins = localhostOriginValidation();
const events = () => { const kept = []; return { storeEvent: async (stream, message) => { kept.push({ stream, message, id: `${stream}_${kept.length}` }); return kept.at(-1).id; },
  replayEventsAfter: async (last, { send }) => { const at = kept.findIndex((e) => e.id === last), stream = kept[at]?.stream;
    for (const e of kept.slice(at + 1)) if (e.stream === stream && e.message.method !== undefined | e.message.id !== undefined) await send(e.id, e.message);
    return stream; } }; };
http.createServer(async (req, res) => {
  say({ event: 'request', method: req.method, headers: req.headers });
  if (!hosts(req, res) || !origins(req, res)) return;
  const parts = [];
  for await (const part of req) parts.push(part);
  let body;
  try { body = parts.length ? JSON.parse(Buffer.concat(parts)) : undefined; } catch { return res.writeHead(400).end(); }
  const id = req.headers['mcp-session-id'];
  if (!id && !(await isLegacyRequest(await toWebRequest(req, body), body))) return modern(req, res, body);
  let transport = sessions.get(id);
  if (id && !transport) return res.writeHead(404, { 'content-type': 'application/json' }).end('{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}');
  if (!transport) {
    transport = new NodeStreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, eventStore: events(), retryInterval: 50, onsessioninitialized: (s) => { sessions.set(s, transport); },
      onsessionclosed: (s) => { sessions.delete(s); } });
    await make(false).connect(transport);
  }
  await transport.handleRequest(req, res, body);
}).listen(Number(port), '127.0.0.1', () => say({ ready: true }));
