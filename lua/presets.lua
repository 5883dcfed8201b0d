--- Presets: what policies/presets.lua says of well-known APIs, asked for by name, and held against the types they name.
local policies = require "policy_store"
local policy = require "policy"
local preset_table = require "preset_table"
local records = require "records"
local rows = require "rows"
local M = {}

M.copied = preset_table.copied

-- ---- against the types ---------------------------------------------------------------------------

local function by_name(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  table.sort(names)
  return ipairs(names)  -- the same reason each time
end

local function field_fits(pol, name, value)
  local f = pol.by_name[name]
  if not f then return nil, ("its type %s has no field '%s'%s"):format(pol.name, name, policy.meant(name, pol.by_name)) end
  if records.is_secret(f) then return nil, ("'%s' is a secret of %s, which no preset holds"):format(name, pol.name) end
  local ok, why = policy.value(f, type(value) == "string" and value:gsub("{[%l_]+}", "x") or value)
  return ok, not ok and ("its field %s %s"):format(name, why) or nil
end

local function asks_for(pol, label)
  local name, member = label:match("^([^.]+)%.?(.*)$")
  local f = pol.by_name[name]
  if f and (member == "" or f.type == "map" or f.split and f.split[member]) then return true end
  return nil, ("it asks for '%s', which its type %s does not have"):format(label, pol.name)
end

local function rows_fit(pol, p)
  for _, row in ipairs(p.rows or {}) do
    local place = type(row) == "table" and type(row.place) == "table" and table.concat(row.place, ",") or ""
    local ok, why = rows.parse(("%s:%s:%s"):format(type(row) == "table" and row.field, place, row.placeholder or ""))
    if not ok then return nil, "rows: " .. why end
  end
  local ok, why = rows.check(p.rows, pol, function() return true end, #p.env > 0)
  return ok, not ok and "rows: " .. why or nil
end

local function fits(p)
  local pol = policies.load(p.type)
  if not pol or pol.kind ~= "type" then
    local near = records.nearest(p.type, require "policy_names")
    return nil, ("there is no type '%s'%s"):format(p.type, near and (": did you mean %s?"):format(near) or ""), "type"
  end
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
  for i, p in ipairs(pol.presets) do
    local ok, why, key = fits(p)
    if not ok then return check:fail(key, ("preset '%s': %s"):format(p.name, why), { "presets", i }) end
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
  local pol, why = policies.load("presets")
  if pol and pol.kind == "presets" then return pol end
  return nil, why or "there are none"
end

--- One of them: preset | nil, why.
function M.get(name)
  local pol, why = M.load()
  if not pol then return nil, why end
  return pol.by_preset[name], ("policies/presets.lua has no '%s' any more"):format(tostring(name))
end

-- By the variable that holds it, else by where the key goes.
local function usual_shape(pol, env, hosts)
  if env and pol.shapes[env] then return pol.shapes[env] end
  for _, host in ipairs(hosts or {}) do
    for _, p in ipairs(pol.presets) do
      for _, known in ipairs(p.placeholder and p.hosts or {}) do
        if known == host then return p.placeholder end
      end
    end
  end
  return records.SHAPE_DEFAULT
end

--- The shape of a placeholder: of the kind that a kept value's public prefix tells (values: secrets or texts, the first
-- that is of a known kind decides), else `usual`, else by the variable that holds it, else by where the key goes. Nothing
-- of a value but that prefix shows: the length is the kind's.
function M.shape_for(env, hosts, values, usual)
  local pol = M.load()
  if not pol then return usual or records.SHAPE_DEFAULT end
  usual = usual or usual_shape(pol, env, hosts)
  local own, begins = usual:match("^[^{]*"), require("secret.core").begins
  for _, value in ipairs(values or {}) do
    local fits = own ~= "" and begins(value, own)
    for _, kind in ipairs(pol.kinds) do
      if fits and #kind[1] <= #own then break end
      if begins(value, kind[1]) then return kind[2] end
    end
    if fits then return usual end
  end
  return usual
end

--- Is it a shape that shape_for may have answered, and no operator's own?
function M.is_known_shape(shape)
  local pol = M.load()
  if shape == nil or shape == records.SHAPE_DEFAULT then return true end
  for _, kind in ipairs(pol and pol.kinds or {}) do
    if kind[2] == shape then return true end
  end
  for _, p in ipairs(pol and pol.presets or {}) do
    if p.placeholder == shape then return true end
  end
  for _, known in pairs(pol and pol.shapes or {}) do
    if known == shape then return true end
  end
  return false
end

--- The hosts that --host must name: "YOUR-SITE.atlassian.net" for the first with a gap; nil: it has none.
function M.gap(preset)
  for _, host in ipairs(preset.hosts) do
    local _, gap = preset_table.filled(host)
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
