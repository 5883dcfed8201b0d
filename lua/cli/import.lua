--- sallyport import claude-code: an account that the Claude Code CLI is signed in to.
local db = require "cli.db"
local files = require "cli.claude_files"
local records = require "records"
local report = require "cli.report"
local stand_in = require "stand_in"

-- As the CLI has them: a public client, two token addresses in use.
local CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
local TOKEN_URL, ALSO = "https://platform.claude.com/v1/oauth/token", "https://console.anthropic.com/v1/oauth/token"
local HOSTS = { "api.anthropic.com", "platform.claude.com", "mcp-proxy.anthropic.com" }
local PRESET = "claude-code"    -- what else is known of that API: the calls that would make further keys

local function not_it(path, what)
  report.fail(("%s is not the CLI's .credentials.json: %s"):format(report.clean(path), what),
    "sign in with the CLI first (it writes ~/.claude/.credentials.json), or name the file")
end

-- { access_token, refresh_token (secrets), scopes, subscription, tier }
local function read(ctx, path)
  local core = require "secret.core"
  local text, why = ctx.host.read_secret_file(path, { multiline = true })
  if not text and why == "absent" then not_it(path, "there is no such file") end
  if not text then report.fail(("%s cannot be read: %s"):format(report.clean(path), tostring(why))) end
  local outer, code = core.split(text, { claudeAiOauth = { secret = true, nested = true } })
  if not outer then not_it(path, "claudeAiOauth is " .. code) end
  local inner, bad, member = core.split(outer.claudeAiOauth, {
    accessToken = { secret = true }, refreshToken = { secret = true }, scopes = { nested = true, optional = true },
    subscriptionType = { optional = true }, rateLimitTier = { optional = true },
  })
  if not inner then not_it(path, ("%s %s"):format(member or "claudeAiOauth", bad)) end
  local given, scopes = inner.scopes and require("json").decode(inner.scopes), {}
  for _, scope in ipairs(type(given) == "table" and given or {}) do
    if type(scope) ~= "string" or scope:find('[^\33-\126]') or scope:find('["\\]') then not_it(path, "scopes is no list of scopes") end
    scopes[#scopes + 1] = scope
  end
  return {
    access_token = inner.accessToken, refresh_token = inner.refreshToken, scopes = scopes,
    claude_code = { subscription = inner.subscriptionType, tier = inner.rateLimitTier },
  }
end

-- Before anything is spent: a directory that cannot be made is told while the account is still where it was.
local function prepare(ctx, dir)
  for _, d in ipairs { dir, dir .. "/.claude" } do
    local ok, why = ctx.host.mkdir(d, 448)    -- 0700
    if not ok and why ~= "exists" and not ctx.host.stat(d) then
      report.fail(("%s cannot be made: %s"):format(report.clean(d), tostring(why)))
    end
  end
end

local function write(ctx, dir, path, text)
  local ok, why = ctx.host.write_file(dir .. "/" .. path, text, 384)
  if not ok then report.fail(("%s cannot be written: %s"):format(report.clean(path), tostring(why))) end
end

-- A .claude.json that is there already holds a person's settings: it stays.
local function write_files(ctx, dir, agent, rec)
  write(ctx, dir, ".claude/.credentials.json",
    files.credentials(rec, stand_in.parts(records, agent, rec), require("time").wall()))
  if ctx.host.stat(dir .. "/.claude.json") then
    ctx.note(("note: %s/.claude.json is there already and stays; the CLI wants \"hasCompletedOnboarding\": true in it")
      :format(report.clean(dir)))
  else
    write(ctx, dir, ".claude.json", files.onboarding())
  end
end

local function adopt(ctx, name, opt, account)
  local plain = {
    name = name, type = "oauth_authorization_code", hosts = HOSTS, ports = { 443 }, bundles = opt.bundle or { "default" },
    enabled = true, env = "CLAUDE_CODE_OAUTH_TOKEN", created = require("time").wall(),
    fields = { token_url = TOKEN_URL, also_token_url = ALSO, client_id = CLIENT_ID, auth_method = "none",
      token_body = "json", scopes = account.scopes },
    preset = require("presets").get(PRESET) and PRESET or nil, claude_code = account.claude_code,
  }
  plain.placeholder = records.shape_for(plain.env)
  for _, b in ipairs(plain.bundles) do db.need("bundle", b) end
  plain.order = require("store").generation()
  local connect = require "connect"
  local env, why = connect.env(ctx)
  if not env then report.fail(why) end
  local ops = { { op = "put", db = "credential", key = name, version = 0, plain = plain, secrets = {} } }
  local ok, code, text = connect.adopt(env, name, ops, {
    access_token = account.access_token, refresh_token = account.refresh_token,
  })
  if not ok then
    report.fail(("the account was not taken over, and nothing was kept: %s"):format(text or require("token").sentence(code)),
      "its refresh token may have been used since: sign in with the CLI again, then import at once")
  end
  return plain
end

local function shares(agent, rec)
  for _, b in ipairs(rec.bundles) do
    for _, mine in ipairs(agent.bundles or {}) do
      if b == mine then return true end
    end
  end
  return false
end

local function run(args, opt, ctx)
  if args[1] and args[2] then report.usage("one file at a time") end
  local path = args[1] or (ctx.host.getenv("HOME") or "") .. "/.claude/.credentials.json"
  db.open(ctx)
  local name, bad = records.name(opt.name or "claude-code")
  if not name then report.usage(bad) end
  local rec, account = db.peek("credential", name, "the credential"), nil
  local agent = opt.agent and db.need("agent", opt.agent)
  account = read(ctx, path)
  if rec then
    report.fail(("there is a credential '%s' already"):format(name),
      ("sallyport credential remove %s first, or --name another"):format(name))
  end
  local dir = opt.out or "claude-sandbox"
  if opt.agent then prepare(ctx, dir) end
  rec = adopt(ctx, name, opt, account)
  ctx.note(("Kept '%s' for %s. Its refresh token works: the one in %s no longer does.\n"
    .. "The CLI of this machine is signed out by that; sign it in again if you need it here."):format(name,
    table.concat(HOSTS, ", "), report.clean(path)))
  if agent and not shares(agent, rec) then
    ctx.note(("note: '%s' holds no bundle that '%s' is in: sallyport bundle attach"):format(opt.agent, name))
  end
  if not opt.agent then
    ctx.note("For the sandbox: `sallyport env --agent A` sets CLAUDE_CODE_OAUTH_TOKEN to a placeholder.")
    return 0
  end
  write_files(ctx, dir, opt.agent, rec)
  ctx.note(("Written for '%s': %s/.claude/.credentials.json and %s/.claude.json, which go into its home directory.\n"
    .. "They hold placeholders. Its environment comes from `sallyport env --agent %s`."):format(opt.agent, dir, dir, opt.agent))
  return 0
end

return {
  { words = "import claude-code", args = "[FILE]", max = 1, summary = "an account that the Claude Code CLI is signed in to",
    options = {
      { name = "agent", arg = "AGENT", help = "write the files with placeholders for this agent's machine" },
      { name = "out", arg = "DIR", help = "where to; claude-sandbox unless named" },
      { name = "name", arg = "NAME", help = "of the credential; claude-code unless named" },
      { name = "bundle", arg = "BUNDLE", many = true, help = "which bundles hold it; `default` unless named" },
    },
    help = [[
Takes over the account of ~/.claude/.credentials.json (or FILE): its refresh token is tried at once, and the new one
is kept here. Requests of agents to api.anthropic.com then carry the real token, and no sandbox holds it. With
--agent it writes the .credentials.json and .claude.json that the CLI in the sandbox reads, with placeholders for
tokens; when that CLI goes to renew them, the proxy answers with placeholders again. Without files,
CLAUDE_CODE_OAUTH_TOKEN from `sallyport env` is enough. Another agent's .credentials.json: credential sandbox-file.

examples:
  sallyport import claude-code --agent claude
  sallyport import claude-code /mnt/laptop/.credentials.json --agent ci --out /srv/ci-home
  sallyport credential sandbox-file claude-code --agent other --out /srv/other-home/.claude/.credentials.json
]], run = run },
}
