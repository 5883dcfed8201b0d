--- sallyport proposal list, show, approve, reject: what agents ask for (lua/proposals.lua).
local db = require "cli.db"
local granting = require "granting"
local proposals = require "proposals"
local report = require "cli.report"
local terminal = require "cli.terminal"

local function named(id)
  return proposals.named(id) or report.fail(("there is no proposal '%s'"):format(report.clean(id)), "sallyport proposal list")
end

local function shape(r, accounts)
  local services, credentials, says = report.array(), report.array(), proposals.says(r, proposals.holders(r.bundle))
  local state = proposals.state(r, require("time").wall())
  for i, s in ipairs(r.services) do
    local rows = {}
    for j, row in ipairs(s.rows or {}) do
      local _, how, text = proposals.unnamed(row, s)
      rows[j] = { key = row.key, places = report.array(row.places), placeholder = row.placeholder, unnamed = how, says = text }
    end
    services[i] = { name = s.name, host = s.host, port = s.port, path = s.path, kind = s.kind, key = s.key, user_key = s.user_key,
      header = s.header, prefix = s.prefix, more = s.more and report.array(s.more), enabled = not s.off, remove = s.remove, made = s.made, left = s.left, substitutions = rows[1] and report.array(rows),
      says = says[i].text, warning = says[i].warning }
  end
  for i, c in ipairs(r.credentials) do
    credentials[i] = { key = c.key, description = c.description, obtain = c.obtain, obtain_instructions = c.obtain_instructions,
      oauth = c.oauth, value_sent = (c.sent or c.text) and state == "pending" or nil, value = c.text }
  end
  return { id = r.proposal, agent = r.agent, bundle = r.bundle, state = state,
    message = r.message, user_message = r.user_message,
    reason = r.reason, services = services, credentials = credentials, accounts = accounts and report.array(accounts), created = r.created, expires_at = r["until"] }
end

local function list(_, _, ctx)
  db.open(ctx)
  local rows, out, decided = {}, report.array(), {}
  for _, row in ipairs(proposals.all()) do
    local s = shape(row.record)
    table.insert(s.state == "pending" and out or decided, s)      -- what waits stands first
  end
  table.move(decided, 1, #decided, #out + 1, out)
  for i, s in ipairs(out) do
    local hosts = {}
    for j, x in ipairs(s.services) do hosts[j] = x.host end
    rows[i] = { s.id, s.state, s.agent, report.several(hosts), report.time(s.expires_at) }
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
    for _, row in ipairs(x.substitutions or {}) do
      if row.says then rows[#rows + 1] = { "", ("%s: --place %s=%s:PLACE"):format(row.says, x.name, row.placeholder) } end
    end
  end
  for _, c in ipairs(s.credentials) do
    rows[#rows + 1] = { "secret " .. c.key, table.concat({ c.description or "", c.obtain or "", c.obtain_instructions or "" },
      "  "):match("^%s*(.-)%s*$") }
    if c.value_sent then rows[#rows + 1] = { "", ("%s: --use %s"):format(proposals.sent(c.value), c.key) } end
  end
  rows[#rows + 1] = { "ends", s.state == "pending" and report.time(s.expires_at) }
  local kept = {}
  for _, r in ipairs(rows) do kept[#kept + 1] = r[2] and r or nil end
  ctx.out(terminal.columns(ctx, nil, kept))
  return 0
end

-- What was typed for the proposal's keys: secrets as handles, user names and client ids as texts.
local function given_of(r, texts, ctx)
  local fields, labels, out = require "cli.fields", granting.labels(r), {}
  for _, text in ipairs(texts) do
    local a, why = fields.assignment(ctx, text)
    if not a then report.usage(why, "KEY=@FILE, KEY=- or KEY=env:NAME") end
    local label = a.key and a.name .. "." .. a.key or a.name
    if not labels[label] then report.usage(("the proposal has no %s"):format(report.clean(label):sub(1, 64)),
      "sallyport proposal show " .. r.proposal) end
    if labels[label] == "plain" then out[label] = a.text else out[label] = fields.secret(ctx, a, label) end
  end
  return out
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
  local r, only = row.record, nil
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
  local function narrowed(option, example)
    local out = {}
    for _, text in ipairs(opt[option] or {}) do
      local name, value = text:match("^([^=]+)=(.+)$")
      if not name then report.usage(("--%s is SERVICE=%s"):format(option, option:upper()), example) end
      out[known(name)] = value
    end
    return out
  end
  local hosts, paths = narrowed("host", "--host stripe=api.stripe.com"), narrowed("path", "--path stripe=/v1")
  local methods = {}
  for _, text in ipairs(opt.method or {}) do
    local name, list = text:match("^([^=]+)=(.+)$")
    if name then known(name) end
    for _, s in ipairs(r.services) do
      -- those that are named for all are for credentials
      if s.name == name or not name and s.kind ~= "passthrough" then
        local more, why = proposals.methods(s, list or text)
        if why then report.usage("--method: " .. why) end
        methods[s.name] = table.move(more or {}, 1, #(more or {}), #(methods[s.name] or {}) + 1, methods[s.name] or {})
      end
    end
  end
  local places = {}
  for _, text in ipairs(opt.place or {}) do
    local name, value = text:match("^([^=]+)=(.+)$")
    local placeholder, list = (value or ""):match("^([%w._~-]+):(.+)$")
    local s, row
    for _, x in ipairs(r.services) do s = x.name == known(name or text) and x or s end
    for _, x in ipairs(s.rows or {}) do
      if proposals.unnamed(x) and (placeholder or x.placeholder) == x.placeholder then row = row and {} or x end
    end
    if not value or not row or not row.key then report.usage("--place is SERVICE=PLACEHOLDER:PLACE, of a placeholder whose place has no name",
      "--place bot=__bot_token__:path=/bot{}/**") end
    places[name] = places[name] or {}
    places[name][row.placeholder] = (places[name][row.placeholder] or "") .. "," .. (list or value)
  end
  local use = {}
  for _, key in ipairs(opt.use or {}) do
    for _, c in ipairs(r.credentials) do use[key] = use[key] or c.key == key and (c.sent or c.text) ~= nil or nil end
    if not use[key] then report.usage(("the agent sent no value for %s"):format(report.clean(key):sub(1, 64)), "sallyport proposal show " .. r.proposal) end
  end
  local given = given_of(r, table.move(args, 2, #args, 1, {}), ctx)
  local made, notes, accounts = granting.approve(row, given, { home = ctx.home, only = only, hosts = hosts, paths = paths,
    methods = methods, places = places, use = use, page = ctx.page })
  for _, text in ipairs(notes) do ctx.note(text) end
  for _, name in ipairs(accounts) do ctx.note(("Next, sign in to the account: sallyport connect %s"):format(name)) end
  ctx.note(("Approved: %s. It counts from the next request."):format(table.concat(made, ", ")))
  report.answer(ctx, shape(named(args[1]).record, accounts))
  return 0
end

local function reject(args, opt, ctx)
  local reason = opt.reason
  if reason and (#reason > 500 or reason:find("%c")
    or not utf8.len(reason)) then report.usage("--reason is a line of at most 500 bytes") end
  db.open(ctx)
  granting.reject(pending(args[1]), reason)
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
      { name = "path", arg = "SERVICE=PATH", many = true, whole = true, help = "no more than below this path" },
      { name = "place", arg = "SERVICE=PLACE", many = true, whole = true, help = "where a placeholder stands that was asked for without a name; SERVICE=PLACEHOLDER:PLACE" },
      { name = "use", arg = "KEY", many = true, help = "the value that the agent sent along for it, which it knows" },
      { name = "method", arg = "METHOD", many = true, whole = true, help = "its credentials go out with this method alone; SERVICE=GET,POST: one service, with these" },
    },
    help = [[
Adds what an agent has asked for to the bundle that it was asked for: credentials with the secrets that you give, and hosts
without one. A service is added as `credential add` or `domain add` adds it, with the same checks; all of them, or none. A user name of basic
authentication and an OAuth client's id are given as they are; a token that is to be pasted is KEY.refresh_token=@FILE.

examples:
  sallyport proposal approve 3f2a91c0 STRIPE_KEY=@stripe.key
  sallyport proposal approve 3f2a91c0 --only docs
  sallyport proposal approve 3f2a91c0 BOT=@bot.key --place 'bot=path=/bot{}/**'
  sallyport proposal approve 3f2a91c0 DRIVE.client_id=1.apps.example.com DRIVE.client_secret=@secret
]], run = approve },
  { words = "proposal reject", args = "PROPOSAL", min = 1, max = 1, summary = "says no to it",
    options = { { name = "reason", arg = "TEXT", help = "what the agent reads" } }, run = reject },
}
