// An authorization server for the tests: oidc-provider on http://127.0.0.1:PORT, with an API beside it at /api.
//   node oidc.mjs NODE_MODULES PORT KEY.pem [HOST CERT.pem CERT.key: as https://HOST:PORT, over TLS]
// PKCE required, refresh tokens rotate with reuse detection, device flow, revocation, resource indicators, iss in the
// callback. Prints one JSON line an event: { ready } or { event, grant, client, error, token (of a spent refresh token) }.
// GET /mode?name=…: hang (token requests wait), normal. A token request is judged before it waits, so its token is spent.
import { createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, port, keyFile, host, cert, certKey] = process.argv.slice(2);
const { Provider, errors } = await import(pathToFileURL(path.join(modules, 'oidc-provider/lib/index.js')).href);

const issuer = host ? `https://${host}:${port}` : `http://127.0.0.1:${port}`;
const say = (o) => process.stdout.write(JSON.stringify(o) + '\n');
const grants = ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'];
const common = {
  redirect_uris: ['http://127.0.0.1/callback', 'http://127.0.0.1/approvals/callback', 'https://app.example/callback'], response_types: ['code'],
  grant_types: grants, application_type: 'native',
};
const jwk = createPublicKey(readFileSync(keyFile)).export({ format: 'jwk' });
const clients = [
  { ...common, client_id: 'public', token_endpoint_auth_method: 'none' },
  { ...common, client_id: 'basic', client_secret: 'canary basic+secret%&=:', token_endpoint_auth_method: 'client_secret_basic' },
  { ...common, client_id: 'post', client_secret: 'canary-post-secret', token_endpoint_auth_method: 'client_secret_post' },
  { ...common, client_id: 'jwt', token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256',
    jwks: { keys: [{ ...jwk, kid: 'k1', use: 'sig', alg: 'ES256' }] } },
  { ...common, client_id: 'fixed', client_secret: 'canary-fixed-secret', redirect_uris: ['http://127.0.0.1:7082/callback'],
    application_type: 'web', token_endpoint_auth_method: 'client_secret_post' },
];

const provider = new Provider(issuer, {
  clients,
  cookies: { keys: ['test'] },
  scopes: ['openid', 'offline_access', 'read', 'write', 'admin', 'short'],
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: async (ctx, client, code) => client.grantTypeAllowed('refresh_token') && !code.scopes.has('short'),
  ttl: { AccessToken: 3600, RefreshToken: 86400, Grant: 86400, Interaction: 600, Session: 600, DeviceCode: 600, AuthorizationCode: 60 },
  findAccount: async (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
    introspection: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: async () => undefined,
      useGrantedResource: async () => true,
      getResourceServerInfo: async (ctx, resource) => {
        if (!resource.startsWith('https://api.test')) throw new errors.InvalidTarget();
        return { scope: 'read write admin', audience: resource, accessTokenFormat: 'opaque', accessTokenTTL: 3600 };
      },
    },
  },
});

let hang = false;
provider.use(async (ctx, next) => {
  await next();
  if (ctx.path === '/token/revocation') say({ event: 'revocation', hint: ctx.oidc?.params?.token_type_hint, status: ctx.status });
  if (ctx.path === '/token' && hang) await new Promise((r) => { setTimeout(r, 60000).unref(); });
});
for (const event of ['grant.success', 'grant.error', 'grant.revoked']) {
  provider.on(event, (ctx, error) => {
    const p = ctx.oidc?.params ?? {};
    say({ event, grant: p.grant_type, client: p.client_id, error: error?.error, spent: p.refresh_token, resource: p.resource,
      path: ctx.path });
  });
}
// /api wants a live token; /api/admin one with the scope admin.
async function api(req, res) {
  const value = (req.headers.authorization ?? '').replace(/^Bearer /, '');
  const token = value && await provider.AccessToken.find(value);
  res.setHeader('content-type', 'application/json');
  if (!token) {
    res.writeHead(401, { 'www-authenticate': 'Bearer error="invalid_token"' }).end('{"error":"invalid_token"}');
  } else if (req.url.startsWith('/api/admin') && !token.scopes.has('admin')) {
    res.writeHead(403, { 'www-authenticate': 'Bearer error="insufficient_scope", scope="read admin"' }).end('{}');
  } else {
    res.writeHead(200).end(JSON.stringify({ client: token.clientId, scope: token.scope, aud: token.aud, sub: token.accountId }));
  }
}

const handle = provider.callback();
const take = (req, res) => {
  if (req.url.startsWith('/api')) api(req, res);
  else if (req.url.startsWith('/mode?')) { hang = req.url.includes('hang'); res.end('ok'); }
  else handle(req, res);
};
const server = host ? https.createServer({ cert: readFileSync(cert), key: readFileSync(certKey) }, take) : http.createServer(take);
server.listen(Number(port), '127.0.0.1', () => say({ ready: true }));
