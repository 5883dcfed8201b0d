--- Presets: what policies/presets.lua says of well-known APIs, checked when it is compiled, and asked for by name.
-- A preset is { name, title, type, hosts, paths, fields, headers, rows, ask, env = list, placeholder,
-- carriers = { headers, query, body }, within = list, mint = compiled rows, make, test, test_headers, note }.
local M = {}

local PRESETS_MAX = 500   -- of one file; its size is bounded too

local keys = {
  name = "string", title = "string", type = "string", hosts = "table", paths = "table", methods = "table",
  fields = "table", headers = "table", rows = "table", ask = "table", env = "table", placeholder = "string",
  carriers = "table", within = "table", mint = "table", make = "string", test = "string", test_headers = "table", note = "string",
}

-- "{site}.example.com" -> "site.example.com", "site"; a host without a gap as it is.
local function filled(host)
  local gap
  local text = host:gsub("{(%l+)}", function(name)
    gap = name
    return name
  end)
  return text, gap
end

local function check_list(list, check)
  for _, item in ipairs(list) do
    local ok, why = check(item)
    if not ok then return nil, why end
  end
  return true
end

local function check_map(map, check)
  local out = {}
  for name, value in pairs(map or {}) do
    if type(name) ~= "string" then return nil, "a name is missing" end
    local ok, why = check(name, value)
    if not ok then return nil, why end
    out[name] = value
  end
  return out
end

local function plain_ok(name, value)
  if not name:find("^%l[%l%d_]*$") then return nil, ("'%s' is no field's name"):format(name) end
  if type(value) == "string" or math.type(value) == "integer" or type(value) == "boolean" then return true end
  for _, item in pairs(type(value) == "table" and value or { false }) do  -- a list or a map
    if type(item) ~= "string" then return nil, name .. " is no text, number, truth, list or map" end
  end
  return true
end

local function header_ok(name, value)
  local records, http = require "records", require "http"
  local _, why = records.header_name(name)
  if why then return nil, why end
  if type(value) ~= "string" or not http.field_value_ok(value) then return nil, name .. " has no header's value" end
  return true
end

local function text_ok(name, value)
  if type(value) ~= "string" then return nil, name .. " is no text" end
  return true
end

-- Each part with what it must be; `p` is the copy that we keep. nil, why.
local parts = {
  function(p, given)
    p.title, p.type, p.placeholder, p.make, p.note = given.title, given.type, given.placeholder, given.make, given.note
    p.test = given.test
    if not (p.title and p.type and p.make) then return nil, "it needs a title, a type and where its key is made" end
    if not p.placeholder then return true end
    return require("records").shape(p.placeholder)
  end,
  function(p)
    if #p.hosts == 0 then return nil, "it has no host" end
    return check_list(p.hosts, function(h) return require("records").host((filled(h))) end)
  end,
  function(p) return check_list(p.paths, require("records").path) end,
  function(p) return check_list(p.methods, require("records").method) end,
  function(p)
    return check_list(p.within, function(base)
      return base:sub(-1) == "/" and require("records").path(base), ("within: %s does not end in '/'"):format(base)
    end)
  end,
  function(p)
    if #p.env > 0 and not p.placeholder then return nil, "a variable needs the shape of its placeholder" end
    return check_list(p.env, require("records").env_name)
  end,
  function(p, given)
    local why
    p.fields, why = check_map(given.fields, plain_ok)
    if p.fields then p.headers, why = check_map(given.headers, header_ok) end
    if p.headers then p.test_headers, why = check_map(given.test_headers, header_ok) end
    if p.test_headers then p.ask, why = check_map(given.ask, text_ok) end
    return p.ask and true or nil, why
  end,
  function(p)
    if not p.test then return true end
    local url = p.test:gsub("{[%l_]+}", "x")
    return require("http").parse_url(url) and true or nil, "its test is no URL"
  end,
  function(p, given)
    local why
    p.mint, why = require("mint").compile(given.mint or {})
    return p.mint and true or nil, "mint " .. tostring(why)
  end,
}

local lists = { "hosts", "paths", "methods", "env", "within" }

--- A copy of a value, deep, without metatables: what a preset says may be changed by whoever takes it over.
local function copied(v)
  if type(v) ~= "table" then return v end
  local out = {}
  for k, item in pairs(v) do out[k] = copied(item) end
  return out
end
M.copied = copied

local function compile_one(check, given, name)
  local p = { name = name }
  if not check:keys(given, keys, "preset '" .. name .. "'", name) then return nil end
  for _, key in ipairs(lists) do
    p[key] = check:strings(given[key] or {}, key, name)
    if not p[key] then return nil end
  end
  for _, part in ipairs(parts) do
    local ok, why = part(p, given)
    if not ok then return check:fail("presets", ("preset '%s': %s"):format(name, tostring(why)), name) end
  end
  p.carriers = check:carriers(given.carriers or {})
  p.rows = given.rows and copied(given.rows)  -- what they mean is said where a credential with rows is kept
  return p.carriers and p
end

--- The table of a policy of kind presets, checked (check: policy.lua's) and taken over into pol.
function M.compile(check, t, pol)
  pol.presets, pol.by_preset, pol.shapes = {}, {}, {}
  for i, given in ipairs(t.presets or {}) do
    local name = type(given) == "table" and given.name
    if type(name) ~= "string" or not name:find("^%l[%l%d-]*$") or #name > 40 then
      return check:fail("presets", ("preset %d has no name of small letters, digits and -"):format(i))
    end
    if pol.by_preset[name] then return check:fail("name", ("preset '%s' occurs twice"):format(name), name) end
    local p = compile_one(check, given, name)
    if not p then return nil end
    pol.presets[i], pol.by_preset[name] = p, p
    for _, env in ipairs(p.env) do pol.shapes[env] = pol.shapes[env] or p.placeholder end
  end
  if #pol.presets > PRESETS_MAX then return check:fail("presets", ("more than %d presets"):format(PRESETS_MAX)) end
  for env, shape in pairs(t.shapes or {}) do
    local ok, why = require("records").shape(type(shape) == "string" and shape or "")
    if type(env) ~= "string" or not ok then return check:fail("shapes", ("%s: %s"):format(tostring(env), why)) end
    pol.shapes[env] = shape
  end
  return pol
end

-- ---- against the types ---------------------------------------------------------------------------

local function by_name(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  table.sort(names)
  return ipairs(names)  -- the same reason each time
end

local function field_fits(pol, name, value)
  local f = pol.by_name[name]
  if not f then return nil, ("its type %s has no field '%s'"):format(pol.name, name) end
  if require("records").is_secret(f) then return nil, ("'%s' is a secret of %s, which no preset holds"):format(name, pol.name) end
  local ok, why = require("policy").value(f, type(value) == "string" and value:gsub("{[%l_]+}", "x") or value)
  return ok, not ok and ("its field %s %s"):format(name, why) or nil
end

local function asks_for(pol, label)
  local name, member = label:match("^([^.]+)%.?(.*)$")
  local f = pol.by_name[name]
  if f and (member == "" or f.type == "map" or f.split and f.split[member]) then return true end
  return nil, ("it asks for '%s', which its type %s does not have"):format(label, pol.name)
end

local function rows_fit(pol, p)
  local rows = require "rows"
  for _, row in ipairs(p.rows or {}) do
    local place = type(row) == "table" and type(row.place) == "table" and table.concat(row.place, ",") or ""
    local ok, why = rows.parse(("%s:%s:%s"):format(type(row) == "table" and row.field, place, row.placeholder or ""))
    if not ok then return nil, "rows: " .. why end
  end
  local ok, why = rows.check(p.rows, pol, function() return true end, #p.env > 0)
  return ok, not ok and "rows: " .. why or nil
end

local function fits(p)
  local pol = require("policy").load(p.type)
  if not pol or pol.kind ~= "type" then return nil, ("there is no type '%s'"):format(p.type), "type" end
  local ok, why
  for _, name in by_name(p.fields) do
    ok, why = field_fits(pol, name, p.fields[name])
    if not ok then return nil, why, name end
  end
  for _, label in by_name(p.ask) do
    ok, why = asks_for(pol, label)
    if not ok then return nil, why, "ask" end
  end
  ok, why = rows_fit(pol, p)
  return ok, why, "rows"
end

--- Does each preset fit the type that it names, as that is now? Asked when the file is saved: one whose type is gone
-- later is refused when it is used. nil: check says why.
function M.fit(check, pol)
  for _, p in ipairs(pol.presets) do
    local ok, why, key = fits(p)
    if not ok then return check:fail(key, ("preset '%s': %s"):format(p.name, why), p.name) end
  end
  return true
end

local function joined(v) return type(v) == "table" and table.concat(v, " ") or tostring(v) end

--- nil where the preset is what the example wants; else what differs.
function M.run_example(pol, ex)
  local p = pol.by_preset[ex.preset]
  if not p then return ("there is no preset '%s'"):format(tostring(ex.preset)) end
  for key, want in pairs(ex.want) do
    if joined(p[key]) ~= joined(want) then
      return ("%s is %s, the example wants %s"):format(tostring(key), joined(p[key]), joined(want))
    end
  end
end

-- ---- asking --------------------------------------------------------------------------------------

--- The presets in force: pol | nil, why.
function M.load()
  local pol, why = require("policy").load("presets")
  if pol and pol.kind == "presets" then return pol end
  return nil, why or "there are none"
end

--- One of them: preset | nil, why.
function M.get(name)
  local pol, why = M.load()
  if not pol then return nil, why end
  return pol.by_preset[name], ("policies/presets.lua has no '%s' any more"):format(tostring(name))
end

--- The shape of a placeholder by the variable that holds it, else by where the key goes; nil: unknown.
function M.shape_for(env, hosts)
  local pol = M.load()
  if not pol then return nil end
  if env and pol.shapes[env] then return pol.shapes[env] end
  for _, host in ipairs(hosts or {}) do
    for _, p in ipairs(pol.presets) do
      for _, known in ipairs(p.placeholder and p.hosts or {}) do
        if known == host then return p.placeholder end
      end
    end
  end
end

--- The hosts that --host must name: "YOUR-SITE.atlassian.net" for the first with a gap; nil: it has none.
function M.gap(preset)
  for _, host in ipairs(preset.hosts) do
    local _, gap = filled(host)
    if gap then return (host:gsub("{(%l+)}", function(name) return "YOUR-" .. name:upper() end)) end
  end
end

--- A text of the preset's with {host} and {FIELD} filled in; nil where one is not known. What a row of the preset puts
-- there stays: `credential test` knows "{FIELD}" as its placeholder.
function M.fill(preset, text, host, fields)
  local missing = false
  local out = text:gsub("{([%l_]+)}", function(name)
    for _, row in ipairs(preset.rows or {}) do
      if row.field == name then return nil end
    end
    local value = name == "host" and host or fields and fields[name]
    missing = missing or type(value) ~= "string"
    return type(value) == "string" and value or ""
  end)
  return not missing and out or nil
end

return M
