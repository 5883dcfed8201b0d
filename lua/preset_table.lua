--- The table of policies/presets.lua, checked when it is compiled. presets.lua asks it.
-- A preset is { name, title, words = list, type, hosts, paths, fields, headers, rows, ask, env = list, placeholder,
-- carriers = { headers, query, body }, within = list, mint and seal = compiled rows, make, test, test_headers, note,
-- with, without_mint = maps of variables, file, files = list of hosts }.
local M = {}

local PRESETS_MAX = 500   -- of one file; its size is bounded too

local keys = {
  name = "string", title = "string", words = "table", type = "string", hosts = "table", paths = "table", methods = "table",
  fields = "table", headers = "table", rows = "table", ask = "table", env = "table", placeholder = "string",
  carriers = "table", within = "table", mint = "table", seal = "table", make = "string", test = "string", test_headers = "table", note = "string",
  with = "table", without_mint = "table", file = "string", files = "table",
}

--- "{site}.example.com" -> "site.example.com", "site"; a host without a gap as it is.
function M.filled(host)
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

local function variable_ok(name, value)
  local _, why = require("records").env_name(name)
  if why then return nil, why end
  if type(value) ~= "string" or value:find("%c") then return nil, name .. " is no text for a variable" end
  return true
end

-- Each part with what it must be; `p` is the copy that we keep. nil, why.
local parts = {
  function(p, given)
    p.title, p.type, p.placeholder, p.make, p.note = given.title, given.type, given.placeholder, given.make, given.note
    p.test, p.file = given.test, given.file
    if p.file and p.file ~= "kubeconfig" then return nil, "file is kubeconfig, or left out" end
    if not (p.title and p.type and p.make) then return nil, "it needs a title, a type and where its key is made" end
    if not p.placeholder then return true end
    return require("records").shape(p.placeholder)
  end,
  function(p)
    if #p.hosts == 0 then return nil, "it has no host" end
    return check_list(p.hosts, function(h) return require("records").host((M.filled(h))) end)
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
    if p.ask then p.with, why = check_map(given.with, variable_ok) end
    if p.with then p.without_mint, why = check_map(given.without_mint, variable_ok) end
    return p.without_mint and true or nil, why
  end,
  function(p)
    return check_list(p.files, function(host)
      return require("http").canonical_host(host) == host or nil, ("files has '%s', which is no host"):format(host)
    end)
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
  function(p, given)
    local why, i, key
    p.seal, why, i, key = require("seal").compile(given.seal or {})
    return p.seal and true or nil, "seal " .. tostring(why), { "seal", i }, key
  end,
}

local lists = { "words", "hosts", "paths", "methods", "env", "within", "files" }

--- A copy of a value, deep, without metatables: what a preset says may be changed by whoever takes it over.
local function copied(v)
  if type(v) ~= "table" then return v end
  local out = {}
  for k, item in pairs(v) do out[k] = copied(item) end
  return out
end
M.copied = copied

local function compile_one(check, given, name, i)
  local p, at = { name = name }, { "presets", i }
  if not check:keys(given, keys, "preset '" .. name .. "'", at) then return nil end
  for _, key in ipairs(lists) do
    p[key] = check:strings(given[key] or {}, key, at)
    if not p[key] then return nil end
  end
  for _, part in ipairs(parts) do
    local ok, why, within, key = part(p, given)
    if not ok then
      return check:fail(key, ("preset '%s': %s"):format(name, tostring(why)), within and { "presets", i, within[1], within[2] } or at)
    end
  end
  p.carriers = check:carriers(given.carriers or {})
  p.rows = given.rows and copied(given.rows)  -- what they mean is said where a credential with rows is kept
  return p.carriers and p
end

-- The kinds of keys that a prefix tells, longest prefix first: { prefix, shape }. Each is a shape, of which what stands
-- before its first "{" is the prefix, or a pair. Those of presets count where nobody could have such a prefix by chance.
local function compile_kinds(check, given, pol)
  local list, seen = {}, {}
  local function add(prefix, shape)
    if not seen[prefix] then list[#list + 1] = { prefix, shape } end
    seen[prefix] = true
  end
  for i, kind in ipairs(given) do
    local prefix, shape = kind, kind
    if type(kind) == "table" then prefix, shape = kind[1], kind[2] end
    local ok, why = require("records").shape(type(shape) == "string" and shape or "")
    if prefix == shape and ok then prefix = shape:match("^[^{]*") end
    if not ok or type(prefix) ~= "string" or #prefix < 3 or shape:sub(1, #prefix) ~= prefix then
      return check:fail("kinds", ("kinds: item %d: %s"):format(i, why or "a shape begins with its prefix, of three letters or more"))
    end
    add(prefix, shape)
  end
  for _, p in ipairs(pol.presets) do
    local prefix = (p.placeholder or ""):match("^([^{]*)")
    if #prefix >= 3 and prefix:find("[_.-]$") then add(prefix, p.placeholder) end
  end
  table.sort(list, function(a, b) return #a[1] > #b[1] end)
  return list
end

--- The table of a policy of kind presets, checked (check: policy.lua's) and taken over into pol.
function M.compile(check, t, pol)
  pol.presets, pol.by_preset, pol.shapes = {}, {}, {}
  for i, given in ipairs(t.presets or {}) do
    local name = type(given) == "table" and given.name
    if type(name) ~= "string" or not name:find("^%l[%l%d-]*$") or #name > 40 then
      return check:fail("presets", ("preset %d has no name of small letters, digits and -"):format(i))
    end
    if pol.by_preset[name] then return check:fail("name", ("preset '%s' occurs twice"):format(name), { "presets", i }) end
    local p = compile_one(check, given, name, i)
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
  pol.kinds = compile_kinds(check, t.kinds or {}, pol)
  return pol.kinds and pol
end

return M
