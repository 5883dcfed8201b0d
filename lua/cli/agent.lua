--- sallyport agent add, list, set, enable, disable, rotate, revoke, remove
local db = require "cli.db"
local home = require "cli.home"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"
local shape = require "cli.shape"
local tokens = require "cli.tokens"
local variables = require "variables"
local doors = require "doors"

local options = {
  { name = "bundle", arg = "BUNDLE", many = true, help = "what it is granted, in order; `default` unless named", changes = "what it is granted, in order" },
  { name = "ttl", arg = "TIME", help = "it ends after 90s, 24h, 7d, …; never unless named", changes = "it ends after 90s, 24h, 7d, … from now; or never" },
  { name = "uid", arg = "USER", many = true, help = "who comes through a Unix socket as this user is this agent; none: nobody" },
  { name = "from", arg = "CIDR|IFACE", many = true, help = "who comes from there, or in by that interface, without a token is this agent; none: nobody" },
  { name = "requests", arg = "N", help = "of it in progress at once, in a worker; 64 unless named. More wait, up to 30 s",
    changes = "of it in progress at once, in a worker. More wait, up to 30 s" },
}

local of_set = table.move(variables.options, 1, #variables.options, #options + 1, report.changing(options))

local REQUESTS_MAX = 10000      -- in progress: more connections than that no worker has for one agent

local function requests(text)
  local n = text:find("^%d+$") and math.tointeger(tonumber(text))
  if not n or n < 1 or n > REQUESTS_MAX then report.usage(("--requests is a number from 1 to %d"):format(REQUESTS_MAX)) end
  return n
end

local function expiry(text, now)
  if not text or text == "never" then return nil end
  local seconds, why = records.duration(text)
  if not seconds then report.usage("--ttl: " .. why) end
  return now + seconds
end

local PASSWD_MAX = 1 << 20

-- A user's number, by its name in /etc/passwd or as it stands. The kernel shows a user whom a user namespace does not know
-- as the overflow uid, which is nobody's for that reason.
local function user(ctx, text)
  local uid = text:find("^%d+$") and #text <= 10 and math.tointeger(tonumber(text))
  for line in (not uid and ctx.host.read_file("/etc/passwd", PASSWD_MAX) or ""):gmatch("[^\n]+") do
    local name, number = line:match("^([^:]*):[^:]*:(%d+):")
    if name == text then uid = math.tointeger(tonumber(number)) end
  end
  if not uid or uid >= 0xffffffff then report.usage(("--uid: there is no user '%s' in /etc/passwd"):format(report.clean(text))) end
  if uid == tonumber((ctx.host.read_file("/proc/sys/kernel/overflowuid", 64) or "65534"):match("%d+")) then
    report.usage(("--uid: %d stands for every user that this machine cannot name"):format(uid))
  end
  return tostring(uid)
end

-- What the options say of the agent's doors: { uid = list, from = list }, without what they do not name; nil: nothing.
local function doors_of(ctx, opt)
  if not opt.uid and not opt.from then return nil end
  local new = {}
  local function from(text)
    local range, why = records.cidr(text)
    local interface = not range and doors.interface(text)
    if interface and ("\n" .. (ctx.host.read_file("/proc/net/dev", 1 << 20) or "")):find("\n%s*" .. interface:gsub("%W", "%%%0") .. ":") then
      return interface
    end
    return range, interface and why .. ", nor an interface of this machine" or why
  end
  for kind, check in pairs { uid = function(text) return user(ctx, text) end, from = from } do
    local list = opt[kind]
    new[kind] = list and {}
    for _, text in ipairs(list and not (#list == 1 and list[1] == "none") and list or {}) do
      local value, why = check(text)
      if not value then report.usage(("--%s: %s"):format(kind, why)) end
      table.insert(new[kind], value)
    end
  end
  return new
end

-- The operations that give the agent these doors; `new` = {} takes nothing and gives nothing.
local function doors_ops(ctx, name, new)
  local record, code = require("store").peek("agent", doors.KEY)
  if code == "damaged" then
    ctx.note("note: which users and addresses are whose was changed on the disk, and counts no more: set --uid and --from again")
    record = nil
  end
  local plain, value, whose = doors.with(record, name, new)
  if value == "full" then report.fail(("all agents together have at most %d users and addresses"):format(doors.MOST)) end
  if not plain then
    report.fail(("%s is agent %s's"):format(value, whose), ("sallyport agent set %s --%s none"):format(whose, value:find "^%d+$" and "uid" or "from"))
  end
  return { { op = "put", db = "agent", key = doors.KEY, plain = plain,
    version = code ~= "damaged" and (record and record.version or 0) or nil } }
end

-- Operations by which the agent's doors are nobody's; none where it has none.
local function doors_shut(ctx, name)
  local had = doors.of(require("store").peek("agent", doors.KEY), name)
  return (had.uid or had.from) and doors_ops(ctx, name, { uid = {}, from = {} }) or {}
end

local function add(args, opt, ctx)
  local name, why = records.name(args[1])
  if not name then report.usage(why) end
  db.open(ctx)
  local now, through = require("time").wall(), doors_of(ctx, opt)
  local plain = { name = name, bundles = db.bundles(opt.bundle), created = now, revoked = false,
    expires_at = expiry(opt.ttl, now), requests = opt.requests and requests(opt.requests) }
  local token
  db.change(function()
    local old, code = require("store").peek("agent", "a/" .. name)  -- one that was changed on the disk is replaced
    if old and not old.revoked then
      report.fail(("there is %s '%s' already"):format(old.kind == "tenant" and "a tenant" or "an agent", name),
        old.kind == "tenant" and "sallyport tenant list" or ("sallyport agent rotate %s gives it a new token"):format(name))
    end
    local ops, kept = tokens.drop(name, now, "revoked"), nil
    table.move(through and doors_ops(ctx, name, through) or doors_shut(ctx, name), 1, 1, #ops + 1, ops)
    plain.series = tokens.series(ctx.host)
    token, kept = tokens.issue(ctx.host, name, "agent", nil, now, plain.series)  -- the agent's own expiry rules
    -- Over a revoked one it is another agent, with an id of its own.
    ops[#ops + 1] = { op = "put", db = "agent", key = "a/" .. name, plain = plain, fresh = true,
      version = code ~= "damaged" and (old and old.version or 0) or nil }
    ops[#ops + 1] = kept
    return ops
  end)
  report.once(ctx, shape.agent_named(name, token), "token", token)
  ctx.note(("'%s' holds %s. In its shell:\n  eval \"$(%s env --agent %s)\""):format(name,
    table.concat(plain.bundles, ", "),
    home.command(ctx), name))
  return 0
end

local function list(_, _, ctx)
  db.open(ctx)
  local now = require("time").wall()
  local held, rows, out, shared, varied = tokens.by_agent(now), {}, report.array(), false, false
  local came = false
  for key, a, damaged in db.each("agent", "a/") do
    if a and a.kind == "tenant" then goto tenant end     -- `tenant list` has them
    if not a or damaged then
      rows[#rows + 1] = { key:sub(3), "", "damaged: refused", "", "", "", "", "" }
      out[#out + 1] = { name = key:sub(3), state = "damaged" }
    else
      local mine = held[a.name] or {}
      local state = shape.agent_state(a, now)
      rows[#rows + 1] = { a.name, table.concat(a.bundles or {}, ","), state, #mine,
        a.expires_at and report.time(a.expires_at) or "never", a.requests or "",
        report.clean(table.concat(variables.lines(a.variables, a.variables_off), " ")), "" }
      shared, varied = shared or a.requests, varied or next(a.variables or a.variables_off or {}) ~= nil
      local said = shape.agent(a, mine, now)
      out[#out + 1] = said
      local ways = {}
      for _, uid in ipairs(said.uid or {}) do ways[#ways + 1] = "uid:" .. uid end
      rows[#rows][8] = table.concat(table.move(said.from or {}, 1, #(said.from or {}), #ways + 1, ways), ",")
      came = came or ways[1] ~= nil
    end
    ::tenant::
  end
  if ctx.json then
    ctx.out(report.json(out))
  elseif #rows == 0 then
    ctx.note("There are no agents yet: sallyport agent add NAME")
  else
    local titles = { "AGENT", "BUNDLES", "STATE", "TOKENS", "EXPIRES", "REQUESTS", "VARIABLES", "WITHOUT A TOKEN" }
    for _, list in ipairs { titles, table.unpack(rows) } do
      if not came then list[8] = nil end
      if not varied then table.remove(list, 7) end
      if not shared then table.remove(list, 6) end
    end
    ctx.out(terminal.columns(ctx, titles, rows, 3))
  end
  return 0
end

local function set(args, opt, ctx)
  if not (opt.bundle or opt.ttl or opt.requests or opt.uid or opt.from or opt.disable_variable or opt.enable_variable or args[2]) then
    report.usage("nothing to change was named", "--bundle B …, --ttl TIME|never, --requests N, --uid USER|none, --from CIDR|IFACE|none or NAME=VALUE …")
  end
  local through = doors_of(ctx, opt)
  local most = opt.requests and requests(opt.requests)
  db.open(ctx)
  local now = require("time").wall()
  local plain
  db.change(function()
    local record = db.need("agent", args[1])
    if record.revoked then
      report.fail(("'%s' is revoked"):format(args[1]), ("sallyport agent add %s begins anew"):format(args[1]))
    end
    tokens.refuse_tenant(record, "sallyport tenant set")
    plain = db.plain(record)
    if opt.bundle then plain.bundles = db.bundles(opt.bundle) end
    if opt.ttl then plain.expires_at = expiry(opt.ttl, now) end
    plain.requests = most or plain.requests
    local ok, why = variables.change(plain, args, opt.disable_variable, opt.enable_variable)
    if not ok then report.usage(why, "sallyport agent set AGENT TENANT=acme") end
    local ops = { { op = "put", db = "agent", key = "a/" .. args[1], version = record.version, plain = plain } }
    if through then ops[2] = doors_ops(ctx, args[1], through)[1] end
    return ops
  end)
  local set_here = variables.lines(plain.variables, plain.variables_off)
  ctx.note(("'%s' holds %s%s%s%s."):format(args[1], table.concat(plain.bundles, ", "),
    plain.expires_at and " until " .. report.time(plain.expires_at) or "",
    plain.requests and (", %s at once"):format(report.count(plain.requests, "request")) or "",
    set_here[1] and ", with " .. report.clean(table.concat(set_here, "  ")) or ""))
  report.answer(ctx, shape.agent_named(args[1]))
  return 0
end

local function rotate(args, _, ctx)
  db.open(ctx)
  local now = require("time").wall()
  local token
  db.change(function()
    local record = db.need("agent", args[1])
    tokens.refuse_tenant(record)
    if record.revoked then
      report.fail(("'%s' is revoked"):format(args[1]), ("sallyport agent add %s begins anew"):format(args[1]))
    end
    if record.expires_at and record.expires_at <= now then
      report.fail(("'%s' has ended: a new token would be good for nothing"):format(args[1]),
        ("sallyport agent set %s --ttl 7d"):format(args[1]))
    end
    local ops, kept = tokens.drop(args[1], now, "rotated"), nil
    record.series = tokens.series(ctx.host)
    token, kept = tokens.issue(ctx.host, args[1], "agent", nil, now, record.series)
    ops[#ops + 1] = tokens.touch(record)
    ops[#ops].moves = true
    ops[#ops + 1] = kept
    return ops
  end)
  report.once(ctx, shape.agent_named(args[1], token), "token", token)
  ctx.note(("Every older token of '%s' has ended, those of `env` too."):format(args[1]))
  return 0
end

-- enable and disable. Its tokens, bundles and doors stay; what was sealed for it does not (its record's epoch moves), as with a credential.
local function switch(on)
  return function(args, _, ctx)
    db.open(ctx)
    db.switch("agent", "a/" .. args[1], function()
      local record = db.need("agent", args[1])
      tokens.refuse_tenant(record)
      if record.revoked then
        report.fail(("'%s' is revoked"):format(args[1]), ("sallyport agent add %s begins anew"):format(args[1]))
      end
      return record
    end, on, not on)
    ctx.note(on and ("'%s' is enabled: its tokens are good again from the next request."):format(args[1])
      or ("'%s' is disabled: its requests are refused from the next one, open tunnels included. sallyport agent enable %s"):format(args[1], args[1]))
    report.answer(ctx, shape.agent_named(args[1]))
    return 0
  end
end

local function revoke(args, _, ctx)
  db.open(ctx)
  local now = require("time").wall()
  db.change(function()
    local record, code = require("store").peek("agent", "a/" .. args[1])
    -- One that was changed on the disk can always be revoked.
    if code == "damaged" then record = { name = args[1], bundles = {}, created = now } end
    if not record then record = db.need("agent", args[1]) end
    tokens.refuse_tenant(record, "sallyport tenant remove")
    local plain = db.plain(record)
    plain.revoked = true
    local ops = tokens.drop(args[1], now, "revoked")
    table.move(doors_shut(ctx, args[1]), 1, 1, #ops + 1, ops)
    ops[#ops + 1] = { op = "put", db = "agent", key = "a/" .. args[1], version = record.version, plain = plain,
      moves = true }
    return ops
  end)
  ctx.note(("'%s' is revoked: its tokens have ended, open tunnels included."):format(args[1]))
  report.answer(ctx, shape.agent_named(args[1]))
  return 0
end

-- An agent that is no more: its record, its tokens and the keys that were made for its sandbox.
local function remove(args, _, ctx)
  db.open(ctx)
  local name, now = args[1], require("time").wall()
  local _, code = require("store").peek("agent", "a/" .. name)
  if code ~= "damaged" then tokens.refuse_tenant(db.need("agent", name), "sallyport tenant remove") end   -- a damaged one can always be removed
  db.change(function()
    local ops = tokens.drop(name, now, "revoked")
    ops[#ops + 1] = { op = "del", db = "agent", key = "a/" .. name }
    table.move(doors_shut(ctx, name), 1, 1, #ops + 1, ops)
    for key in db.each("state", "k/") do
      if key:match("^k/[^/]+/(.*)$") == name then ops[#ops + 1] = { op = "del", db = "state", key = key } end
    end
    return ops
  end)
  ctx.note(("Removed '%s'; its tokens have ended, open tunnels included."):format(report.clean(name)))
  report.answer(ctx, { removed = report.array { name } })
  return 0
end

return {
  { words = "agent add", args = "NAME", min = 1, max = 1, options = options,
    summary = "a new caller; prints its token once",
    help = [[
Makes an agent and prints its proxy token, alone on standard output and only this once: the store keeps a
hash. The agent uses it as the password of the proxy URL; `sallyport env` sets everything for you.

examples:
  sallyport agent add claude
  sallyport agent add ci --bundle ci --bundle default --ttl 7d
  sallyport agent add claude > token.txt
]], run = add },
  { words = "agent list", max = 0, summary = "agents, their bundles and tokens",
    help = [[
Lists agents. With --json also their tokens' labels and times; never a token.

example:
  sallyport agent list
]], run = list },
  { words = "agent set", args = "AGENT [options] [NAME=VALUE …]", min = 1, options = of_set,
    summary = "change its bundles, its end, its share or its variables",
    help = [[
Replaces the agent's bundles, or sets when it ends (`--ttl never` removes the end). --requests says how many of its
requests a worker has in progress at once; what comes above waits its turn for 30 s, then it is told 429. NAME=VALUE is the agent's own
value of a variable, before that of a bundle (see `bundle set`); NAME= takes it away.

examples:
  sallyport agent set claude --bundle research --bundle default
  sallyport agent set ci --ttl 30d --requests 200
  sallyport agent set claude WORKSPACE=wrk_123
  sallyport agent set claude --uid bot
]], run = set },
  { words = "agent enable", args = "NAME", min = 1, max = 1, summary = "use it again, with the tokens it has",
    help = [[
Undoes `agent disable`, from the next request.

example:
  sallyport agent enable claude
]], run = switch(true) },
  { words = "agent disable", args = "NAME", min = 1, max = 1, summary = "it may do nothing until it is enabled",
    help = [[
Refuses every request of the agent, inside open tunnels too: 407, and 403 in a tunnel, with a message that says so. Its tokens, bundles
and sockets stay, so that `agent enable` is all it takes. What was sealed for it opens no more, even then. `agent revoke` is for a
token that somebody else may have.

example:
  sallyport agent disable claude
]], run = switch(false) },
  { words = "agent rotate", args = "NAME", min = 1, max = 1, summary = "a new token; every older one ends",
    help = [[
Prints a new token, once. Every older token of the agent ends at once, those that `env` made too.

example:
  sallyport agent rotate claude
]], run = rotate },
  { words = "agent revoke", args = "NAME", min = 1, max = 1, summary = "it may do nothing more",
    help = [[
Ends the agent's tokens at once, inside open tunnels too. `agent add` with the same name begins anew.

example:
  sallyport agent revoke claude
]], run = revoke },
  { words = "agent remove", args = "NAME", min = 1, max = 1, summary = "forget it, its tokens too",
    help = [[
Forgets the agent. Its tokens end at once, inside open tunnels too; the request log keeps its name.

example:
  sallyport agent remove claude
]], run = remove },
}
