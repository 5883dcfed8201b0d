--- JSON (RFC 8259). Reading is C's (json.core), writing is here: the same value always makes the same text.
local core, secrets, join = require "json.core", require "secret", require("secret.core").join
local M = { decode = core.decode, null = core.null }

--- json.array(t) -> t. Marks the table as a list, so that an empty one is written as [].
function M.array(t)
  if type(t) ~= "table" then error("bad argument #1 (table expected, got " .. type(t) .. ")", 2) end
  local marked = getmetatable(t)
  if marked == "json.array" then return t end
  if marked ~= nil then error("bad argument #1 (has a metatable)", 2) end
  return setmetatable(t, core.list)
end

local DEEP = 64        -- as the reader takes it

-- How long a list is (keys 1..n and no other) | false, the sorted names of an object | nil, what is wrong
local function kind_of(t)
  local names, numbers, last = {}, 0, 0
  for k in next, t do
    if type(k) == "string" then names[#names + 1] = k
    elseif math.type(k) == "integer" and k > 0 then numbers, last = numbers + 1, math.max(last, k)
    else return nil, "a key that is neither a string nor 1, 2, 3…" end
  end
  local list = numbers > 0 or getmetatable(t) == "json.array"
  if numbers ~= last or list and #names > 0 then return nil, "a list with holes or names in it" end
  if list then return last end
  table.sort(names)
  return false, names
end

local function number(v)
  if math.type(v) == "integer" then return ("%d"):format(v) end
  if v - v ~= 0 then return nil, "a number that is not finite" end
  local text
  for digits = 15, 17 do        -- until it reads back
    text = ("%%.%dg"):format(digits):format(v)
    if tonumber(text) == v then break end
  end
  return text:find("[.e]") and text or text .. ".0"
end

local value             -- values nest

local function line(w, depth)
  if w.indent > 0 then w[#w + 1] = "\n" .. (" "):rep(w.indent * depth) end
end

-- nil, or what is wrong
local function container(w, t, depth)
  if depth >= DEEP then return ("nested deeper than %d, or in itself"):format(DEEP) end
  local list, names = kind_of(t)
  if list == nil then return names end
  w[#w + 1] = list and "[" or "{"
  for i = 1, list or #names do
    if i > 1 then w[#w + 1] = "," end
    line(w, depth + 1)
    local why
    if not list then
      why = value(w, names[i], depth + 1)
      w[#w + 1] = w.indent > 0 and ": " or ":"
    end
    why = why or value(w, rawget(t, list and i or names[i]), depth + 1)
    if why then return why end
  end
  if (list or #names) > 0 then line(w, depth) end
  w[#w + 1] = list and "]" or "}"
end

function value(w, v, depth)
  local kind, text, why = type(v), nil, nil
  if kind == "string" then
    if not utf8.len(v) then return "a string is not UTF-8" end
    text = secrets.json_string(v)
  elseif kind == "number" then text, why = number(v)
  elseif kind == "boolean" then text = tostring(v)
  elseif kind == "table" then return container(w, v, depth)
  elseif v == core.null then text = "null"
  elseif secrets.is(v) then
    if not w.secret then return "a secret (json.build makes a secret text)" end
    text = secrets.json_string(v)
  else why = ("a %s has no JSON form"):format(kind) end
  w[#w + 1] = text
  return why
end

--- json.build(value), json(value) -> string, or secret where a part is one
function M.build(v)
  local w = { indent = 0, secret = true }
  local why = value(w, v, 0)
  if why then error("json: " .. why, 2) end
  return join(w)
end

--- json.encode(value [, { indent = 2 }]) -> string. Names sorted; {} for an empty table that json.array has not marked.
-- Raises for what has no JSON form, a secret among it.
function M.encode(v, how)
  local indent = how ~= nil and rawget(how, "indent") or 0
  if math.type(indent) ~= "integer" or indent < 0 or indent > 8 then error("indent is 0 to 8", 2) end
  local w = { indent = indent }
  local why = value(w, v, 0)
  if why then error("json: " .. why, 2) end
  return table.concat(w)
end

return setmetatable(M, { __call = function(_, v) return M.build(v) end })
