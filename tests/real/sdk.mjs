// An SDK in the sandbox that insists on fetching its own token: what it got, and what the API said to it, as JSON.
//   node sdk.mjs PACKAGES google URL [SCOPE]     GOOGLE_APPLICATION_CREDENTIALS names the file
//   node sdk.mjs PACKAGES id_token URL AUDIENCE
//   node sdk.mjs PACKAGES octokit API KEYFILE    an App's installation, as @octokit/auth-app does it
//   node sdk.mjs PACKAGES app API KEYFILE        the same, but it looks for the installation as the App
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [packages, what, url, more] = process.argv.slice(2);
const require = createRequire(path.join(packages, "package.json"));
const octokitOf = (file) => import(pathToFileURL(path.join(packages, "node_modules/@octokit", file)));

async function google() {
  const { GoogleAuth } = await import(pathToFileURL(require.resolve("google-auth-library")));
  const auth = new GoogleAuth({ scopes: what === "google" && more ? [more] : undefined });
  const client = what === "google" ? await auth.getClient() : await auth.getIdTokenClient(more);
  const { data } = await client.request({ url, retry: false });
  return { data, held: client.credentials };
}

async function octokit() {
  const { createAppAuth } = await octokitOf("auth-app/dist-node/index.js");
  const { Octokit } = await octokitOf("core/dist-src/index.js");
  const as = (installationId) => new Octokit({ baseUrl: url, authStrategy: createAppAuth,
    auth: { appId: 12345, privateKey: fs.readFileSync(more, "utf8"), ...(installationId && { installationId }) } });
  let id = 7;
  if (what === "app") {
    await as().request("GET /app");
    ({ data: { id } } = await as().request("GET /repos/{owner}/{repo}/installation", { owner: "acme", repo: "site" }));
  }
  const kit = as(id);
  const { data } = await kit.request("GET /repos/{owner}/{repo}", { owner: "acme", repo: "site" });
  return { data, held: await kit.auth({ type: "installation" }) };
}

try {
  console.log(JSON.stringify(await (["octokit", "app"].includes(what) ? octokit() : google())));
} catch (e) {
  console.log(JSON.stringify({ failed: e.status ?? e.code ?? e.response?.status, message: e.message, body: e.response?.data }));
}
