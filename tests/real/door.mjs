// What stands on both sides of the door, built with the MCP SDK.
//   node door.mjs NODE_MODULES server PORT   an MCP server that asks nobody for a token and tells what it got; tools get_page, set_page, create_page
//   node door.mjs NODE_MODULES client URL    a client with the SDK's OAuth provider. It prints a JSON line an event ({ open }: the address where a
//     person has to go), and reads one a command: { code, iss }, { list }, { call: NAME }, { renew }, { tokens }, { end }
//   node door.mjs NODE_MODULES oidc PORT BOX  the organisation's OpenID provider (oidc-provider), which knows BOX as a client; whoever signs in has
//     the login for a subject and LOGIN@example.org for an e-mail, verified unless the login begins with "un"
import { createRequire } from 'node:module';
import { randomUUID } from 'node:crypto';
import http from 'node:http';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

const [modules, role, at, box] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(createRequire(path.join(modules, 'x.js')).resolve(name)).href);
const say = (o) => process.stdout.write(JSON.stringify(o) + '\n');

if (role === 'oidc') {
  const { Provider } = await import(pathToFileURL(path.join(modules, 'oidc-provider/lib/index.js')).href);
  const provider = new Provider(`http://127.0.0.1:${at}`, {
    clients: [{ client_id: 'box', client_secret: 'canary-oidc-1', redirect_uris: [box + '/login/oidc/callback'], response_types: ['code'], grant_types: ['authorization_code'] }],
    cookies: { keys: ['test'] }, claims: { openid: ['sub'], email: ['email', 'email_verified'] }, conformIdTokenClaims: false, pkce: { required: () => true },
    findAccount: async (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id, email: id + '@example.org', email_verified: !id.startsWith('un') }) }),
    features: { devInteractions: { enabled: true } },
  });
  http.createServer(provider.callback()).listen(Number(at), '127.0.0.1', () => say({ ready: true }));
} else if (role === 'server') {
  const { McpServer } = await load('@modelcontextprotocol/sdk/server/mcp.js');
  const { StreamableHTTPServerTransport } = await load('@modelcontextprotocol/sdk/server/streamableHttp.js');
  const transports = new Map();
  const make = () => {
    const server = new McpServer({ name: 'behind', version: '1' });
    for (const name of ['get_page', 'set_page', 'create_page']) {
      server.registerTool(name, { description: name }, async () => ({ content: [{ type: 'text', text: 'did ' + name }] }));
    }
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, onsessioninitialized: (id) => transports.set(id, transport) });
    return server.connect(transport).then(() => transport);
  };
  http.createServer(async (req, res) => {
    say({ event: 'request', method: req.method, url: req.url, headers: req.headers });
    const id = req.headers['mcp-session-id'];
    const transport = id ? transports.get(id) : await make();
    if (!transport) return res.writeHead(404).end();
    await transport.handleRequest(req, res);
  }).listen(Number(at), '127.0.0.1', () => say({ ready: true }));
} else {
  const { Client } = await load('@modelcontextprotocol/sdk/client/index.js');
  const { StreamableHTTPClientTransport } = await load('@modelcontextprotocol/sdk/client/streamableHttp.js');
  const { auth, UnauthorizedError } = await load('@modelcontextprotocol/sdk/client/auth.js');
  const kept = {};
  const provider = {
    redirectUrl: 'http://127.0.0.1:47113/callback',
    clientMetadata: { client_name: 'SDK client', redirect_uris: ['http://127.0.0.1:47113/callback'], grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'], token_endpoint_auth_method: 'none' },
    state: () => 'state-of-the-sdk',
    clientInformation: () => kept.client, saveClientInformation: (c) => { kept.client = c; },
    tokens: () => kept.tokens, saveTokens: (t) => { kept.tokens = t; },
    redirectToAuthorization: (url) => say({ open: String(url) }),
    saveCodeVerifier: (v) => { kept.verifier = v; }, codeVerifier: () => kept.verifier,
  };
  const transport = () => new StreamableHTTPClientTransport(new URL(at), { authProvider: provider });
  let client, first = transport();
  const connect = async (t) => { client = new Client({ name: 'sdk', version: '1' }); await client.connect(t); };
  try { await connect(first); say({ error: 'it asked for no token' }); } catch (e) { if (!(e instanceof UnauthorizedError)) say({ error: String(e) }); }
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const c = JSON.parse(line);
    try {
      if (c.code) { await first.finishAuth(c.code); await connect(transport()); say({ connected: true }); }
      if (c.list) say({ tools: (await client.listTools()).tools.map((t) => t.name) });
      if (c.call) say({ text: (await client.callTool({ name: c.call, arguments: {} })).content[0].text });
      if (c.renew) { const before = kept.tokens.access_token; await auth(provider, { serverUrl: at }); say({ renewed: kept.tokens.access_token !== before }); }
      if (c.tokens) say({ tokens: kept.tokens, client: kept.client });
      if (c.end) { await first.close(); await client.close(); process.exit(0); }
    } catch (e) { say({ error: String(e), code: e.code, name: e.constructor.name }); }
  }
}
