// A token endpoint that believes nothing: every assertion is verified with `jose`, code that is not ours, before a
// token is given. Also the few calls of GitHub's API that an App makes, and resources that want the tokens.
//   node issuer.mjs PACKAGES CONFIG     CONFIG: { port, cert, clients: { ISSUER: { key, algs, aud } }, app: {…}, … }
// One line of JSON on standard output for each assertion that was verified, or refused and why.
import fs from "node:fs";
import https from "node:https";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(path.join(process.argv[2], "package.json"));
const jose = await import(pathToFileURL(require.resolve("jose")));
const config = JSON.parse(fs.readFileSync(process.argv[3]));
const pem = fs.readFileSync(config.cert);
const seen = new Set();          // jti, and whole assertions without one
const tokens = new Map();        // what was issued -> to whom
const { privateKey: own } = await jose.generateKeyPair("RS256");
let issued = 0;

const say = (line) => console.log(JSON.stringify(line));
const now = () => Math.floor(Date.now() / 1000);

class Refusal extends Error {
  constructor(error, why) { super(why); this.error = error; }
}

async function keyOf(client, alg) {
  return client.secret ? new TextEncoder().encode(client.secret) : jose.importSPKI(client.key, alg);
}

// RFC 7523 3: who, for whom, until when, whose signature, and never twice.
async function verified(assertion, aud, longest, once = true) {
  const { iss } = jose.decodeJwt(assertion);
  const client = config.clients[iss];
  if (!client) throw new Refusal("invalid_client", `nobody is ${iss}`);
  const alg = jose.decodeProtectedHeader(assertion).alg;
  const { payload, protectedHeader } = await jose.jwtVerify(assertion, await keyOf(client, alg), {
    algorithms: client.algs, audience: client.aud ?? aud, requiredClaims: ["iss", "exp", "iat"],
    clockTolerance: 0,
  }).catch((e) => { throw new Refusal("invalid_grant", `${e.code}: ${e.message}`); });
  if (payload.iat > now()) throw new Refusal("invalid_grant", "iat is in the future");
  if (payload.exp - payload.iat > longest) throw new Refusal("invalid_grant", "it lives too long");
  const id = payload.jti ?? assertion;
  if (once && seen.has(id)) throw new Refusal("invalid_grant", "it was used before");
  seen.add(id);
  if (client.needs?.some((c) => payload[c] === undefined)) throw new Refusal("invalid_grant", `it needs ${client.needs}`);
  say({ verified: iss, header: protectedHeader, claims: payload });
  return payload;
}

function issue(who) {
  const token = `canary-issued-${++issued}-${Math.random().toString(36).slice(2)}`;
  tokens.set(token, who);
  return token;
}

// RFC 6749 2.3.1: in the header or in the form.
function knownBySecret(req, form) {
  const basic = /^Basic (.+)$/.exec(req.headers.authorization ?? "")?.[1];
  const [id, secret] = basic ? Buffer.from(basic, "base64").toString().split(":").map(decodeURIComponent)
    : [form.get("client_id"), form.get("client_secret")];
  if (!secret || config.secrets?.[id] !== secret) throw new Refusal("invalid_client", `not the secret of ${id}`);
  return id;
}

async function tokenEndpoint(req, body) {
  const form = new URLSearchParams(body);
  const grant = form.get("grant_type");
  if (grant === "refresh_token") {
    const who = knownBySecret(req, form);
    if (form.get("refresh_token") !== config.refresh) throw new Refusal("invalid_grant", "nobody's refresh token");
    return { access_token: issue(`person of ${who}`), token_type: "Bearer", expires_in: 3600 };
  }
  if (grant === "client_credentials" && config.secrets)
    return { access_token: issue(knownBySecret(req, form)), token_type: "Bearer", expires_in: 3600 };
  if (grant === "client_credentials") {
    if (form.get("client_assertion_type") !== "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
      throw new Refusal("invalid_client", "no client assertion");
    const claims = await verified(form.get("client_assertion"), config.token_url, 300);
    if (claims.sub !== claims.iss || claims.sub !== form.get("client_id") || !claims.jti)
      throw new Refusal("invalid_client", "sub, client_id and iss differ, or there is no jti");
    return { access_token: issue(claims.sub), token_type: "Bearer", expires_in: 3600, scope: form.get("scope") };
  }
  if (grant !== "urn:ietf:params:oauth:grant-type:jwt-bearer") throw new Refusal("unsupported_grant_type", grant);
  const claims = await verified(form.get("assertion"), config.token_url, 3600);
  if (claims.target_audience) {
    const id_token = await new jose.SignJWT({ email: claims.iss }).setProtectedHeader({ alg: "RS256" })
      .setAudience(claims.target_audience).setExpirationTime("1h").sign(own);
    tokens.set(id_token, claims.iss);
    return { id_token };
  }
  return { access_token: issue(claims.sub ?? claims.iss), token_type: "Bearer", expires_in: 3600 };
}

// GitHub's own words where it refuses; what it checks of an App's JWT is documented.
async function github(req, res, where, body) {
  const bearer = /^Bearer (.+)$/.exec(req.headers.authorization ?? "")?.[1] ?? "";
  const answer = (status, value) => { res.writeHead(status, { "content-type": "application/json" }); res.end(JSON.stringify(value)); };
  if (where.startsWith("/repos/") && !where.endsWith("/installation")) {
    return tokens.has(bearer) ? answer(200, { full_name: where.slice(7), as: tokens.get(bearer) }) : answer(401, { message: "Bad credentials" });
  }
  let claims;
  try {
    claims = await verified(bearer, undefined, 600 + 60, false);
    if (claims.exp > now() + 600) throw new Refusal("", "'Expiration time' claim ('exp') is too far in the future");
  } catch (e) {
    say({ refused: e.message, where });
    return answer(401, { message: "A JSON web token could not be decoded" });
  }
  if (where === "/app" && req.method === "GET") return answer(200, { slug: "ours", as: claims.iss });
  if (where === `/repos/${config.app.account}/site/installation` || where === `/orgs/${config.app.account}/installation`) return answer(200, { id: config.app.installation });
  if (where !== `/app/installations/${config.app.installation}/access_tokens` || req.method !== "POST") return answer(404, { message: "Not Found" });
  const want = JSON.parse(body || "{}");
  if (want.repositories?.some((r) => !config.app.repositories.includes(r)))
    return answer(422, { message: "There is at least one repository that does not exist or is not accessible to the parent installation." });
  say({ installation: config.app.installation, want });
  tokens.set(config.app.token, want);
  answer(201, { token: config.app.token, expires_at: new Date(Date.now() + 3600e3).toISOString().replace(/\.\d+Z/, "Z"), permissions: want.permissions });
}

// A resource: a token that was issued here, or a JWT that its own key signed (?aud=…, ?header=…).
async function resource(req, res, url) {
  const given = req.headers[url.searchParams.get("header") ?? "authorization"] ?? "";
  const token = given.replace(/^Bearer /, "");
  try {
    const claims = url.searchParams.has("signed")
      ? await verified(token, url.searchParams.get("aud") ?? undefined, 3600, false) : tokens.get(token);
    if (!claims) throw new Refusal("invalid_token", "nobody issued that");
    res.writeHead(200, { "content-type": "application/json" });
    res.end(JSON.stringify({ who: claims }));
  } catch (e) {
    say({ refused: e.message, where: url.pathname });
    res.writeHead(401, { "www-authenticate": 'Bearer error="invalid_token"' });
    res.end();
  }
}

https.createServer({ key: pem, cert: pem }, async (req, res) => {
  let body = "";
  for await (const part of req) body += part;
  const url = new URL(req.url, "https://here");
  if (url.pathname.startsWith("/api/v3/")) return github(req, res, url.pathname.slice(7), body);
  if (url.pathname !== "/token") return resource(req, res, url);
  try {
    const answer = await tokenEndpoint(req, body);
    res.writeHead(200, { "content-type": "application/json", "cache-control": "no-store" });
    res.end(JSON.stringify(answer));
  } catch (e) {
    say({ refused: e.message, where: url.pathname });
    res.writeHead(400, { "content-type": "application/json" });
    res.end(JSON.stringify({ error: e.error ?? "invalid_request", error_description: e.message }));
  }
}).listen(config.port, "127.0.0.1", () => say({ listening: config.port }));
