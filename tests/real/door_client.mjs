// The MCP SDK's second generation of clients with its OAuth provider: node door_client.mjs NODE_MODULES URL PORT ERA [CLIENT_ID SECRET]
// ERA: `legacy` (sessions) or a revision. Prints { open } where a person has to go, waits for them at http://127.0.0.1:PORT/callback, then
// { version, tools, text, refused }.
import { createRequire } from 'node:module';
import http from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
const [modules, url, port, era, client_id, client_secret] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(createRequire(path.join(modules, 'x.js')).resolve(name)).href);
const { Client, StreamableHTTPClientTransport, UnauthorizedError } = await load('@modelcontextprotocol/client');
const say = (o) => process.stdout.write(JSON.stringify(o) + '\n');
const redirect = `http://127.0.0.1:${port}/callback`, kept = { client: client_id && { client_id, client_secret } };
let arrived;
const back = new Promise((done) => { arrived = done; });
const server = http.createServer((req, res) => { res.end('done'); arrived(new URL(req.url, redirect).searchParams); }).listen(Number(port), '127.0.0.1');
const authProvider = {
  redirectUrl: redirect,
  clientMetadata: { client_name: 'Second SDK', redirect_uris: [redirect], grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'], token_endpoint_auth_method: 'none' },
  state: () => 'a-state', clientInformation: () => kept.client, saveClientInformation: (c) => { kept.client = c; }, tokens: () => kept.tokens, saveTokens: (t) => { kept.tokens = t; },
  redirectToAuthorization: (u) => say({ open: String(u) }), saveCodeVerifier: (v) => { kept.verifier = v; }, codeVerifier: () => kept.verifier,
};
const mode = era === 'legacy' ? era : { pin: era };
const connect = async () => {
  const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider });
  const client = new Client({ name: 'second', version: '1' }, { versionNegotiation: { mode } });
  try { await client.connect(transport); return client; } catch (e) {
    if (!(e instanceof UnauthorizedError) && !(e.cause instanceof UnauthorizedError)) throw e;
    await transport.finishAuth(await back);
  }
};
const client = await connect() ?? await connect();
const tools = (await client.listTools()).tools.map((t) => t.name);
const text = (await client.callTool({ name: 'test_simple_text', arguments: {} })).content[0].text;
const custom = (await client.callTool({ name: 'test_custom_headers', arguments: { region: 'eu, \u00fc', query: 'q' } })).content[0].text;
let hidden;
try { hidden = (await client.callTool({ name: 'create_page', arguments: {} })).content; } catch (e) { hidden = String(e); }
say({ version: client.getNegotiatedProtocolVersion?.(), tools, text, custom, hidden, tokens: kept.tokens });
await client.close();
server.close();
process.exit(0);
