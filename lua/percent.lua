--- Percent-encoded texts (RFC 3986 2.1), read: one value, and the pairs of queries and forms. What writes them is lua/form.lua's.
local lua = require "unbounded"          -- a policy pays for these by the bytes of the text
local charge = require("sandbox.core").charge
local find, gsub, gmatch = lua.find, lua.gsub, lua.gmatch
local char = string.char
local M = {}

local PAIRS_MAX = 1000       -- of a form or query: a URL that long reaches no server
local READ, CALL = 16, 32    -- LUA_READ and LUA_CALL in proxy.c

local function text_of(s)
  if type(s) ~= "string" then error("bad argument #1 (string expected, got " .. type(s) .. ")", 3) end
  charge(#s // READ + CALL)
  return s
end

local function byte_of(digits) return char(tonumber(digits, 16)) end

-- nil: a "%" begins no %XX. Of such a one servers make different things: they keep it, drop it or fail.
local function decoded(s)
  if not find(s, "%", 1, true) then return s end
  local _, all = gsub(s, "%%", "%%")
  local plain, n = gsub(s, "%%(%x%x)", byte_of)
  return n == all and plain or nil
end

-- As decoded; a "+" is a space.
local function decoded_query(s)
  if find(s, "+", 1, true) then s = gsub(s, "%+", " ") end
  return decoded(s)
end

--- percent.decode(s) -> string | nil, "malformed". Decodes %XX; `+` stays.
function M.decode(s)
  local plain = decoded(text_of(s))
  if not plain then return nil, "malformed" end
  return plain
end

--- percent.parse(s) -> { {name, value}, … } | nil, "malformed" | "too_many"
-- A name without `=` has the value "". An empty piece (`a&&b`) is no pair.
function M.parse(s)
  local out, at = {}, 1
  text_of(s)
  while at <= #s do
    local stop = find(s, "&", at, true) or #s + 1
    if stop > at then
      if #out == PAIRS_MAX then return nil, "too_many" end
      local pair = s:sub(at, stop - 1)
      local eq = find(pair, "=", 1, true) or stop
      local name, value = decoded_query(pair:sub(1, eq - 1)), decoded_query(pair:sub(eq + 1))
      if not name or not value then return nil, "malformed" end
      out[#out + 1] = { name, value }
    end
    at = stop + 1
  end
  return out
end

local LOOSE_MAX = 128        -- bytes of a name or value; no rule looks for a longer one
local VALUES_MAX = 16

-- Unescaped where an escape is well formed, in lower case, without white space and control bytes around it. nil: more
-- than LOOSE_MAX bytes.
local function loose(s)
  local plain = gsub(gsub(gsub(s, "%+", " "), "%%(%x%x)", byte_of), "%c", " ")
  local from, _, to = find(plain, "[^ ]"), find(plain, "^.*[^ ]")
  if not from then return "" end
  return to - from < LOOSE_MAX and plain:sub(from, to):lower() or nil
end

--- percent.values(s, name…) -> { value, … } | nil, "too_many"
-- The values of the pairs with one of these names, which are in lower case; a value of more than LOOSE_MAX bytes counts as
-- "". For judging: a pair that our own rules refuse may still be one to a server, so it is read as the most forgiving of
-- them may (loose), and parted at `;` too (HTML 4.01 B.2.2: Rack 2, CGI.pm).
function M.values(s, ...)
  local asked, out = {}, {}
  text_of(s)
  for _, name in ipairs { ... } do asked[name] = true end
  for pair in gmatch(s, "[^&;]+") do
    local eq = find(pair, "=", 1, true) or #pair + 1
    local name = loose(pair:sub(1, eq - 1))
    if name and asked[name] then
      if #out == VALUES_MAX then return nil, "too_many" end
      out[#out + 1] = loose(pair:sub(eq + 1)) or ""
    end
  end
  return out
end

return M
