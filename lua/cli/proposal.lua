--- sallyport proposal list, show, approve, reject: what agents ask for (lua/proposals.lua).
local db = require "cli.db"
local proposals = require "proposals"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"

local function all() return db.oldest("proposal", "created") end

local function named(id)
  for _, row in ipairs(all()) do
    if row.record.proposal == id then return row end
  end
  report.fail(("there is no proposal '%s'"):format(report.clean(id)), "sallyport proposal list")
end

-- Whose the bundle is, in words.
local function holders(bundle)
  local names = {}
  for _, a in db.each("agent", "a/") do
    for _, b in ipairs(a and not a.revoked and a.bundles or {}) do
      if b == bundle then names[#names + 1] = a.name end
    end
  end
  table.sort(names)
  return ("every agent with the bundle %s (%s)"):format(bundle, report.several(names, "none now"))
end

local function shape(r)
  local services, credentials, says = report.array(), report.array(), proposals.says(r, holders(r.bundle))
  for i, s in ipairs(r.services) do
    services[i] = { name = s.name, host = s.host, port = s.port, path = s.path, kind = s.kind, key = s.key, user_key = s.user_key,
      header = s.header, prefix = s.prefix,
      says = says[i].text, warning = says[i].warning }
  end
  for i, c in ipairs(r.credentials) do
    credentials[i] = { key = c.key, description = c.description, obtain = c.obtain, obtain_instructions = c.obtain_instructions,
      oauth = c.oauth }
  end
  return { id = r.proposal, agent = r.agent, bundle = r.bundle, state = proposals.state(r, require("time").wall()),
    message = r.message, user_message = r.user_message,
    reason = r.reason, services = services, credentials = credentials, created = r.created, expires_at = r["until"] }
end

local function list(_, _, ctx)
  db.open(ctx)
  local rows, out = {}, report.array()
  for i, row in ipairs(all()) do
    local s = shape(row.record)
    local hosts = {}
    for j, x in ipairs(s.services) do hosts[j] = x.host end
    rows[i], out[i] = { s.id, s.state, s.agent, report.several(hosts), report.time(s.expires_at) }, s
  end
  if ctx.json then ctx.out(report.json(out))
  elseif not rows[1] then ctx.note("No agent has asked for anything: a refused request tells it how.")
  else ctx.out(terminal.columns(ctx, { "PROPOSAL", "STATE", "AGENT", "HOSTS", "ENDS" }, rows)) end
  return 0
end

local function show(args, _, ctx)
  db.open(ctx)
  local s = shape(named(args[1]).record)
  if ctx.json then
    ctx.out(report.json(s))
    return 0
  end
  local rows = { { "proposal", s.id }, { "state", s.state }, { "agent", s.agent }, { "it says", s.user_message or s.message },
    { "reason", s.reason } }
  for _, x in ipairs(s.services) do
    rows[#rows + 1] = { "service " .. x.name, x.says }
    if x.warning then rows[#rows + 1] = { "", "careful: " .. x.warning } end
  end
  for _, c in ipairs(s.credentials) do
    rows[#rows + 1] = { "secret " .. c.key, table.concat({ c.description or "", c.obtain or "", c.obtain_instructions or "" },
      "  "):match("^%s*(.-)%s*$") }
  end
  rows[#rows + 1] = { "ends", report.time(s.expires_at) }
  local kept = {}
  for _, r in ipairs(rows) do kept[#kept + 1] = r[2] and r or nil end
  ctx.out(terminal.columns(ctx, nil, kept))
  return 0
end

-- The command that makes one service come to be, and the secrets that it reads: args, typed
local function command_of(r, s, given, opt)
  local host = opt.host[s.name] or s.host
  if s.kind == "passthrough" then
    local args = { "domain", "add", r.bundle, host }
    if s.port then args[#args + 1] = "--port=" .. s.port end
    if s.path then args[#args + 1] = "--path=" .. s.path end
    return args, {}
  end
  local oauth
  for _, c in ipairs(r.credentials) do oauth = oauth or c.key == s.key and c.oauth end
  local types = { bearer = oauth and "oauth_authorization_code" or "bearer", basic = "basic", ["api-key"] = "api_key" }
  local args, typed = { "credential", "add", s.name, "--type=" .. types[s.kind], "--host=" .. host, "--bundle=" .. r.bundle }, {}
  if s.port then args[#args + 1] = "--port=" .. s.port end
  if s.path then args[#args + 1] = "--path=" .. s.path end
  for _, m in ipairs(opt.method or {}) do args[#args + 1] = "--method=" .. m end
  local function secret(field, key)
    if given[key] == nil then report.usage(("%s is missing: the secret for %s"):format(key, s.host),
      ("%s=@FILE, %s=-, %s=env:NAME; or --only the services without it"):format(key, key, key)) end
    typed[field] = given[key]
    args[#args + 1] = field .. "=-"
  end
  if oauth then
    for _, name in ipairs { "authorization_url", "token_url", "client_id", "scopes", "scope_separator" } do
      if oauth[name] then args[#args + 1] = ("%s=%s"):format(name, oauth[name]) end
    end
    for _, name in ipairs { "client_secret", "access_token", "refresh_token" } do
      if given[s.key .. "." .. name] ~= nil then secret(name, s.key .. "." .. name) end
    end
    if typed.client_secret then args[#args + 1] = "auth_method=" .. oauth.auth_method end
    local plain = given[s.key .. ".client_id"]
    if plain then
      args[#args + 1] = "client_id=" .. plain
    elseif not oauth.client_id then
      report.usage(("%s.client_id is missing: the client that the provider knows"):format(s.key), s.key .. ".client_id=…")
    end
    return args, typed
  end
  if s.kind == "basic" then
    local user = given[s.user_key]
    if type(user) ~= "string" then report.usage(("%s is missing: the user name"):format(s.user_key), s.user_key .. "=NAME") end
    args[#args + 1] = "username=" .. user
    if s.key then secret("password", s.key) else typed.password, args[#args + 1] = "", "password=-" end
  elseif s.kind == "api-key" then
    args[#args + 1] = "header=" .. s.header
    if s.prefix then args[#args + 1] = "prefix=" .. s.prefix end
    secret("key", s.key)
  else
    secret("token", s.key)
  end
  return args, typed
end

-- What was typed for the proposal's keys: secrets as handles, user names and client ids as texts.
local function given_of(r, texts, ctx)
  local fields, out, plain, known = require "cli.fields", {}, {}, {}
  for _, s in ipairs(r.services) do
    if s.user_key then plain[s.user_key] = true end
    for _, key in ipairs { s.key or false, s.user_key or false } do known[key or ""] = true end
  end
  for _, c in ipairs(r.credentials) do
    if c.oauth then
      plain[c.key .. ".client_id"] = true
      for _, name in ipairs { "client_id", "client_secret", "access_token", "refresh_token" } do
        known[c.key .. "." .. name] = true
      end
    end
  end
  for _, text in ipairs(texts) do
    local a, why = fields.assignment(ctx, text)
    if not a then report.usage(why, "KEY=@FILE, KEY=- or KEY=env:NAME") end
    local label = a.key and a.name .. "." .. a.key or a.name
    if not known[label] then report.usage(("the proposal has no %s"):format(report.clean(label):sub(1, 64)),
      "sallyport proposal show " .. r.proposal) end
    if plain[label] then out[label] = a.text else out[label] = fields.secret(ctx, a, label) end
  end
  return out
end

local function settle(row, state, more)
  db.change(function()
    local now = require("store").peek("proposal", row.key)
    if not now then report.fail("the proposal is gone") end
    local plain = db.plain(now)
    plain.state = state
    for k, v in pairs(more or {}) do plain[k] = v end
    return { { op = "put", db = "proposal", key = row.key, version = now.version, plain = plain } }
  end)
end

local function pending(id)
  local row = named(id)
  local state = proposals.state(row.record, require("time").wall())
  if state ~= "pending" then report.fail(("'%s' is %s already"):format(id, state), "sallyport proposal list") end
  return row
end

local function approve(args, opt, ctx)
  db.open(ctx)
  local row = pending(args[1])
  local r, only, hosts = row.record, nil, {}
  local names = {}
  for i, s in ipairs(r.services) do names[i] = s.name end
  local function known(name)
    for _, n in ipairs(names) do
      if n == name then return name end
    end
    report.usage(("the proposal has no service '%s'"):format(report.clean(name):sub(1, 64)),
      "it has " .. table.concat(names, ", "))
  end
  for _, name in ipairs(opt.only or {}) do only = only or {}; only[known(name)] = true end
  for _, text in ipairs(opt.host or {}) do
    local name, host = text:match("^([^=]+)=(.+)$")
    if not name then report.usage("--host is SERVICE=HOST", "--host stripe=api.stripe.com") end
    hosts[known(name)] = host
  end
  local given, todo = given_of(r, table.move(args, 2, #args, 1, {}), ctx), {}
  for _, s in ipairs(r.services) do
    if not only or only[s.name] then
      local command, typed = command_of(r, s, given, { host = hosts, method = opt.method })
      todo[#todo + 1] = { service = s, args = command, typed = typed }
    end
  end
  local made, commands = report.array(), require "web.commands"
  for _, t in ipairs(todo) do
    local got = commands.run(t.args, { home = ctx.home, typed = t.typed, within = ctx })
    if got.error then
      if made[1] then settle(row, "applied", { reason = ("in part: %s"):format(table.concat(made, ", ")) }) end
      report.fail(("%s: %s%s"):format(t.service.name, got.error.message,
        made[1] and ("; made before it: " .. table.concat(made, ", ")) or ""), got.error.hint)
    end
    made[#made + 1] = t.service.name
    for _, text in ipairs(got.notes) do
      if text:find("sign in", 1,
        true) then ctx.note(("Next, sign in to the account: sallyport connect %s"):format(t.service.name)) end
    end
  end
  settle(row, "applied", { reason = #made < #r.services and ("in part: %s"):format(table.concat(made, ", ")) or nil })
  ctx.note(("Approved: %s. It counts from the next request."):format(table.concat(made, ", ")))
  report.answer(ctx, shape(named(args[1]).record))
  return 0
end

local function reject(args, opt, ctx)
  local reason = opt.reason
  if reason and (#reason > 500 or reason:find("%c")
    or not utf8.len(reason)) then report.usage("--reason is a line of at most 500 bytes") end
  db.open(ctx)
  settle(pending(args[1]), "rejected", { reason = reason })
  ctx.note("Rejected: the agent reads so when it looks.")
  report.answer(ctx, shape(named(args[1]).record))
  return 0
end

return {
  { words = "proposal list", max = 0, summary = "what agents ask for", run = list },
  { words = "proposal show", args = "PROPOSAL", min = 1, max = 1, summary = "one of them, and what it would allow", run = show },
  { words = "proposal approve", args = "PROPOSAL [KEY=@FILE …]", min = 1, max = math.huge,
    summary = "makes it so, whole or in part",
    options = {
      { name = "only", arg = "SERVICE", many = true, help = "this service of it, and not the others" },
      { name = "host", arg = "SERVICE=HOST", many = true, help = "another host in the place of the one that was asked for" },
      { name = "method", arg = "METHOD", many = true, help = "its credentials go out with this method alone" },
    },
    help = [[
Adds what an agent has asked for to the bundle that it was asked for: credentials with the secrets that you give, and hosts
without one. A service is added as `credential add` or `domain add` adds it, with the same checks. A user name of basic
authentication and an OAuth client's id are given as they are; a token that is to be pasted is KEY.refresh_token=@FILE.

examples:
  sallyport proposal approve 3f2a91c0 STRIPE_KEY=@stripe.key
  sallyport proposal approve 3f2a91c0 --only docs
  sallyport proposal approve 3f2a91c0 DRIVE.client_id=1.apps.example.com DRIVE.client_secret=@secret
]], run = approve },
  { words = "proposal reject", args = "PROPOSAL", min = 1, max = 1, summary = "says no to it",
    options = { { name = "reason", arg = "TEXT", help = "what the agent reads" } }, run = reject },
}
