--- sallyport rule add, list, show, set, enable, disable, move, remove: rules of traffic in bundles (lua/rules.lua).
local counting = require "cli.rule_counters"
local db = require "cli.db"
local fields = require "cli.fields"
local policy = require "policy"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"

local RULES_MAX = 100       -- of a bundle: each is asked in turn

local function type_named(name)
  local pol, why = require("policy_store").load(name)
  local rules = {}
  if pol and pol.kind == "rule" then return pol end
  for _, p in ipairs(require("cli.policy_versions").list()) do
    if p.kind == "rule" then rules[#rules + 1] = p.name end
  end
  local near = records.nearest(name, rules)
  report.fail(pol and ("%s is no rule, it is a %s"):format(name, pol.kind == "type" and "credential type" or "policy of the kind " .. pol.kind)
    or why or ("there is no rule type '%s'"):format(report.clean(name)),
    near and ("did you mean %s?"):format(near) or "there is " .. table.concat(rules, ", "))
end

--- Every rule: { bundle, rule, place } each, in the order of bundles and of their rules.
local function all()
  local out = {}
  for key, b in db.each("bundle", "") do
    for i, rule in ipairs(b and not key:find("/", 1, true) and b.rules or {}) do out[#out + 1] = { bundle = key, rule = rule, place = i } end
  end
  return out
end

local function named(name)
  local names = {}
  for _, row in ipairs(all()) do
    if row.rule.name == name then return row end
    names[#names + 1] = row.rule.name
  end
  local near = records.nearest(name, names)
  report.fail(("there is no rule '%s'"):format(report.clean(name)), near and ("did you mean %s?"):format(near) or "sallyport rule list")
end

local function checked(list, check, option)
  if not list then return nil end
  local out = {}
  for i, text in ipairs(list) do
    local value, why = check(text)
    if value == nil then report.usage(("--%s: %s"):format(option, why)) end
    out[i] = value
  end
  return out[1] and out or nil
end

-- Field values as they were typed, over those that are kept; as the type has them.
local function values_of(ctx, pol, texts, kept)
  local typed = fields.read(ctx, pol.fields, texts)
  for _, name in ipairs { "env", "placeholder", "mint", "scrub", "keep", "attach", "client_cert", "ca", "tls" } do
    if typed[name] ~= nil then report.usage(("a rule has no %s"):format(name)) end
  end
  if next(typed.headers) or next(typed.sealed) then report.usage("a rule has no headers") end
  local into = { values = {}, headers = {}, sealed = {} }
  for name, value in pairs(kept or {}) do into.values[name] = value end
  fields.over(into, typed, pol.fields)
  local ok, field, why = policy.check_credential(pol, into.values)
  if not ok then report.usage(field and ("%s %s"):format(field, why) or why, ("sallyport rule add --help; sallyport policy show %s"):format(pol.name)) end
  return into.values
end

-- What a person allowed for always: "AGENT: what it covers" each.
local function exceptions_of(rule)
  if not (rule.exceptions and rule.exceptions[1]) then return nil end
  local out = {}
  for i, e in ipairs(rule.exceptions) do out[i] = e.agent .. ": " .. e.covers end
  return out
end

local function shape(bundle, rule, place)
  local function array(list) return list and report.array(list) or nil end
  return { name = rule.name, type = rule.type, bundle = bundle, place = place, state = rule.enabled == false and "disabled" or "enabled",
    hosts = array(rule.hosts), methods = array(rule.methods), paths = array(rule.paths), fields = rule.fields or {},
    exceptions = array(exceptions_of(rule)), created = rule.created }
end

-- Changes the rules of a bundle by `edit(list) -> list`, which may run again.
local function change(bundle, edit)
  db.change(function()
    local record = db.peek("bundle", bundle, ("bundle '%s'"):format(bundle))
    local plain = record and db.plain(record) or { name = bundle, created = require("time").wall() }
    plain.rules = edit(plain.rules or {})
    if not plain.rules[1] then plain.rules = nil end
    return { { op = "put", db = "bundle", key = bundle, version = record and record.version or 0, plain = plain } }
  end)
end

local function place_of(list, name)
  for i, rule in ipairs(list) do
    if rule.name == name then return i end
  end
  report.fail(("the rule '%s' is gone"):format(name))
end

local function answer(ctx, name)
  local row = named(name)
  report.answer(ctx, shape(row.bundle, row.rule, row.place))
end

local function add(args, opt, ctx)
  local name, why = records.name(args[1])
  if not name then report.usage(why) end
  if not opt.type then report.usage("which type of rule?", ("sallyport rule add %s --type rate requests=100 window=60"):format(name)) end
  db.open(ctx)
  local pol, bundle = type_named(opt.type), opt.bundle or "default"
  if bundle ~= "default" or db.peek("bundle", bundle, "the bundle default") then db.need("bundle", bundle) end
  local rule = { name = name, type = pol.name, created = require("time").wall(),
    hosts = checked(opt.host, function(s) return records.host(s, true) end, "host"),
    methods = checked(opt.method, records.method, "method"), paths = checked(opt.path, records.path, "path"),
    fields = values_of(ctx, pol, table.move(args, 2, #args, 1, {})) }
  change(bundle, function(list)
    for _, row in ipairs(all()) do
      if row.rule.name == name then report.fail(("there is a rule '%s' already, in the bundle %s"):format(name, row.bundle), ("sallyport rule set %s"):format(name)) end
    end
    if #list >= RULES_MAX then report.fail(("a bundle has at most %d rules"):format(RULES_MAX)) end
    list[#list + 1] = rule
    return list
  end)
  ctx.note(("The rule '%s' is asked about what agents with '%s' may do, from the next request."):format(name, bundle))
  answer(ctx, name)
  return 0
end

-- The fullest counter of a rule, and how many more there are.
local function fullest(of)
  local c, more = of.counters[1], #of.counters + (of.more or 0) - 1
  if not c then return "-" end
  return ("%s%s%s"):format(c.of and c.of .. ": " or "", counting.said(c), more > 0 and (" +%d"):format(more) or "")
end

local function list(_, opt, ctx)
  db.open(ctx)
  local rows, out, shown = {}, report.array(), {}
  for _, row in ipairs(all()) do
    if not opt.bundle or opt.bundle == row.bundle then
      shown[#shown + 1], out[#out + 1] = row, shape(row.bundle, row.rule, row.place)
    end
  end
  if ctx.json then
    ctx.out(report.json(out))
    return 0
  end
  local counted, silent = counting.of(ctx, shown)
  for i, row in ipairs(shown) do
    local r = row.rule
    rows[i] = { row.bundle, row.place, r.name, r.type, r.enabled == false and "disabled" or "enabled", fullest(counted[i]),
      table.concat(r.hosts or { "every host" }, ",") }
  end
  ctx.out(terminal.columns(ctx, { "BUNDLE", "PLACE", "RULE", "TYPE", "STATE", "COUNTED", "HOSTS" }, rows))
  if silent then ctx.note(("note: what rules counted is not known: %s"):format(silent)) end
  return 0
end

-- Rows of what one rule counted, behind `head`.
local function counted_rows(of, silent, rows)
  for _, c in ipairs(of.counters) do
    rows[#rows + 1] = { "counted", ("%s%s%s"):format(c.of and (c.of == "" and "no credential: " or c.of .. ": ") or "", counting.said(c, true),
      c.count and c.ends_at and ", until " .. report.time(c.ends_at) or "") }
  end
  if of.more then rows[#rows + 1] = { "", ("and %d more"):format(of.more) } end
  if of.note then rows[#rows + 1] = { "", of.note } end
  local lacks = false
  for _, c in ipairs(of.counters) do lacks = lacks or not c.count end
  if silent and lacks then rows[#rows + 1] = { "", ("what is not here is not known: %s"):format(silent) } end
end

local function counters(args, _, ctx)
  db.open(ctx)
  local shown = args[1] and { named(args[1]) } or all()
  local out, silent = counting.of(ctx, shown)
  for _, of in ipairs(out) do of.silent = silent end
  if ctx.json then
    ctx.out(report.json(args[1] and out[1] or report.array(out)))
    return 0
  end
  local rows = {}
  for _, of in ipairs(out) do
    local mine = {}
    counted_rows(of, silent, mine)
    for i, row in ipairs(mine) do rows[#rows + 1] = { i == 1 and of.rule or "", row[2] } end
    if args[1] and not mine[1] then ctx.note(("A rule of the type %s says of no counter: sallyport policy help rule.counters"):format(of.type)) end
  end
  if rows[1] then ctx.out(terminal.columns(ctx, { "RULE", "COUNTED" }, rows)) end
  return 0
end

local function value_text(v) return type(v) == "table" and (v[1] and table.concat(v, ",") or require("json").encode(v)) or tostring(v) end

local function show(args, _, ctx)
  db.open(ctx)
  local row = named(args[1])
  local r = row.rule
  if ctx.json then
    ctx.out(report.json(shape(row.bundle, r, row.place)))
    return 0
  end
  local rows = { { "rule", r.name }, { "type", r.type }, { "bundle", ("%s, place %d"):format(row.bundle, row.place) },
    { "state", r.enabled == false and "disabled" or "enabled" }, { "hosts", table.concat(r.hosts or { "every host" }, ", ") } }
  if r.methods then rows[#rows + 1] = { "methods", table.concat(r.methods, ", ") } end
  if r.paths then rows[#rows + 1] = { "paths", table.concat(r.paths, ", ") } end
  for _, text in ipairs(exceptions_of(r) or {}) do rows[#rows + 1] = { "not asked", text } end
  local pol = require("policy_store").load(r.type)
  for _, f in ipairs(pol and policy.fields(pol) or {}) do
    local v = (r.fields or {})[f.name]
    if v ~= nil then rows[#rows + 1] = { f.name, value_text(v) }
    elseif f.default ~= nil then rows[#rows + 1] = { f.name, value_text(f.default) .. " (the default)" } end
  end
  local of, silent = counting.of(ctx, { row })
  counted_rows(of[1], silent, rows)
  ctx.out(terminal.columns(ctx, nil, rows))
  return 0
end

local clearable = { host = "hosts", method = "methods", path = "paths" }

local function set(args, opt, ctx)
  if not (args[2] or next(opt)) then report.usage("nothing to change was named", "FIELD=VALUE …, --host, --method, --path, or --clear one of them") end
  db.open(ctx)
  local name = args[1]
  local bundle = named(name).bundle
  change(bundle, function(rules)
    local rule = rules[place_of(rules, name)]
    local pol = type_named(rule.type)
    local kept = {}
    for k, v in pairs(rule.fields or {}) do kept[k] = v end
    for _, what in ipairs(opt.clear or {}) do
      if clearable[what] then
        if opt[what] then report.usage(("--clear=%s and --%s name one thing"):format(what, what)) end
        rule[clearable[what]] = nil
      elseif pol.by_name[what] then
        kept[what] = nil
      else
        report.usage(("--clear does not know '%s'"):format(report.clean(what):sub(1, 40)), "it takes host, method, path, or a field of the rule")
      end
    end
    rule.fields = values_of(ctx, pol, table.move(args, 2, #args, 1, {}), kept)
    if opt.ask_again then rule.exceptions = nil end
    if opt.host then rule.hosts = checked(opt.host, function(s) return records.host(s, true) end, "host") end
    if opt.method then rule.methods = checked(opt.method, records.method, "method") end
    if opt.path then rule.paths = checked(opt.path, records.path, "path") end
    return rules
  end)
  ctx.note(("The rule '%s' is asked as it is now from the next request."):format(name))
  answer(ctx, name)
  return 0
end

local function switch(on)
  return function(args, _, ctx)
    db.open(ctx)
    change(named(args[1]).bundle, function(rules)
      local rule = rules[place_of(rules, args[1])]
      if on then rule.enabled = nil else rule.enabled = false end
      return rules
    end)
    ctx.note(("The rule '%s' is %s."):format(args[1], on and "asked again" or "no longer asked"))
    answer(ctx, args[1])
    return 0
  end
end

local function move(args, _, ctx)
  local to = tonumber(args[2])
  if math.type(to) ~= "integer" or to < 1 then report.usage("a place is a number from 1: sallyport rule list shows them") end
  db.open(ctx)
  change(named(args[1]).bundle, function(rules)
    local rule = table.remove(rules, place_of(rules, args[1]))
    table.insert(rules, math.min(to, #rules + 1), rule)
    return rules
  end)
  ctx.note(("The rule '%s' is asked at place %d of its bundle."):format(args[1], named(args[1]).place))
  answer(ctx, args[1])
  return 0
end

local function remove(args, _, ctx)
  db.open(ctx)
  local name = args[1]
  change(named(name).bundle, function(rules)
    table.remove(rules, place_of(rules, name))
    return rules
  end)
  ctx.note(("Removed the rule '%s': nothing asks it any more."):format(name))
  report.answer(ctx, { removed = report.array { name } })
  return 0
end

local where = {
  { name = "host", arg = "HOST", many = true, help = "it is asked about this host alone, *.example.com: and all below; else about all" },
  { name = "method", arg = "METHOD", many = true, help = "about this method alone" },
  { name = "path", arg = "PATH", many = true, help = "about this path and what is below it" },
}

local function with(...) return table.move(where, 1, #where, select("#", ...) + 1, { ... }) end

return {
  { words = "rule add", args = "NAME --type T [FIELD=VALUE …]", min = 1, max = math.huge, summary = "a rule in a bundle", help = [[
A rule is asked about each request that its bundle allowed, before a credential is attached, and can refuse it. It never
allows anything. Rules are asked in their order, and the first refusal stands. `sallyport policy list` names the types, and
`sallyport policy show TYPE` is the manual page of one; `sallyport policy help rule` says how to write one.

examples:
  sallyport rule add slowly --type rate requests=60 window=60
  sallyport rule add by-day --type hours --bundle prod from=8:00 to=18:00 zone=+01:00
]], options = with({ name = "type", arg = "RULETYPE", help = "what kind of rule: a policy's name" },
      { name = "bundle", arg = "BUNDLE", help = "where it stands; else in `default`" }), run = add },
  { words = "rule list", args = "[--bundle B]", min = 0, max = 0, summary = "the rules of bundles, in their order",
    options = { { name = "bundle", arg = "BUNDLE", help = "of this bundle alone" } }, run = list },
  { words = "rule show", args = "NAME", min = 1, max = 1, summary = "one rule, with its fields and what it counted", run = show },
  { words = "rule counters", args = "[NAME]", min = 0, max = 1, summary = "what rules counted, as it stands now", help = [[
For each agent, credential or host that a rule counts for: how far it came, of how many, and when that begins anew. Those
nearest to their limit come first, 20 of a rule. The server says it, on its control socket; where none runs, there are those
that survive a restart. Nothing is counted by it.

examples:
  sallyport rule counters
  sallyport rule counters spend --json
]], run = counters },
  { words = "rule set", args = "NAME [FIELD=VALUE …]", min = 1, max = math.huge, summary = "changes fields, or what it is asked about",
    options = with({ name = "ask-again", act = true, help = "takes away what a person allowed for always" },
      { name = "clear", arg = "WHAT", many = true, help = "take off again: host, method, path, or a field, whose default counts then" }), run = set },
  { words = "rule enable", args = "NAME", min = 1, max = 1, summary = "has it asked again", run = switch(true) },
  { words = "rule disable", args = "NAME", min = 1, max = 1, summary = "keeps it, and does not ask it", run = switch(false) },
  { words = "rule move", args = "NAME PLACE", min = 2, max = 2, summary = "puts it at that place in its bundle; 1 is asked first", run = move },
  { words = "rule remove", args = "NAME", min = 1, max = 1, summary = "takes it out of its bundle", run = remove },
}
