// An MCP server that wants OAuth, built with the MCP SDK, and its authorization server (oidc-provider), for the tests:
//   node mcp.mjs NODE_MODULES PORT AS_PORT [sse | begin | hidden | bare]
// http://127.0.0.1:PORT/mcp has a tool, `whoami`; its metadata (RFC 9728) names http://127.0.0.1:AS_PORT, which registers
// clients (RFC 7591), wants PKCE, rotates refresh tokens, and gives tokens for that resource alone.
// sse: HTTP with SSE (2024-11-05). begin: `initialize` and its notification need no token, and a session follows; hidden: as
// begin, but what asks for a token looks at the session first, so that only the well-known address tells. bare: as in
// 2025-03-26, without any metadata, with /authorize, /token and /register at its own address.
// Prints one JSON line an event: { ready }, { event, … }.
import { createRequire } from 'node:module';
import http from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, port, asPort, kind] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(createRequire(path.join(modules, 'x.js')).resolve(name)).href);
const { Provider, errors } = await import(pathToFileURL(path.join(modules, 'oidc-provider/lib/index.js')).href);
const { McpServer } = await load('@modelcontextprotocol/sdk/server/mcp.js');
const { StreamableHTTPServerTransport } = await load('@modelcontextprotocol/sdk/server/streamableHttp.js');
const { SSEServerTransport } = await load('@modelcontextprotocol/sdk/server/sse.js');

const say = (o) => process.stdout.write(JSON.stringify(o) + '\n');
const self = `http://127.0.0.1:${port}`, bare = kind === 'bare', issuer = bare ? self : `http://127.0.0.1:${asPort}`;
const at = kind === 'sse' ? '/sse' : '/mcp', resource = self + at;

// -- the authorization server
const provider = new Provider(issuer, {
  cookies: { keys: ['test'] },
  routes: bare ? { authorization: '/authorize', token: '/token', registration: '/register' } : {},
  scopes: ['openid', 'offline_access', 'tools', 'admin'],
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
  ttl: { AccessToken: 3600, RefreshToken: 86400, Grant: 86400, Interaction: 600, Session: 600, AuthorizationCode: 60 },
  findAccount: async (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  clientDefaults: { grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'] },
  features: {
    devInteractions: { enabled: true }, registration: { enabled: true }, revocation: { enabled: true },
    resourceIndicators: {
      enabled: true, defaultResource: async () => undefined, useGrantedResource: async () => true,
      getResourceServerInfo: async (ctx, asked) => {
        if (asked !== resource) throw new errors.InvalidTarget();
        return { scope: 'tools admin', audience: asked, accessTokenFormat: 'opaque', accessTokenTTL: 3600 };
      },
    },
  },
});
for (const event of ['registration_create.success', 'grant.success', 'grant.error']) {
  provider.on(event, (ctx, a) => {
    const p = ctx.oidc?.params ?? {};
    say({ event, grant: p.grant_type, resource: p.resource, error: a?.error, body: event.startsWith('reg') ? ctx.oidc.body : undefined });
  });
}
provider.on('authorization.accepted', (ctx) => say({ event: 'authorization', resource: ctx.oidc.params.resource,
  scope: ctx.oidc.params.scope, method: ctx.oidc.params.code_challenge_method }));

// -- the resource
function mcp(whose) {
  const server = new McpServer({ name: 'test', version: '1' });
  server.registerTool('whoami', { description: 'who asks' }, async () => ({
    content: [{ type: 'text', text: JSON.stringify({ sub: whose().accountId, aud: whose().aud, scope: [...whose().scopes].join(' ') }) }],
  }));
  return server;
}
const sessions = new Map(), transports = new Map();
async function serve(req, res) {
  const url = new URL(req.url, self);
  if (bare && url.pathname !== at && !url.pathname.startsWith('/.well-known/')) return provider.callback()(req, res);
  say({ event: 'call', method: req.method, path: url.pathname, version: req.headers['mcp-protocol-version'], session: req.headers['mcp-session-id'] });
  if (!bare && url.pathname === '/.well-known/oauth-protected-resource' + at) {
    res.writeHead(200, { 'content-type': 'application/json' });
    return res.end(JSON.stringify({ resource, authorization_servers: [issuer], scopes_supported: ['tools'], bearer_methods_supported: ['header'] }));
  }
  if (url.pathname !== at && url.pathname !== '/messages') return res.writeHead(404).end();
  const value = (req.headers.authorization ?? '').replace(/^Bearer /, '');
  say({ event: 'request', method: req.method, bearer: value });
  const token = value && await provider.AccessToken.find(value);
  let body;
  if ((kind === 'begin' || kind === 'hidden') && req.method === 'POST') {
    for await (const part of req) body = (body ?? '') + part;
    body = JSON.parse(body);
    if (body.method === 'initialize' || body.method === 'notifications/initialized') {
      const { randomUUID } = await import('node:crypto');
      const known = transports.get(req.headers['mcp-session-id']);
      const transport = known ?? new StreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, onsessioninitialized: (id) => { transports.set(id, transport); } });
      if (!known) await mcp(() => transport.token).connect(transport);
      return transport.handleRequest(req, res, body);
    }
    if (kind === 'hidden' && !token) return res.writeHead(400).end();
  }
  if (body === undefined && req.method === 'DELETE' && transports.has(req.headers['mcp-session-id'])) {
    return transports.get(req.headers['mcp-session-id']).handleRequest(req, res);
  }
  if (!token || token.aud !== (bare ? undefined : resource)) {
    if (bare) return res.writeHead(401, { 'www-authenticate': 'Bearer scope="openid"' }).end();
    return res.writeHead(401, { 'www-authenticate':
      `Bearer realm="a, b", resource_metadata="${self}/.well-known/oauth-protected-resource${at}", scope="tools"` }).end();
  }
  if (url.searchParams.get('admin') && !token.scopes.has('admin')) {
    return res.writeHead(403, { 'www-authenticate': 'Bearer error="insufficient_scope", scope="tools admin"' }).end();
  }
  if (kind === 'sse') {
    if (req.method === 'GET') {
      const transport = new SSEServerTransport('/messages', res);
      sessions.set(transport.sessionId, transport);
      return mcp(() => token).connect(transport);
    }
    if (url.pathname === at) return res.writeHead(405).end();
    return sessions.get(url.searchParams.get('sessionId'))?.handlePostMessage(req, res) ?? res.writeHead(404).end();
  }
  const open = transports.get(req.headers['mcp-session-id']);
  if (open) {
    open.token = token;
    return open.handleRequest(req, res, body);
  }
  const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
  res.on('close', () => transport.close());
  await mcp(() => token).connect(transport);
  return transport.handleRequest(req, res, body);
}
http.createServer(provider.callback()).listen(Number(asPort), '127.0.0.1', () => {
  http.createServer((req, res) => serve(req, res).catch((e) => { say({ event: 'fault', text: String(e) }); res.writeHead(500).end(); }))
    .listen(Number(port), '127.0.0.1', () => say({ ready: true }));
});
