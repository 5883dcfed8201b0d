--- sallyport credential presets, and what --preset brings to `credential add`.
local presets = require "presets"
local records = require "records"
local report = require "cli.report"
local seal = require "seal"
local terminal = require "cli.terminal"
local M = {}

local function all()
  local pol, why = presets.load()
  if not pol then report.fail(("the presets cannot be used: %s"):format(tostring(why)), "sallyport policy test presets") end
  return pol
end

local function need(name)
  local pol, names = all(), {}
  if pol.by_preset[name] then return pol.by_preset[name] end
  for i, p in ipairs(pol.presets) do names[i] = p.name end
  local near = records.nearest(name, names)
  for _, p in ipairs(near and {} or pol.presets) do  -- "jira", "gmail": a word of the title, or what people call it
    if (p.title .. " " .. table.concat(p.words, " ")):lower():find(name:lower(), 1, true) then near = p.name end
  end
  report.usage(("there is no preset '%s'"):format(report.clean(name):sub(1, 40)),
    near and ("did you mean %s?"):format(near) or "sallyport credential presets lists them")
end

--- The preset that the options name; what they leave out of type and scope is filled in from it. nil: none is named.
function M.named(opt)
  if not opt.preset then return nil end
  local p = need(opt.preset)
  if opt.type and opt.type ~= p.type then
    report.usage(("the preset %s is of type %s"):format(p.name, p.type), "leave --type out")
  end
  opt.type = p.type
  if not opt.host then
    local gap = presets.gap(p)
    if gap then
      report.usage(("--host is missing: %s goes to a host of your own"):format(p.name), "--host " .. gap)
    end
    opt.host = p.hosts
  end
  if not opt.path and #p.paths > 0 then opt.path = p.paths end
  if not opt.method and #p.methods > 0 then opt.method = p.methods end
  return p
end

-- What a person must give and has not: said before a secret is asked for. On a terminal, where to make one, too.
local function check_asked(p, into, ctx)
  local pol, wanted = require("policy_store").load(p.type), false
  local names = {}
  for label in pairs(p.ask) do names[#names + 1] = label end
  table.sort(names)
  for _, label in ipairs(names) do
    local name, member = label:match("^([^.]+)%.?(.*)$")
    local value, spec = into.values[name], pol and pol.by_name[name]
    if member ~= "" and value then value = value[member] end
    if value == nil and spec and records.is_secret(spec) then
      wanted = true
    elseif value == nil then
      report.usage(("%s is missing: %s"):format(label, p.ask[label]), label .. "=…")
    end
  end
  if wanted and ctx.host.isatty(0) then ctx.note("A key for it is made here: " .. p.make) end
end

-- A map of the preset under the members that were typed; anything else where nothing was.
local function lay_field(p, plain, into, name, value)
  local typed = into.values[name]
  if typed == nil then
    into.values[name] = type(value) == "string" and presets.fill(p, value, plain.hosts[1], into.values) or presets.copied(value)
  elseif type(typed) == "table" and type(value) == "table" and #value == 0 then
    for member, v in pairs(value) do
      if typed[member] == nil then typed[member] = v end
    end
  end
end

--- Lays the preset under what was typed.
function M.lay(p, plain, into, opt, ctx)
  plain.preset = p.name
  for name, value in pairs(p.fields) do lay_field(p, plain, into, name, value) end
  for name, value in pairs(p.headers) do
    name = name:lower()
    if not into.headers[name] and not into.sealed["h/" .. name] then into.headers[name] = value end
  end
  if p.rows and not opt.substitute then
    local why = require("rows").bare(p.rows)
    if why then
      report.fail(("preset '%s': rows: %s"):format(p.name, why),
        "sallyport policy edit presets; `sallyport policy show presets 0` has the built-in ones, or name the place here: --substitute")
    end
    plain.rows = presets.copied(p.rows)
  end
  if not into.env and not opt.env and p.env[1] then
    into.env = presets.copied(p.env)
    into.placeholder = into.placeholder or p.placeholder
  end
  check_asked(p, into, ctx)
end

--- Opens the hosts to which the API's answers lead, for reading and without the credential: { host, … } that were not open
-- before. Hosts that the credential itself goes to are not among them; with hosts of somebody's own there are none.
function M.open_files(p, plain)
  local db, own, opened = require "cli.db", {}, {}
  if table.concat(p.hosts, " ") ~= table.concat(plain.hosts, " ") then return opened end
  for _, host in ipairs(plain.hosts) do own[host] = true end
  if not p.files[1] then return opened end
  db.change(function()
    local ops, now = {}, require("time").wall()
    opened = {}
    for _, bundle in ipairs(plain.bundles) do
      for _, host in ipairs(p.files) do
        local key = bundle .. "/" .. host
        if not own[host] and not db.peek("bundle", key, "the domain entry") then
          ops[#ops + 1] = { op = "put", db = "bundle", key = key, version = 0,
            plain = { bundle = bundle, host = host, created = now, came_with = plain.name } }
          opened[#opened + 1] = host
        end
      end
    end
    return ops
  end)
  return opened
end

--- Operations that close what `open_files` opened for credentials that go: names = { [name] = true }. What another one's
-- preset needs in that bundle stays.
function M.close_files(names)
  local db, ops, needed, there = require "cli.db", {}, {}, {}
  for _, c in db.each("credential", "") do
    if c and not names[c.name] then there[c.name] = true end
    local p = c and not names[c.name] and c.preset and presets.get(c.preset)
    for _, host in ipairs(p and p.files or {}) do
      for _, bundle in ipairs(c.bundles or {}) do needed[bundle .. "/" .. host] = true end
    end
  end
  for key, d in db.each("bundle", "") do
    if d and d.came_with and not there[d.came_with] and not needed[key] then ops[#ops + 1] = { op = "del", db = "bundle", key = key } end
  end
  return ops
end

-- ---- listing -------------------------------------------------------------------------------------

local function public(p)
  local out = { name = p.name, title = p.title, type = p.type, fields = p.fields, headers = p.headers, ask = p.ask,
    placeholder = p.placeholder, make = p.make, file = p.file, test = p.test, note = p.note, with = p.with, without_mint = p.without_mint, carriers = { },
    mint = report.array(), seal = report.array() }
  for _, k in ipairs { "words", "hosts", "paths", "methods", "env", "within", "files" } do out[k] = report.array(presets.copied(p[k])) end
  for k, list in pairs(p.carriers) do out.carriers[k] = report.array(presets.copied(list)) end
  for _, k in ipairs { "mint", "seal" } do
    for i, row in ipairs(p[k]) do out[k][i] = { call = seal.call(row), what = row.what } end
  end
  return out
end

local function sorted(map, text)
  local list = {}
  for k, v in pairs(map) do list[#list + 1] = text(k, v) end
  table.sort(list)
  return list
end

local function field_text(name, value)
  if type(value) ~= "table" then return ("%s=%s"):format(name, tostring(value)) end
  if #value > 0 then return ("%s=%s"):format(name, table.concat(value, " ")) end
  return table.concat(sorted(value, function(k, v) return ("%s.%s=%s"):format(name, k, v) end), " ")
end

local function one(ctx, p)
  local rows = {}
  local function lines(name, list)
    for i, text in ipairs(list) do rows[#rows + 1] = { i == 1 and name or "", text } end
  end
  lines("preset", { p.name })
  lines("title", { p.title })
  lines("type", { p.type })
  lines("hosts", p.hosts)
  lines("paths", p.paths)
  lines("methods", p.methods)
  lines("within", p.within)
  lines("files", p.files)
  lines("fields", sorted(p.fields, field_text))
  lines("headers", sorted(p.headers, function(k, v) return ("%s: %s"):format(k, v) end))
  lines("to give", sorted(p.ask, function(k, v) return ("%s: %s"):format(k, v) end))
  lines("env", p.env)
  lines("placeholder", { p.placeholder })
  lines("with them", sorted(p.with, function(k, v) return ("%s=%s"):format(k, v) end))
  lines("", sorted(p.without_mint, function(k, v) return ("%s=%s, where such calls are refused"):format(k, v) end))
  local stripped = sorted(p.carriers.headers or {}, function(_, v) return v end)
  for _, text in ipairs(sorted(p.carriers.query or {}, function(_, v) return "?" .. v .. "=" end)) do
    stripped[#stripped + 1] = text
  end
  lines("stripped", stripped)
  local function calls(list)
    local out = {}
    for i, row in ipairs(list) do out[i] = ("%s: %s"):format(seal.call(row), row.what) end
    return out
  end
  lines("refused", calls(p.mint))
  lines("sealed", calls(p.seal))
  lines("test", { p.test })
  lines("make a key", { p.make })
  lines("note", { p.note })
  ctx.out(terminal.columns(ctx, nil, rows))
  local words, gap = { "sallyport credential add", p.name, "--preset", p.name }, presets.gap(p)
  if gap then words[#words + 1] = "--host " .. gap end
  local pol = require("policy_store").load(p.type)
  for _, label in ipairs(sorted(p.ask, function(k) return k end)) do
    if not (pol and pol.by_name[label] and records.is_secret(pol.by_name[label])) then words[#words + 1] = label .. "=…" end
  end
  ctx.note("\n  " .. table.concat(words, " "))
end

--- Puts an existing credential under a preset: what it strips, refuses (mint) and tests with. Its scope stays its own.
function M.attach(plain, name)
  local p = need(name)
  if p.type ~= plain.type then
    report.usage(("the preset %s is of type %s, and '%s' is of type %s"):format(p.name, p.type, plain.name, plain.type),
      "a credential of that type can be added beside it")
  end
  plain.preset = p.name
end

function M.run(args, _, ctx)
  require("store").open(ctx.home, {})   -- where there is none yet, the binary's own list is the list
  if args[1] then
    local p = need(args[1])
    if ctx.json then ctx.out(report.json(public(p))) else one(ctx, p) end
    return 0
  end
  local rows, out = {}, report.array()
  for i, p in ipairs(all().presets) do
    rows[i], out[i] = { p.name, p.title }, public(p)
  end
  ctx.out(ctx.json and report.json(out) or terminal.columns(ctx, { "PRESET", "WHAT" }, rows))
  if not ctx.json then ctx.note(require("cli.page").narrow "sallyport credential presets NAME says more, and where a key is made.\n") end
  return 0
end

return M
