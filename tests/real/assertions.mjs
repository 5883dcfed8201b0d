// What Google's and GitHub's own libraries send for the same key: the parameters of their requests, as JSON.
//   node assertions.mjs PACKAGES CONFIG    CONFIG: { account: a key file, app: { appId, privateKey, installationId, … } }
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(path.join(process.argv[2], "package.json"));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { JWT } = await load("google-auth-library");
const octokitOf = (file) => import(pathToFileURL(path.join(process.argv[2], "node_modules/@octokit", file)));
const { createAppAuth } = await octokitOf("auth-app/dist-node/index.js");
const octokit = await octokitOf("request/dist-bundle/index.js");
const { account, app } = JSON.parse(fs.readFileSync(process.argv[3]));
const out = {};

function google(name, options) {
  const client = new JWT({ email: account.client_email, key: account.private_key, keyId: account.private_key_id, ...options });
  client.transporter = { request: async (o) => {
    out[name] = { url: String(o.url), method: o.method, form: Object.fromEntries(new URLSearchParams(o.data)) };
    return { data: { access_token: "t", id_token: "a.e30.c", expires_in: 3600 } };
  } };
  return client;
}

await google("access_token", { scopes: ["https://www.googleapis.com/auth/cloud-platform"], subject: "person@example.com" }).authorize();
await google("id_token", {}).fetchIdToken("1234-abc.apps.googleusercontent.com");
const headers = await google("self_signed", {}).getRequestHeaders("https://app.test/x");
out.self_signed = { authorization: headers.get("authorization") };

// Octokit's own request, with a fetch that notes what would go out.
let sent;
const told = octokit.request.defaults({ request: { fetch: async (url, options) => {
  sent = { url, method: options.method, headers: options.headers, body: options.body };
  return new Response(JSON.stringify({ token: "ghs_x", expires_at: "2030-01-01T00:00:00Z", permissions: {} }),
    { status: 201, headers: { "content-type": "application/json" } });
} } });
const auth = createAppAuth({ appId: app.appId, privateKey: app.privateKey, request: told });
await auth({ type: "installation", repositoryNames: app.repositories, permissions: app.permissions, installationId: app.installationId });
out.installation = sent;
console.log(JSON.stringify(out));
