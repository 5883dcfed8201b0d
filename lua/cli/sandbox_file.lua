--- sallyport credential sandbox-file: what an SDK in the sandbox holds where it wants to fetch tokens itself.
local db = require "cli.db"
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

local function run(args, opt, ctx)
  db.open(ctx)
  local rec = db.need("credential", args[1])
  if not opt.agent then report.usage("--agent is missing: whose sandbox?", "sallyport agent list") end
  local agent = db.need("agent", opt.agent)
  local policy, sandbox = require "policy", require "sandbox"
  local pol, why = require("policy_store").load(rec.type)
  if not pol then report.fail(("the type '%s' cannot be used: %s"):format(rec.type, tostring(why))) end
  local view = policy.record_view(pol, rec, nil)
  local endpoints = stand_in.endpoints({ sandbox = sandbox, parse_url = require("http").parse_url }, pol, view)
  if #endpoints == 0 then
    report.fail(("'%s' fetches no tokens: there is nothing for an SDK to hold"):format(rec.name),
      "`sallyport env` gives the sandbox a placeholder for it")
  end
  local spec, parts = pol.stand_in or {}, stand_in.parts(require "records", opt.agent, rec)
  local signs = spec.keys
  for _, sealed in ipairs(rec.sealed or {}) do signs = signs or sealed == "f/private_key" and not spec.file end
  if signs then
    local modulus
    parts.private_key, modulus = ctx.host.stand_in_key()
    local key = stand_in.key_record(opt.agent, rec.name)
    db.change(function()
      local was = require("store").peek("state", key)
      return { { op = "put", db = "state", key = key, version = was and was.version or 0, plain = { n = modulus } } }
    end)
  end
  local text
  if rec.claude_code then
    text = require("cli.claude_files").credentials(rec, parts, require("time").wall())
  elseif spec.file then
    local ok, made = sandbox.call(pol.name, spec.file, view, parts)
    if not ok or type(made) ~= "string" then report.fail(("the type '%s' failed: %s"):format(pol.name, tostring(made))) end
    text = made
  else
    text = plain_file(pol, view, parts)
  end
  if opt.out then
    local ok, code = require("cli.files").write(ctx.host, opt.out, text, 384)  -- 0600, as clients want such files
    if not ok then report.fail(("%s cannot be written: %s"):format(opt.out, tostring(code))) end
  else
    ctx.out(text)
  end
  report.answer(ctx, { file = opt.out, text = not opt.out and text or nil })
  local held = false
  for _, b in ipairs(rec.bundles or {}) do
    for _, mine in ipairs(agent.bundles or {}) do held = held or b == mine end
  end
  if not held then ctx.note(("note: '%s' holds no bundle that '%s' is in"):format(opt.agent, rec.name)) end
  ctx.note(("It is for '%s' alone and holds no secret: a request to %s that presents it is answered by the proxy."):format(
    opt.agent, endpoints[1].host .. endpoints[1].path))
  return 0
end

return {
  words = "credential sandbox-file", args = "NAME --agent A", min = 1, max = 1,
  summary = "what an SDK in the sandbox holds to fetch its own token",
  options = {
    { name = "agent", arg = "AGENT", help = "whose sandbox; each agent's file is its own" },
    { name = "out", arg = "FILE", help = "where to, with mode 0600; else standard output" },
  },
  help = [[
Some SDKs insist on fetching tokens: they want a service account's key, an app's private key, or a client secret
and a refresh token. This writes such a file with stand-ins in the secrets' places. When the SDK goes to the token
endpoint with one of them, the proxy answers in the server's place with a placeholder; requests that carry it get
the real token. A private key is made anew each time: the file before no longer counts.

examples:
  sallyport credential sandbox-file gcp --agent claude --out sa.json
  export GOOGLE_APPLICATION_CREDENTIALS=sa.json   # in the sandbox
  sallyport credential sandbox-file app --agent claude --out bot.pem
]], run = run,
}
