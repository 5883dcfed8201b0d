--- sallyport import claude-code: an account that the Claude Code CLI is signed in to.
local connect = require "cli.authorization"
local db = require "cli.db"
local files = require "cli.claude_files"
local records = require "records"
local report = require "cli.report"
local stand_in = require "stand_in"
local token = require "token"

-- As the CLI has them: a public client, two token addresses in use.
local CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
local TOKEN_URL, ALSO = "https://platform.claude.com/v1/oauth/token", "https://console.anthropic.com/v1/oauth/token"
local HOSTS = { "api.anthropic.com", "platform.claude.com", "mcp-proxy.anthropic.com" }
local FRESH_MAX = 30000         -- ms: one refresh, or another's lease and then ours
local SETTINGS_MAX = 1 << 20
local PRESET = "claude-code"    -- what else is known of that API: the calls that would make further keys

local function not_it(path, what)
  report.fail(("%s is not the CLI's .credentials.json: %s"):format(report.clean(path), what),
    "sign in with the CLI first (it writes ~/.claude/.credentials.json), or name the file")
end

-- { tokens = { access_token, refresh_token } (secrets), scopes, claude_code = { subscription, tier } }
local function read(ctx, path)
  local document = require "cli.document"
  local text, why = ctx.host.read_secret("file", path, { multiline = true })
  if not text and why == "absent" then not_it(path, "there is no such file") end
  if not text then report.fail(("%s cannot be read: %s"):format(report.clean(path), tostring(why))) end
  local outer, code = document.split(text, { claudeAiOauth = { secret = true, nested = true } })
  if not outer then not_it(path, "claudeAiOauth is " .. code) end
  local inner, bad, member = document.split(outer.claudeAiOauth, {
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
    tokens = { access_token = inner.accessToken, refresh_token = inner.refreshToken }, scopes = scopes,
    claude_code = { subscription = inner.subscriptionType, tier = inner.rateLimitTier },
  }
end

-- Before anything is spent: a directory that cannot be made is told while the account is still where it was.
local function prepare(ctx, dir)
  for _, d in ipairs { dir, dir .. "/.claude" } do
    local ok, why = ctx.host.mkdir(d, 448)    -- 0700
    local there = ctx.host.stat(d)
    if not ok and why ~= "exists" and not there then
      report.fail(("%s cannot be made: %s"):format(report.clean(d), tostring(why)))
    end
    -- below a folder of the agent's, a link may lead anywhere
    if d ~= dir and (not there or there.type ~= "dir") then report.fail(report.clean(d) .. " is no folder") end
  end
end

-- made: the files that were not there before.
local function write(ctx, made, path, text)
  local new = not ctx.host.stat(path)
  local ok, why = require("cli.files").write(ctx.host, path, text, 384)
  if not ok then
    report.fail(("%s cannot be written: %s"):format(report.clean(path), tostring(why)), "nothing was changed; --out names another directory")
  end
  if new then made[#made + 1] = path end
end

-- Placeholders do not depend on tokens, so the files come first: what cannot be written is told while the account is
-- still where it was. A .claude.json that is there already holds a person's settings: it stays. -> the new files
local function write_files(ctx, dir, agent, rec)
  local made, settings = {}, dir .. "/.claude.json"
  write(ctx, made, dir .. "/.claude/.credentials.json",
    files.credentials(rec, stand_in.parts(records, agent, rec), require("time").wall()))
  if not ctx.host.stat(settings) then
    write(ctx, made, settings, files.onboarding())
  elseif ctx.host.stat(settings).type ~= "file" or ctx.host.read_file(settings, SETTINGS_MAX) ~= files.onboarding() then
    ctx.note(("note: %s is there already and stays; the CLI wants \"hasCompletedOnboarding\": true in it"):format(
      report.clean(settings)))
  end
  return made
end

-- ---- the account ---------------------------------------------------------------------------------

local function record_of(name, opt, account)
  local plain = {
    name = name, type = "oauth_authorization_code", hosts = HOSTS, ports = { 443 }, bundles = opt.bundle or { "default" },
    enabled = true, env = "CLAUDE_CODE_OAUTH_TOKEN", created = require("time").wall(),
    fields = { token_url = TOKEN_URL, also_token_url = ALSO, client_id = CLIENT_ID, auth_method = "none",
      token_body = "json", scopes = account.scopes },
    preset = require("presets").get(PRESET) and PRESET or nil, claude_code = account.claude_code,
  }
  plain.placeholder = require("presets").shape_for(plain.env)
  plain.order = require("store").generation()
  return plain
end

-- The operation that brings the record of an earlier import up to what the account says now. All else that the operator
-- set since stays.
local function renewed(name, opt, account)
  local rec, why = require("store").get("credential", name)
  if not rec then report.fail(("the credential cannot be read: %s"):format(tostring(why)), "remove it and import again") end
  local plain = db.plain(rec)
  plain.fields.scopes, plain.claude_code, plain.bundles = account.scopes, account.claude_code, opt.bundle or plain.bundles
  return { op = "put", db = "credential", key = name, version = rec.version, plain = plain, secrets = rec.secrets }
end

local function env_of(ctx)
  local env, why = connect.env(ctx)
  if not env then report.fail(why) end
  return env
end

-- What to do about a refresh token that did not work. Where nothing of it went out it is as good as before.
local function advice(code)
  return connect.unsent[code] and "its refresh token was not sent: import again once that is mended"
    or "its refresh token may have been used since: sign in with the CLI again, then import at once"
end

-- A new credential: true | nil, what went wrong, advice.
local function adopt(ctx, name, plain, account)
  local ops = { { op = "put", db = "credential", key = name, version = 0, plain = plain, secrets = {} } }
  local ok, code, text = connect.adopt(env_of(ctx), name, ops, account.tokens)
  if ok then return true end
  return nil, ("the account was not taken over, and nothing was kept: %s"):format(text or token.sentence(code)), advice(code)
end

-- Another grant for the credential: true, whether this file's account was taken over before | nil, what, advice. A
-- refresh token that was taken over is spent: then what came of it must work, or only a new sign-in helps.
local function replace(ctx, name, opt, account)
  local env = env_of(ctx)
  local function build() return renewed(name, opt, account) end
  local ok, code, detail = connect.replace(env, name, build, account.tokens)
  if ok then return true, false end
  if code ~= "taken" then
    local why = connect.say[code] or token.sentence(code, detail)
    if code == "unstored" then why = "it was spent, and the answer not stored: " .. (connect.say[detail] or tostring(detail)) end
    return nil, ("the account was not taken over, and '%s' is as it was: %s"):format(name, why), advice(code)
  end
  local opened, trouble, why = env.config:open(name)
  local view, info
  if opened then view, trouble, info = env.tokens:fresh(opened, env.time.now() + FRESH_MAX) end
  if view then
    db.change(function() return { build() } end)
    return true, true
  end
  return nil, ("the account was taken over before, and '%s' does not work now: %s"):format(name,
    info and info.message or why or token.sentence(trouble)), "sign in with the CLI again, then import at once"
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
  if rec and not rec.claude_code then
    report.fail(("there is a credential '%s' already, and no import made it"):format(name),
      ("sallyport credential remove %s first, or --name another"):format(name))
  end
  for _, b in ipairs(opt.bundle or {}) do db.need("bundle", b) end
  local dir, again, made = opt.out or "claude-sandbox", rec ~= nil, {}
  rec = again and renewed(name, opt, account).plain or record_of(name, opt, account)
  for _, b in ipairs(rec.bundles) do db.need("bundle", b) end
  if opt.agent then
    prepare(ctx, dir)
    made = write_files(ctx, dir, opt.agent, rec)
  end
  local ok, taken, advice
  if again then ok, taken, advice = replace(ctx, name, opt, account) else ok, taken, advice = adopt(ctx, name, rec, account) end
  if not ok then
    for _, file in ipairs(made) do os.remove(file) end
    report.fail(taken, advice)
  end
  local shown = report.clean(path)
  if taken then
    ctx.note(("The account of %s was taken over before: '%s' goes on with what came of it."):format(shown, name))
  else
    ctx.note(("%s '%s' for %s. Its refresh token works: the one in %s no longer does.\n"
      .. "The CLI of this machine is signed out by that; sign it in again if you need it here."):format(
      again and "Renewed" or "Kept", name, table.concat(rec.hosts, ", "), shown))
  end
  local apart = agent and db.apart(agent, rec)
  if apart then ctx.note("note: " .. apart) end
  local answer = require("cli.shape").credential_named(name)
  answer.files = report.array(opt.agent and { dir .. "/.claude/.credentials.json", dir .. "/.claude.json" })
  report.answer(ctx, answer)
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
CLAUDE_CODE_OAUTH_TOKEN from `sallyport env` is enough. It may be repeated: after a new sign-in the credential gets that
grant, if its refresh token works; with the same file it writes the files anew and spends nothing. Another agent's .credentials.json: credential sandbox-file.

examples:
  sallyport import claude-code --agent claude
  sallyport import claude-code /mnt/laptop/.credentials.json --agent ci --out /srv/ci-home
  sallyport credential sandbox-file claude-code --agent other --out /srv/other-home/.claude/.credentials.json
]], run = run },
}
