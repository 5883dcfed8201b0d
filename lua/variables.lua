--- Variables: `${NAME}` in a credential's plain fields, header values and hosts, filled from the bundle through which
-- an agent has it (`bundle set B NAME=VALUE`), where the agent has no value of its own (`agent set A NAME=VALUE`).
-- Values are plain text, shown in listings. A name is capitals, digits and '_', so the `${method}` of a policy's own
-- template is none; `$${NAME}` stands for the text `${NAME}`, and every other dollar for itself. In a host a
-- variable is one whole label, and its value must be one: nobody's value brings a host of more labels.
local M = {}

local PLACE = "(%$?)%${(%u[%u%d_]*)}"
local NAME_MAX = 64
local VALUE_MAX = 1024      -- a workspace's id or a tenant's name, not a document
local COUNT_MAX = 64        -- of one bundle or agent
local LABEL_MAX = 63        -- RFC 1035 2.3.4

--- The types of fields in which a variable may stand; enum, integer and boolean are judged when they are saved.
M.field_types = { string = true, url = true, list = true, map = true }

function M.name(s)
  if #s > NAME_MAX or not s:find("^%u[%u%d_]*$") then
    return nil, "a variable's name is capitals, digits and '_': TENANT"
  end
  return s
end

function M.value(s)
  if #s > VALUE_MAX or s:find("[%z\1-\31\127]") or not utf8.len(s) then
    return nil, ("a variable's value is a text of at most %d bytes without control bytes"):format(VALUE_MAX)
  end
  return s
end

--- "NAME=VALUE" over what is set (nil: nothing yet); an empty value takes it away. The new table | nil, why.
function M.assign(set, text)
  local name, value = text:match("^([^=]*)=(.*)$")
  if not name then return nil, "a variable is given as NAME=VALUE" end
  local ok, why = M.name(name)
  if ok then ok, why = M.value(value) end
  if not ok then return nil, why end
  local out, count = {}, 0
  for k, v in pairs(set or {}) do out[k] = v end
  out[name] = value ~= "" and value or nil
  for _ in pairs(out) do count = count + 1 end
  if count > COUNT_MAX then return nil, ("there are at most %d variables"):format(COUNT_MAX) end
  return out
end

--- What a command says of the variables of a bundle's or an agent's `plain` record: "NAME=VALUE" texts behind the first, names to disable and to
-- enable. A disabled one is kept in variables_off, where nobody looks for a value. true | nil, why.
function M.change(plain, texts, disable, enable)
  local set, off, count = {}, {}, 0
  for k, v in pairs(plain.variables or {}) do set[k] = v end
  for k, v in pairs(plain.variables_off or {}) do off[k] = v end
  for i = 2, #texts do
    local new, why = M.assign(set, texts[i])
    if not new then return nil, why end
    set, off[texts[i]:match("^[^=]*")] = new, nil
  end
  for on, names in pairs { [false] = disable or {}, [true] = enable or {} } do
    for _, name in ipairs(names) do
      local value = set[name] or off[name]
      if not value then return nil, ("there is no variable '%s' here"):format(name) end
      set[name], off[name] = on and value or nil, not on and value or nil
    end
  end
  for _, part in ipairs { set, off } do
    for _ in pairs(part) do count = count + 1 end
  end
  if count > COUNT_MAX then return nil, ("there are at most %d variables"):format(COUNT_MAX) end
  plain.variables, plain.variables_off = next(set) and set or nil, next(off) and off or nil
  return true
end

--- The options of the commands that change variables.
M.options = {
  { name = "disable-variable", arg = "VARIABLE", many = true, help = "kept, but as if it were not set" },
  { name = "enable-variable", arg = "VARIABLE", many = true, help = "it counts again" },
}

--- "NAME=VALUE" lines in the order of the names, for listings.
function M.lines(set, off)
  local out = {}
  for name, value in pairs(set or {}) do out[#out + 1] = name .. "=" .. value end
  for name, value in pairs(off or {}) do out[#out + 1] = name .. "=" .. value .. " (disabled)" end
  table.sort(out)
  return out
end

--- Does a host of a record's, "*.suffix" for all below it, cover this one?
function M.covers(written, host)
  local suffix = written:match("^%*(%..+)$")
  return written == host or suffix ~= nil and #host > #suffix and host:sub(-#suffix) == suffix
end

-- ---- texts ---------------------------------------------------------------------------------------

--- Adds the names that occur in a value (a text, or a table of texts) to the set `into`.
function M.note(value, into)
  if type(value) == "table" then
    for _, v in pairs(value) do M.note(v, into) end
  elseif type(value) == "string" and value:find("${", 1, true) then
    for dollar, name in value:gmatch(PLACE) do
      if dollar == "" then into[name] = true end
    end
  end
end

--- Is there a "$${NAME}", which is to become "${NAME}"?
function M.escapes(value)
  if type(value) ~= "table" then return type(value) == "string" and value:find("%$%${%u[%u%d_]*}") ~= nil end
  for _, v in pairs(value) do
    if M.escapes(v) then return true end
  end
  return false
end

--- The value with every variable filled in: get(name) -> text | nil. nil, the name of one that is not set.
function M.fill(value, get)
  local missing
  local function text(s)
    if not s:find("${", 1, true) then return s end
    return (s:gsub(PLACE, function(dollar, name)
      if dollar ~= "" then return "${" .. name .. "}" end
      local v = get(name)
      missing = missing or not v and name or nil
      return v or ""
    end))
  end
  local out = value
  if type(value) == "string" then
    out = text(value)
  elseif type(value) == "table" then
    out = {}
    for k, v in pairs(value) do out[k] = type(v) == "string" and text(v) or v end
  end
  if missing then return nil, missing end
  return out
end

local function any() return "x" end

--- The value with something harmless in place of each variable: what can be judged before they have values.
function M.sample(value) return (M.fill(value, any)) end

-- ---- hosts ---------------------------------------------------------------------------------------

--- "api.${REGION}.example.com" -> "api.", "REGION", ".example.com"; nil for a host rule without a variable.
function M.host_parts(rule)
  if not rule:find("${", 1, true) then return nil end
  local before, name, after = rule:match("^([^$*]*)%${(%u[%u%d_]*)}([^$*]*)$")
  if not name or before ~= "" and before:sub(-1) ~= "." or after ~= "" and after:sub(1, 1) ~= "." then return nil end
  return before, name, after
end

--- A value as a label of a host, in small letters | nil: it is none.
function M.label(value)
  local label = value:lower()
  if #label > LABEL_MAX or not label:find("^[%w_-]+$") or label:find("^-") or label:find("-$") then return nil end
  return label
end

--- A host rule with its variable filled in; the rule itself where it has none. nil, name, value (nil: not set).
function M.host(rule, get)
  local before, name, after = M.host_parts(rule)
  if not before then return not rule:find("$", 1, true) and rule or nil end
  local value = get(name)
  local label = value and M.label(value)
  if not label then return nil, name, value end
  return before .. label .. after
end

--- A host rule with a variable as the store keeps it | nil, why. check(text): the canonical host without one.
function M.host_rule(text, check)
  local before, name, after = M.host_parts(text)
  if not before then
    return nil, "in a host a variable is one whole label, in capitals, and there is one: ${TENANT}.example.com"
  end
  if before == "" and not after:find("%w") then return nil, "a host has more than a variable: ${TENANT}.example.com" end
  local sample = before .. "x" .. after
  local host, why = check(sample)
  if not host then return nil, why end
  if #host ~= #sample then return nil, "write the host as it is, in lower case and without a dot at its end" end
  return host:sub(1, #before) .. "${" .. name .. "}" .. host:sub(#before + 2)
end

return M
