--- What commands print: data on standard output, advice on standard error, a failure as a sentence and a hint.
-- A failure is an error value, so that any helper can end the command; cli.main alone catches it.
local M = {}

function M.fail(message, hint) error({ exit = 1, message = message, hint = hint }, 0) end

function M.usage(message, hint) error({ exit = 2, message = message, hint = hint }, 0) end

--- A question to the person at the terminal, whom the caller has made sure of. What is not a yes is a no.
function M.ask(ctx, question)
  ctx.note(question .. " [y/N]")
  local answer = io.stdin:read("l")
  return answer ~= nil and answer:lower():find("^%s*y") ~= nil
end

-- ---- text ----------------------------------------------------------------------------------------

--- What an agent chose (a path, a name in a log) must not steer the operator's terminal.
function M.clean(s)
  s = tostring(s):gsub("[%z\1-\31\127]", function(c) return ("\\x%02x"):format(c:byte()) end)
  if not utf8.len(s) then s = s:gsub("[\128-\255]", function(c) return ("\\x%02x"):format(c:byte()) end) end
  return (s:gsub("\194[\128-\159]", function(c) return ("\\u%04x"):format(utf8.codepoint(c)) end))
end

local function width(s) return utf8.len(s) or #s end

--- Rows of cells as aligned lines below a head (nil: none); the last column is not padded.
function M.columns(head, rows)
  local widths, all = {}, { head }
  table.move(rows, 1, #rows, #all + 1, all)
  local count = #(all[1] or {})
  for i, row in ipairs(all) do
    local cells = {}
    for j = 1, count do
      cells[j] = M.clean(row[j] == nil and "" or row[j])
      widths[j] = math.max(widths[j] or 0, width(cells[j]))
    end
    all[i] = cells
  end
  for i, cells in ipairs(all) do
    for j = 1, count - 1 do cells[j] = cells[j] .. (" "):rep(widths[j] - width(cells[j])) end
    all[i] = table.concat(cells, "  "):gsub("%s+$", "")
  end
  return table.concat(all, "\n") .. "\n"
end

--- As many of the items as a cell of a listing has room for, and how many more there are.
function M.several(list, none)
  local text, n = "", 0
  for i, item in ipairs(list or {}) do
    if i > 1 and width(text) + width(item) > 30 then break end
    text, n = text .. (i > 1 and "," or "") .. item, i
  end
  if n == 0 then return none or "" end
  return n < #list and ("%s +%d"):format(text, #list - n) or text
end

--- A number of things in words: "1 request", "2 requests".
function M.count(n, word) return ("%d %s%s"):format(n, word, n == 1 and "" or "s") end

local TIME_MAX = 253402300799   -- s: the last of the year 9999; what comes after has no such text

--- Unix seconds as people and machines read them: RFC 3339, UTC. nil for what is no moment.
function M.time(s)
  if not s or s ~= s or s < 0 or s > TIME_MAX then return nil end
  return require("dates").iso(math.tointeger(s) or math.floor(s))     -- workers, which ask too, have no os
end

--- Unix milliseconds, with them.
function M.time_ms(ms)
  local whole = ms and M.time(ms // 1000)
  return whole and whole:sub(1, -2) .. (".%03dZ"):format(ms % 1000) or nil
end

--- A moment that somebody typed, in Unix ms: "15m" (so long before `now`, ms) or "2026-01-31", "2026-01-31T09:30",
-- "2026-01-31T09:30:15Z" (RFC 3339, UTC). nil, why.
function M.moment(s, now)
  local seconds = require("records").duration(s)
  if seconds then return now - 1000 * seconds end
  local y, m, d, rest = s:match("^(%d%d%d%d)-(%d%d)-(%d%d)(.*)$")
  local hour, minute, second, zone = "00", "00", "00", ""
  if rest and rest ~= "" then
    hour, minute, zone = rest:match("^[T ](%d%d):(%d%d)(.*)$")
    if hour and zone:find("^:%d%d") then second, zone = zone:sub(2, 3), zone:sub(4) end
    zone = zone and zone:gsub("^%.%d+", "")
  end
  local at = hour and (zone == "" or zone == "Z") and require("dates").seconds(y, m, d, hour, minute, second)
  if not at then return nil, "a time is 15m, 24h or 7d ago, or 2026-01-31, 2026-01-31T09:30:15Z (UTC)" end
  return 1000 * at
end

-- ---- JSON ----------------------------------------------------------------------------------------

--- An empty table is an object unless it says it is a list.
function M.array(t) return require("json").array(t or {}) end

-- Members with names of the operator's or a type's: whatever they hold is theirs.
local THEIRS = { fields = true, headers = true, variables = true, variables_off = true, split = true, ask = true, with = true, mcpServers = true }

-- Numbers under these names are Unix seconds in records; --json shows moments as text (RFC 3339).
local function is_moment(name)
  return type(name) == "string" and (name == "created" or name == "not_after" or name == "not_before" or name:find("_at$")) ~= nil
end

local function dated(v)
  if type(v) ~= "table" then return v end
  local out = getmetatable(v) == "json.array" and M.array() or {}
  for k, item in pairs(v) do
    if type(item) == "number" and is_moment(k) then
      out[k] = M.time(item)
    else
      out[k] = THEIRS[k] and item or dated(item)
    end
  end
  return out
end

--- One line.
function M.json_line(v) return require("json").encode(v) end

--- Indented, for --json. Members in alphabetical order, moments as text; a secret in it raises.
function M.json(v) return require("json").encode(dated(v), { indent = 2 }) .. "\n" end

--- The same as one line, where there are several.
function M.json_event(v) return require("json").encode(dated(v)) .. "\n" end

--- What a command that changes something answers with --json; without, its words alone are for people.
function M.answer(ctx, value) ctx.answer = value end

--- The answer of a command that makes a token, and the token, once.
function M.once(ctx, value, what, token)
  M.answer(ctx, value)
  ctx.note(("The %s, shown this once (the store keeps only its hash):"):format(what))
  ctx.out(token .. "\n")
  return 0
end

--- Options as a command has them that changes what is there: what is not named stays, so that no help may say a default.
function M.changing(options)
  local out = {}
  for i, o in ipairs(options) do
    local copy = {}
    for k, v in pairs(o) do copy[k] = v end
    copy.help = o.changes or o.help
    out[i] = copy
  end
  return out
end

return M
