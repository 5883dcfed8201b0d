--- log(…) of policies: what a line shows, its bounds, and where it goes.
-- Nobody listens unless a command or `serve --verbose` says so; a call then costs next to nothing.
local patterns, null, sandbox, secret = require "patterns", require("json").null, require "sandbox", require "secret"
local M = {}

local LINES_MAX = 20    -- of one call of a policy's function, or of what it does between two waits
local TEXT_MAX = 400    -- bytes of a line
local ITEMS_MAX = 16    -- members of a table that are shown
local DEEP = 3          -- tables within tables

local sink              -- function(policy, text) | nil
local heard = {}        -- policy -> the weak set of what endpoints wrote to its refreshes, as oauth.net notes it
local veiled            -- of the policy that calls

--- From here on every line goes to `to`(the policy's name, text); nil: nowhere. Answers who listened before.
function M.listen(to)
  local was = sink
  sink = to
  return was
end

--- From here on lines of that policy show "[answer]" for what an endpoint wrote: it may have written a secret.
function M.heard(name, seen)
  heard[name] = heard[name] or setmetatable({}, { __mode = "k" })
  heard[name][seen] = true
end

--- A text of anybody's as a part of one line: control bytes, and bytes that are not UTF-8, as \xNN.
function M.escape(text)
  local function hex(c) return ("\\x%02x"):format(c:byte()) end
  text = text:gsub("[%c]", hex)
  if not utf8.len(text) then text = text:gsub("[\128-\255]", hex) end
  return (text:gsub("\194([\128-\159])", function(c) return "\\xc2" .. hex(c) end))
end

--- The first `max` bytes of a text at most, which ends with a whole letter, and "…" where there was more.
function M.cut(text, max)
  if #text <= max then return text end
  while max > 0 and text:byte(max + 1) & 0xc0 == 0x80 do max = max - 1 end    -- not within a letter
  return text:sub(1, max) .. "…"
end
local cut = M.cut

local show

-- In one order, so that two runs can be compared.
local function show_table(t, deep)
  if deep >= DEEP then return "{…}" end
  local keys, parts, more = {}, {}, false
  for k in pairs(t) do
    if #keys == ITEMS_MAX then
      more = true
      break
    end
    keys[#keys + 1] = k
  end
  local function rank(k) return type(k) == "number" and k or math.huge, type(k) == "string" and k or "" end
  table.sort(keys, function(a, b)
    local n, text = rank(a)
    local m, other = rank(b)
    return n < m or n == m and text < other
  end)
  for i, k in ipairs(keys) do
    local name = math.type(k) == "integer" and "" or (type(k) == "string" and cut(k, 40) or "[" .. type(k) .. "]") .. " = "
    parts[i] = name .. show(t[k], deep + 1)
  end
  if more then parts[#parts + 1] = "…" end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

function show(v, deep)
  if secret.is(v) then return "[secret]" end
  if v == null then return "null" end
  local kind = patterns.lib.type(v) or type(v)
  if kind == "string" then
    for seen in pairs(veiled or {}) do v = require("oauth").without_answers(v, seen) end
    local text = cut(v, TEXT_MAX)
    return deep > 0 and '"' .. text .. '"' or text
  end
  if kind == "table" then return show_table(v, deep) end
  if kind == "number" or kind == "boolean" or kind == "nil" then return tostring(v) end
  return "[" .. kind .. "]"
end

--- The function `log` of the policy of that name.
function M.make(name)
  local turn, lines = 0, 0
  return function(...)
    if not sink then return end
    local _, now = sandbox.spent()
    if now ~= turn then turn, lines = now, 0 end
    lines = lines + 1
    if lines > LINES_MAX then
      if lines == LINES_MAX + 1 then sink(name, ("(more than %d lines: the others are not shown)"):format(LINES_MAX)) end
      return
    end
    local parts = {}
    veiled = heard[name]
    for i = 1, math.min(select("#", ...), ITEMS_MAX) do parts[i] = show((select(i, ...)), 0) end
    sink(name, cut(M.escape(cut(table.concat(parts, " "), TEXT_MAX)), 2 * TEXT_MAX))
  end
end

return M
