--- sallyport credential sandbox-file: what an SDK in the sandbox holds where it wants to fetch tokens itself.
local db = require "cli.db"
local records = require "records"
local report = require "cli.report"
local stand_in = require "stand_in"

-- Google's form of a client with a refresh token; others read the same members under their own names.
local function plain_file(pol, view, parts)
  local out = {
    client_id = view.client_id or view.issuer, client_secret = not parts.private_key and parts.client_secret or nil,
    private_key = parts.private_key, token_uri = view.token_url,
  }
  if pol.connect then out.type, out.refresh_token = "authorized_user", parts.refresh_token end
  return require("json").encode(out, { indent = 2 }) .. "\n"
end

-- A key of its own for what signs assertions: the public half is kept, the private one is in the file alone.
local function new_key(ctx, agent, rec)
  local pem, modulus = ctx.host.stand_in_key()
  local key = stand_in.key_record(agent, rec.name)
  db.change(function()
    local was = require("store").peek("state", key)
    return { { op = "put", db = "state", key = key, version = was and was.version or 0, plain = { n = modulus } } }
  end)
  return pem
end

-- What an SDK holds to fetch tokens, and where it goes for them.
local function sdk_file(ctx, agent, rec, pol, view, parts)
  local sandbox = require "sandbox"
  local endpoints = stand_in.endpoints({ sandbox = sandbox, parse_url = require("http").parse_url }, pol, view)
  if #endpoints == 0 then
    report.fail(("'%s' fetches no tokens: there is nothing for an SDK to hold"):format(rec.name),
      "`sallyport env` gives the sandbox a placeholder for it; for a cluster's API server: --format kubeconfig")
  end
  local spec = pol.stand_in or {}
  local signs = spec.keys
  for _, sealed in ipairs(rec.sealed or {}) do signs = signs or sealed == "f/private_key" and not spec.file end
  if signs then parts.private_key = new_key(ctx, agent.name, rec) end
  if rec.claude_code then
    return require("cli.claude_files").credentials(rec, parts, require("time").wall()), endpoints[1]
  elseif not spec.file then
    return plain_file(pol, view, parts), endpoints[1]
  end
  local ok, made = sandbox.call(pol.name, spec.file, view, parts)
  if not ok or type(made) ~= "string" then report.fail(("the type '%s' failed: %s"):format(pol.name, tostring(made))) end
  return made, endpoints[1]
end

-- What the preset says that its clients hold, or else the type.
local function format_of(opt, rec, pol)
  if opt.format then
    if opt.format ~= "kubeconfig" then report.usage("--format is kubeconfig, or left out") end
    return opt.format
  end
  if rec.preset then return (require("presets").get(rec.preset) or {}).file end
  return pol.stand_in and pol.stand_in.format
end

local function run(args, opt, ctx)
  db.open(ctx)
  local rec = db.need("credential", args[1])
  if not opt.agent then report.usage("--agent is missing: whose sandbox?", "sallyport agent list") end
  local agent = db.need("agent", opt.agent)
  local policy = require "policy"
  local pol, why = require("policy_store").load(rec.type)
  if not pol then report.fail(("the type '%s' cannot be used: %s"):format(rec.type, tostring(why))) end
  local view, parts = policy.record_view(pol, rec, nil), stand_in.parts(records, opt.agent, rec)
  local kubeconfig = format_of(opt, rec, pol) == "kubeconfig"
  for _, name in ipairs { "server", "proxy", "ttl" } do
    if opt[name] and not kubeconfig then report.usage(("--%s is for a kubeconfig"):format(name), "--format kubeconfig") end
  end
  local text, ends, endpoint
  if kubeconfig then
    local held = records.held(opt.agent, rec)[1]
    text, ends = require("cli.kubeconfig").text(ctx, opt, rec, pol, view, agent, held and held.text or parts.access_token)
  else
    text, endpoint = sdk_file(ctx, agent, rec, pol, view, parts)
  end
  if opt.out then
    local ok, code = require("cli.files").write(ctx.host, opt.out, text, 384)  -- 0600, as clients want such files
    if not ok then report.fail(("%s cannot be written: %s"):format(opt.out, tostring(code))) end
  else
    ctx.out(text)
  end
  report.answer(ctx, { file = opt.out, text = not opt.out and text or nil, expires_at = ends })
  local apart = db.apart(agent, rec)
  if apart then ctx.note("note: " .. apart) end
  ctx.note(endpoint and ("It is for '%s' alone and holds no secret: a request to %s that presents it is answered by the proxy."):format(
    opt.agent, endpoint.host .. endpoint.path) or ("It is for '%s' alone%s; the cluster's token is not in it."):format(
    opt.agent, ends and ", whose proxy token is in it" or " and holds no secret"))
  return 0
end

return {
  words = "credential sandbox-file", args = "NAME --agent A", min = 1, max = 1,
  summary = "what an SDK in the sandbox holds to fetch its own token",
  options = {
    { name = "agent", arg = "AGENT", help = "whose sandbox; each agent's file is its own" },
    { name = "out", arg = "FILE", help = "where to, with mode 0600; else standard output" },
    { name = "format", arg = "FORMAT", of = { "kubeconfig" }, help = "kubeconfig, for kubectl and its like; a bearer without a preset has that by itself" },
    { name = "server", arg = "URL", many = true, whole = true, help = "kubeconfig: the API server; else each exact host of the credential" },
    { name = "proxy", arg = "HOST:PORT", help = "kubeconfig: names the proxy in the file, with a token of the agent's" },
    { name = "ttl", arg = "TIME", help = "kubeconfig: that token ends after it; 24h unless named" },
  },
  help = [[
Some SDKs insist on fetching tokens: they want a service account's key, an app's private key, or a client secret
and a refresh token. This writes such a file with stand-ins in the secrets' places. When the SDK goes to the token
endpoint with one of them, the proxy answers in the server's place with a placeholder; requests that carry it get
the real token. A private key is made anew each time: the file before no longer counts.

For a bearer token of a Kubernetes cluster it is a kubeconfig, with our CA and a placeholder. The proxy is in it where
kubectl would go past the one of `sallyport env`: to this machine, and to what NO_PROXY has.

examples:
  sallyport credential sandbox-file gcp --agent claude --out sa.json
  export GOOGLE_APPLICATION_CREDENTIALS=sa.json   # in the sandbox
  sallyport credential sandbox-file app --agent claude --out bot.pem
  sallyport credential sandbox-file kube --agent claude --out kube.conf
  KUBECONFIG=kube.conf kubectl get pods           # in the sandbox
  sallyport credential sandbox-file gke --agent claude --format kubeconfig --server https://203.0.113.10
]], run = run,
}
