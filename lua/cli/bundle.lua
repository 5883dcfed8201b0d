--- sallyport bundle add, list, show, set, attach, detach, enable, disable, remove; sallyport domain add, set, enable, disable, remove
local db = require "cli.db"
local records = require "records"
local variables = require "variables"
local report = require "cli.report"
local terminal = require "cli.terminal"
local shape = require "cli.shape"

local function need_name(text)
  local name, why = records.name(text)
  if not name then report.usage(why) end
  return name
end

local function joined(list, empty) return list and #list > 0 and table.concat(list, ",") or empty end

--- What bundles hold, read once: { bundle = { credentials = {names}, domains = {records}, agents = {names}, tenants = {names},
-- off = whether it is disabled } }.
local function contents()
  local all = {}
  local function of(name)
    all[name] = all[name] or { credentials = {}, domains = {}, agents = {}, tenants = {}, variables = {}, rules = {} }
    return all[name]
  end
  for _, c in db.each("credential", "") do
    for _, b in ipairs(c and c.bundles or {}) do table.insert(of(b).credentials, c.name) end
  end
  for _, a in db.each("agent", "a/") do
    for _, b in ipairs(a and not a.revoked and a.bundles or {}) do table.insert(a.kind == "tenant" and of(b).tenants or of(b).agents, a.name) end
  end
  for key, b in db.each("bundle", "") do
    local bundle = key:match("^([^/]+)/")
    if bundle and b then
      table.insert(of(bundle).domains, b)
    else
      of(key).variables, of(key).variables_off, of(key).off = b and b.variables or {}, b and b.variables_off, b and b.enabled == false
      for i, rule in ipairs(b and b.rules or {}) do of(key).rules[i] = rule.name end
    end
  end
  return all
end

local function domain_line(d)
  return ("%s%s  %s%s"):format(d.host, d.tunnel and "" or "  " .. joined(d.methods, "GET,HEAD,OPTIONS"), joined(d.ports, "443"),
    (d.paths and "  " .. joined(d.paths) or "") .. (d.tunnel and (d.tunnel == "raw" and "  tunnel=raw" or "  tunnel") or "") .. (d.tls and "  tls " .. d.tls or "")
      .. (d.addresses and "  " .. joined(d.addresses, "") or "") .. (d.enabled == false and "  disabled" or ""))
end

local function answer(ctx, name) report.answer(ctx, shape.bundle(name, contents()[name])) end

local function add(args, _, ctx)
  local name = need_name(args[1])
  db.open(ctx)
  db.change(function()
    local old, code = require("store").peek("bundle", name)
    if old then report.fail(("there is a bundle '%s' already"):format(name)) end
    return { { op = "put", db = "bundle", key = name, version = code ~= "damaged" and 0 or nil,
      plain = { name = name, created = require("time").wall() } } }
  end)
  ctx.note(("Made the bundle '%s'. Give it to an agent: sallyport agent set AGENT --bundle %s"):format(name, name))
  answer(ctx, name)
  return 0
end

local function list(_, _, ctx)
  db.open(ctx)
  local all, names, rows, out = contents(), {}, {}, report.array()
  for name in pairs(all) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local held = all[name]
    rows[i] = { name, held.off and "disabled" or "enabled", report.several(held.credentials, "-"), #held.domains, report.several(held.agents, "-") }
    out[i] = shape.bundle(name, held)
  end
  ctx.out(ctx.json and report.json(out) or terminal.columns(ctx, { "BUNDLE", "STATE", "CREDENTIALS", "DOMAINS", "AGENTS" }, rows))
  return 0
end

local function show(args, _, ctx)
  db.open(ctx)
  db.need("bundle", args[1])
  local held = contents()[args[1]]
  if ctx.json then
    ctx.out(report.json(shape.bundle(args[1], held)))
    return 0
  end
  local rows = { { "bundle", args[1] }, { "state", held.off and "disabled" or "enabled" }, { "agents", joined(held.agents, "-") }, { "credentials", joined(held.credentials, "-") } }
  for _, d in ipairs(held.domains) do rows[#rows + 1] = { "domain", domain_line(d) } end
  if held.tenants[1] then table.insert(rows, 4, { "tenants", joined(held.tenants) }) end
  if held.rules[1] then rows[#rows + 1] = { "rules", joined(held.rules) } end
  for _, v in ipairs(variables.lines(held.variables, held.variables_off)) do rows[#rows + 1] = { "variable", v } end
  ctx.out(terminal.columns(ctx, nil, rows))
  return 0
end

--- NAME=VALUE … over the bundle's variables.
local function set(args, opt, ctx)
  if #args == 1 and not opt.disable_variable and not opt.enable_variable then
    report.usage("nothing to change was named", "NAME=VALUE, --disable-variable NAME or --enable-variable NAME")
  end
  db.open(ctx)
  db.need("bundle", args[1])
  local plain
  db.change(function()
    local record = db.need("bundle", args[1])
    plain = db.plain(record)
    local ok, why = variables.change(plain, args, opt.disable_variable, opt.enable_variable)
    if not ok then report.usage(why, "sallyport bundle set BUNDLE TENANT=acme") end
    return { { op = "put", db = "bundle", key = args[1], version = record.version, plain = plain } }
  end)
  local left = variables.lines(plain.variables, plain.variables_off)
  ctx.note(("The variables of '%s' from the next request: %s"):format(args[1],
    left[1] and report.clean(table.concat(left, "  ")) or "none"))
  answer(ctx, args[1])
  return 0
end

-- enable and disable.
local function switch(on)
  return function(args, _, ctx)
    db.open(ctx)
    db.switch("bundle", args[1], function() return db.need("bundle", args[1]) end, on)
    ctx.note(on and ("'%s' is enabled from the next request."):format(args[1])
      or ("'%s' gives nothing from the next request: its agents are left with their other bundles."):format(args[1]))
    answer(ctx, args[1])
    return 0
  end
end

--- Puts credentials into a bundle, or takes them out.
local function move(into)
  return function(args, _, ctx)
    db.open(ctx)
    db.need("bundle", args[1])
    db.change(function()
      local ops = {}
      for i = 2, #args do
        local record = db.need("credential", args[i])
        local plain = db.plain(record)
        local bundles = {}
        for _, b in ipairs(plain.bundles or {}) do
          if b ~= args[1] then bundles[#bundles + 1] = b end
        end
        if into then bundles[#bundles + 1] = args[1] end
        plain.bundles = bundles
        ops[#ops + 1] = { op = "put", db = "credential", key = args[i], version = record.version, plain = plain,
          keep = true }
      end
      return ops
    end, ctx)
    ctx.note(("%s %s '%s'."):format(table.concat(args, ", ", 2), (args[3] and "are " or "is ") .. (into and "in" or "no longer in"), args[1]))
    if not ctx.gathers then answer(ctx, args[1]) end
    return 0
  end
end

local function remove(args, _, ctx)
  db.open(ctx)
  local name = args[1]
  local _, code = require("store").peek("bundle", name)
  if code ~= "damaged" then db.need("bundle", name) end   -- one that was changed on the disk can always be removed
  if name == "default" then report.fail("the bundle 'default' stays: new credentials and agents go there") end
  local held = contents()[name]
  if #held.credentials > 0 then
    report.fail(("'%s' still holds %s"):format(name, joined(held.credentials)),
      ("take them out first: sallyport bundle detach %s %s"):format(name, table.concat(held.credentials, " ")))
  end
  for _, of in ipairs { "agent", "tenant" } do
    local list = held[of .. "s"]
    if list[1] then report.fail(("'%s' is still granted to the %s %s"):format(name, of .. (list[2] and "s" or ""), joined(list)), ("sallyport %s set %s --bundle …"):format(of, of:upper())) end
  end
  db.change(function()
    local ops = { { op = "del", db = "bundle", key = name } }
    for key in db.each("bundle", name .. "/") do ops[#ops + 1] = { op = "del", db = "bundle", key = key } end
    return ops
  end)
  ctx.note(("Removed the bundle '%s', its domain entries and its rules."):format(name))
  report.answer(ctx, { removed = report.array { name } })
  return 0
end

local function checked(list, check, option, ctx)
  if not list then return nil end
  local out = {}
  for i, text in ipairs(list) do
    local value, why, advice = check(text)
    if value == nil then report.usage(("--%s: %s"):format(option, why)) end
    if advice then ctx.note("note: " .. advice) end
    out[i] = value
  end
  return out
end

-- What a domain entry cannot be, as it would stand after the change.
local function judge_domain(plain)
  local host, tunnel = plain.host, plain.tunnel
  if tunnel and host == "*" then
    report.usage("a tunnel is relayed unseen: name its hosts", "sallyport domain add BUNDLE pinned.example.com --tunnel")
  end
  if tunnel == "raw" and host:find("*", 1, true) then
    report.usage("a raw tunnel is anything that an agent likes to say: name its hosts, one by one",
      ("sallyport domain add %s db%s --port 5432 --tunnel=raw"):format(plain.bundle, host:sub(2)))
  end
  if tunnel and plain.paths then report.usage("a tunnel is relayed unseen: it has no paths that anybody could look at") end
  if tunnel and plain.methods then report.usage("a tunnel is relayed unseen: it has no methods that anybody could look at") end
  if plain.tls and host == "*" then report.usage("an old box has a name: name it") end
  if plain.tls and tunnel then report.usage("in a tunnel the client judges the server's TLS, not we", "leave out --tls") end
end

-- What the options say, over the record's plain part.
local function read_domain(plain, opt, ctx)
  if opt.tunnel and opt.tunnel ~= true and opt.tunnel ~= "raw" then report.usage("--tunnel is TLS with that host; --tunnel=raw is anything") end
  if opt.tls then
    local tls, why = records.tls(opt.tls)
    if not tls then report.usage("--tls: " .. why) end
    plain.tls = tls == "legacy" and tls or nil
  end
  plain.tunnel = opt.tunnel or plain.tunnel
  plain.paths = checked(opt.path, records.path, "path", ctx) or plain.paths
  plain.methods = checked(opt.method, records.method, "method", ctx) or plain.methods
  plain.ports = checked(opt.port, records.port, "port", ctx) or plain.ports
  plain.addresses = checked(opt.address, records.cidr, "address", ctx) or plain.addresses
  judge_domain(plain)
end

local function domain_host(text)
  local host, why = records.host(text, true)
  if not host then report.usage(why) end
  return host
end

-- Ends the command: the bundle has no such entry.
local function no_domain(bundle, host)
  local near = records.nearest(host, db.names("bundle", bundle .. "/"))
  report.fail(("'%s' has no domain entry for %s"):format(bundle, host),
    near and ("did you mean %s?"):format(near) or ("sallyport bundle show %s"):format(bundle))
end

local function need_domain(bundle, host)
  return db.peek("bundle", bundle .. "/" .. host, "the domain entry") or no_domain(bundle, host)
end

local function domain_add(args, opt, ctx)
  db.open(ctx)
  db.need("bundle", args[1])
  local plain = { bundle = args[1], host = domain_host(args[2]) }
  read_domain(plain, opt, ctx)
  local key, replaced = args[1] .. "/" .. plain.host, false
  db.change(function()
    local old = db.peek("bundle", key, "the domain entry")
    replaced = old ~= nil
    plain.created = old and old.created or require("time").wall()
    return { { op = "put", db = "bundle", key = key, version = old and old.version or 0, plain = plain } }
  end, ctx)
  ctx.note(("%s: agents with '%s' may reach %s"):format(replaced and "Replaced" or "Added", args[1],
    domain_line(plain)))
  if not ctx.gathers then answer(ctx, args[1]) end
  return 0
end

local clearable = { method = "methods", port = "ports", path = "paths", address = "addresses", tls = "tls", tunnel = "tunnel" }

--- What the options name is changed; the rest of the entry stays.
local function domain_set(args, opt, ctx)
  db.open(ctx)
  db.need("bundle", args[1])
  local host = domain_host(args[2])
  if not next(opt) then report.usage("nothing to change was named", "--method, --port, --path, --address, --tls, --tunnel, or --clear one of them") end
  for _, name in ipairs(opt.clear or {}) do
    if not clearable[name] then report.usage(("--clear does not know '%s'"):format(report.clean(name):sub(1, 40)), "it takes method, port, path, address, tls, tunnel") end
    if opt[name] then report.usage(("--clear=%s and --%s name one thing"):format(name, name)) end
  end
  local plain
  db.change(function()
    local old = need_domain(args[1], host)
    plain = db.plain(old)
    for _, name in ipairs(opt.clear or {}) do plain[clearable[name]] = nil end
    read_domain(plain, opt, ctx)
    return { { op = "put", db = "bundle", key = args[1] .. "/" .. host, version = old.version, plain = plain } }
  end)
  ctx.note(("Changed: agents with '%s' may reach %s"):format(args[1], domain_line(plain)))
  answer(ctx, args[1])
  return 0
end

local function domain_switch(on)
  return function(args, _, ctx)
    db.open(ctx)
    db.need("bundle", args[1])
    local host = domain_host(args[2])
    db.switch("bundle", args[1] .. "/" .. host, function() return need_domain(args[1], host) end, on)
    ctx.note(("%s of '%s' is %s from the next request."):format(host, args[1], on and "enabled" or "disabled"))
    answer(ctx, args[1])
    return 0
  end
end

local function domain_remove(args, _, ctx)
  db.open(ctx)
  db.need("bundle", args[1])
  local host = domain_host(args[2])
  local key = args[1] .. "/" .. host
  local _, code = require("store").peek("bundle", key)
  if code == "absent" then no_domain(args[1], host) end
  db.change(function() return { { op = "del", db = "bundle", key = key } } end, ctx)
  ctx.note(("Removed %s from '%s'."):format(host, args[1]))
  if not ctx.gathers then answer(ctx, args[1]) end
  return 0
end

local domain_options = {
  { name = "method", arg = "METHOD", many = true,
    help = "GET, HEAD and OPTIONS unless named; WEBSOCKET is the upgrade", changes = "WEBSOCKET is the upgrade; with none, GET, HEAD and OPTIONS" },
  { name = "port", arg = "PORT", many = true, help = "443 unless named", changes = "with none, 443" },
  { name = "path", arg = "PREFIX", many = true, whole = true, help = "all unless named; /v1 covers /v1 and /v1/…", changes = "/v1 covers /v1 and /v1/…; with none, all" },
  { name = "address", arg = "CIDR", many = true, help = "it may resolve to this private range" },
  { name = "tls", arg = "legacy", of = { "legacy", "strict" }, help = "an old box of your own network: takes its CN for a name, and CBC ciphers" },
  { name = "tunnel", arg = "raw", bare = true,
    help = "relay TLS unread, for clients that pin certificates; =raw: anything, such as a database's protocol" },
}
local domain_changes = report.changing(domain_options)
domain_changes[#domain_changes + 1] = { name = "clear", arg = "NAME", many = true, of = { "method", "port", "path", "address", "tls", "tunnel" },
  help = "take it off again: method, port, path, address, tls, tunnel" }

local grant = "bundles are given to agents: sallyport agent set AGENT --bundle BUNDLE"

return {
  { words = "bundle add", args = "NAME", min = 1, max = 1, summary = "a new, empty bundle", help = [[
A bundle is what an agent is granted: credentials, and hosts it may reach without one. `default` is there
from the start, and holds what names no other.

examples:
  sallyport bundle add research
  sallyport agent set claude --bundle research --bundle default
]], run = add },
  { words = "bundle list", max = 0, summary = "bundles and what they hold",
    help = [[
Lists bundles, what they hold and who has them.

example:
  sallyport bundle list --json
]],
      run = list },
  { words = "bundle show", args = "NAME", min = 1, max = 1, summary = "one bundle",
    help = [[
Shows one bundle.

example:
  sallyport bundle show default
]], run = show },
  { words = "bundle set", args = "BUNDLE [options] [NAME=VALUE …]", min = 1, options = variables.options, summary = "variables for the credentials in it",
    means = { agent = grant },
    help = [[
Sets variables that credentials of the bundle may hold as ${NAME} in plain fields, header values and hosts: a
tenant's name is written once. They are plain text, no secrets, and `bundle show` shows them. NAME= takes one
away; a disabled one is kept, as if it were not set, until it is enabled or set. An agent's own value comes first (`agent set`). A credential with a variable in a host does not cover that
host while the variable is not set, or is no single label of a host.

examples:
  sallyport bundle set research TENANT=acme REGION=eu-west-1
  sallyport bundle set research REGION=
]], run = set },
  { words = "bundle attach", args = "BUNDLE CREDENTIAL …", min = 2, summary = "put credentials into it",
    means = { agent = grant },
    help = [[
Puts credentials into a bundle; they may be in several.

example:
  sallyport bundle attach research gh search
]], run = move(true) },
  { words = "bundle detach", args = "BUNDLE CREDENTIAL …", min = 2, summary = "take credentials out",
    means = { agent = grant },
    help = [[
Takes credentials out of a bundle; they stay in the store.

example:
  sallyport bundle detach default gh
]], run = move(false) },
  { words = "bundle enable", args = "NAME", min = 1, max = 1, summary = "what it holds counts again", help = [[
Undoes `bundle disable`, from the next request.

example:
  sallyport bundle enable research
]], run = switch(true) },
  { words = "bundle disable", args = "NAME", min = 1, max = 1, summary = "keep it, but let it give nothing", help = [[
A disabled bundle gives its agents nothing, from the next request: no credential, host, variable or placeholder of it. They are left
with the other bundles that they hold; who holds no other may reach nothing, not what `default` holds either. New proposals of agents
whose first bundle it is are refused. A tunnel entry of another bundle stays shut to the hosts that this one reads. What was sealed by its credentials opens again once it is enabled.

example:
  sallyport bundle disable research
]], run = switch(false) },
  { words = "bundle remove", args = "NAME", min = 1, max = 1,
    summary = "an empty bundle goes, its domain entries too",
    help = [[
Removes a bundle that holds no credential and that no agent has.

example:
  sallyport bundle remove research
]], run = remove },
  { words = "domain add", args = "BUNDLE HOST", min = 2, max = 2,
    summary = "a host agents may reach without a credential",
    options = domain_options,
    help = [[
Lets agents that hold the bundle reach a host without any credential. HOST is a name, *.example.com for
everything below it, or '*' for the whole public internet. A credential for the same host comes first.
A tunnel is TLS that names the host of its CONNECT (SNI); where a client sends no name, or speaks something else,
--tunnel=raw relays whatever comes, to exact hosts alone. An entry of that host is replaced whole; `domain set` changes
a part of it.

examples:
  sallyport domain add default docs.example.org
  sallyport domain add default '*.example.net' --port 80,443
  sallyport domain add default registry.example.org --path '/@acme%2Fsite' --path /@acme/site
  sallyport domain add research '*'
  sallyport domain add default pinned.example.com --tunnel
  sallyport domain add default db.example.com --port 5432 --tunnel=raw
  sallyport domain add default printer.corp.example --address 10.0.0.0/8 --tls legacy
]], run = domain_add },
  { words = "domain set", args = "BUNDLE HOST", min = 2, max = 2, summary = "change what may be done there", options = domain_changes,
    help = [[
Changes a domain entry, named as `bundle show` shows it: each option takes the place of what stood there, and what no
option names stays.

--clear takes one off again, so that all paths count, say.

examples:
  sallyport domain set default docs.example.org --method GET,POST --port 443,8443
  sallyport domain set default docs.example.org --clear port
]], run = domain_set },
  { words = "domain enable", args = "BUNDLE HOST", min = 2, max = 2, summary = "it counts again", help = [[
Undoes `domain disable`, from the next request.

example:
  sallyport domain enable default docs.example.org
]], run = domain_switch(true) },
  { words = "domain disable", args = "BUNDLE HOST", min = 2, max = 2, summary = "keep it, but let nobody through by it", help = [[
A disabled entry matches nothing, from the next request: what another one allows goes on, such as a '*', but no tunnel entry
relays its host and ports unread; else agents are told 403 service_disabled. `domain add` of the same host puts a new entry in its place, which counts.

example:
  sallyport domain disable default docs.example.org
]], run = domain_switch(false) },
  { words = "domain remove", args = "BUNDLE HOST", min = 2, max = 2, summary = "it may be reached no more",
    help = [[
Removes a domain entry, named as `bundle show` shows it.

example:
  sallyport domain remove default docs.example.org
]], run = domain_remove },
}
