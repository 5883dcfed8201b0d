--- Percent-encoded texts (RFC 3986 2.1), read: one value, and the pairs of queries and forms. What writes them is lua/form.lua's.
local lua = require "unbounded"          -- a policy pays for these by the bytes of the text
local charge = require("sandbox.core").charge
local find, gsub = lua.find, lua.gsub
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

return M
